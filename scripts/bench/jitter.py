"""How late the ticks of the control process come, idle and loaded, with and without priority.

    python -m scripts.bench.jitter [--rates 50 100 250] [--seconds 15]

Runs the whole control loop in a process of its own: a simulated arm of seven joints that follows a
policy's chunks, limited by the safety supervisor. "Loaded" means a busy process more than there are
cores. A tick's lateness is from its deadline to the moment at which the robot is asked.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from scripts.bench._jitter import Cell, Found, control

LIMIT = (
    "what else the machine does, and whether real-time priority is granted: without it, a process "
    "that wants a core waits for the scheduler's slice, some ms. Missed ticks are skipped."
)


@contextmanager
def load(is_loaded: bool) -> Iterator[None]:
    """Busy processes, one more than there are cores; none where it is not loaded."""
    spawn = multiprocessing.get_context("spawn")
    busy = [
        spawn.Process(target=_burn, daemon=True) for _ in range(len(os.sched_getaffinity(0)) + 1)
    ]
    busy = busy if is_loaded else []
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.terminate()
            process.join()


def _burn() -> None:
    while True:
        sum(range(10_000))


def run(cell: Cell, seconds: float) -> Found:
    """The loop in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    with load(cell.is_loaded):
        process = spawn.Process(target=control, args=(cell, seconds, send))
        process.start()
        send.close()  # so that a process that dies is noticed
        found: Found = receive.recv()
        process.join()
    return found


def row(cell: Cell, found: Found) -> dict[str, str]:
    """One line of the table."""
    p50, p99 = np.percentile(found.late_ms, (50, 99))
    asked = "granted" if found.granted else "NOT granted"
    return {
        "rate": f"{cell.rate_hz:g} Hz",
        "machine": "loaded" if cell.is_loaded else "idle",
        "priority": asked if cell.has_priority else "none",
        "p50 ms": f"{p50:.3f}",
        "p99 ms": f"{p99:.3f}",
        "largest ms": f"{found.late_ms.max():.2f}",
        "work p50 ms": f"{np.percentile(found.work_ms, 50):.3f}",
        "work p99 ms": f"{np.percentile(found.work_ms, 99):.3f}",
        "skipped": f"{found.skipped} of {len(found.late_ms) + found.skipped}",
        "moved": str(found.moved),
    }


def main(argv: Sequence[str] | None = None) -> None:
    from scripts.bench._common import Report, arguments  # late: the control process has no torch

    parser = arguments("jitter", __doc__ or "")
    parser.add_argument("--rates", type=float, nargs="+", default=[50, 100, 250], help="Hz")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each cell")
    options = parser.parse_args(argv)
    rows = []
    for is_loaded in (False, True):
        for has_priority in (False, True):
            for rate_hz in options.rates:
                cell = Cell(rate_hz, is_loaded, has_priority)
                rows.append(row(cell, run(cell, options.seconds)))
                print(" ".join(rows[-1].values()), flush=True)
    report = Report("jitter", options)
    load_before = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    report.add(f"Jitter of the control process (load averages {load_before})", rows, [])
    report.close(LIMIT)


if __name__ == "__main__":
    main()
