"""How the benchmarks measure: cases in turn within one run, medians over rounds, and ratios.

On a shared machine the speed of everything drifts by tens of percent within minutes. Visiting the
cases in turn lets all of them see the same weather, and a ratio taken within each round cancels it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from embodied.devices import available_cores
from embodied.results import versions


@dataclass(frozen=True)
class Case:
    """Something to time. `run` does a little of its work and returns how many units it did."""

    name: str
    run: Callable[[], float]


@dataclass(frozen=True)
class Rates:
    """What a case did in each round: units per second of wall clock, and per CPU-second."""

    name: str
    wall: tuple[float, ...]
    cpu: tuple[float, ...]


def arguments(name: str, description: str, *, rounds: int = 5) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(
        prog=f"python -m scripts.bench.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="visits of each case")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--json", type=Path, default=Path(f"bench-{name}.json"), help="output")
    return parser


def cpu_seconds() -> float:
    """CPU time of this process and of its living children, in s. Linux."""
    pids = [child.pid for child in multiprocessing.active_children()]
    return time.process_time() + sum(_cpu_seconds_of(pid) for pid in pids if pid is not None)


def _cpu_seconds_of(pid: int) -> float:
    # The name in the second field may hold spaces; user and system time are fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(cases: Sequence[Case], *, rounds: int, seconds: float) -> list[Rates]:
    """Runs each case once unmeasured, then all in turn, for `seconds` at each visit."""
    for case in cases:
        case.run()
    visits = [[_visit(case, seconds) for case in cases] for _ in range(rounds)]
    return [
        Rates(case.name, tuple(row[i][0] for row in visits), tuple(row[i][1] for row in visits))
        for i, case in enumerate(cases)
    ]


def _visit(case: Case, seconds: float) -> tuple[float, float]:
    """Units per second of wall clock, and per CPU-second."""
    wall, cpu, units = time.perf_counter(), cpu_seconds(), 0.0
    while True:
        units += case.run()
        elapsed = time.perf_counter() - wall
        if elapsed >= seconds:
            # The kernel counts the CPU time of children in ticks, of which none may have passed.
            return units / elapsed, units / max(cpu_seconds() - cpu, 1e-3)


def spread(values: Sequence[float]) -> float:
    """Half the range, as a fraction of the median."""
    return (max(values) - min(values)) / 2 / median(values)


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Of each round by itself."""
    return [x / y for x, y in zip(values, base, strict=True)]


def ratio_text(values: Sequence[float], base: Sequence[float]) -> str:
    """The median ratio and its range over the rounds."""
    found = ratios(values, base)
    return f"{median(found):.2f}x [{min(found):.2f}, {max(found):.2f}]"


def rate_rows(
    rates: Sequence[Rates], unit: str, factors: Mapping[str, float] | None = None
) -> list[dict[str, str]]:
    """A table of rates; ratios are to the first case.

    Args:
        factors: further columns, the median rate times a constant.
    """
    base = rates[0]
    return [
        {
            "case": each.name,
            f"{unit}/s": figure(median(each.wall)),
            "spread": f"{spread(each.wall):.0%}",
            "ratio": ratio_text(each.wall, base.wall),
            f"{unit}/CPU-s": figure(median(each.cpu)),
            "CPU ratio": ratio_text(each.cpu, base.cpu),
            **{name: figure(median(each.wall) * x) for name, x in (factors or {}).items()},
        }
        for each in rates
    ]


def figure(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


class Report:
    """Prints tables as Markdown as they come, and keeps them for the JSON file."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.path: Path = options.json
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        self.content: dict[str, Any] = {
            "benchmark": name,
            "hardware": hardware(),
            "versions": versions(),
            "options": settings,
            "tables": {},
            "rounds": {},
        }
        found = self.content["hardware"]
        print(f"{found['cpu']} | {found['cores']} cores | torch {torch.__version__} | ", end="")
        print(f"{options.threads} thread(s), {options.rounds} rounds | load {found['load']:.1f}")

    def add(self, title: str, rows: Sequence[Mapping[str, str]], rates: Sequence[Rates]) -> None:
        """A table, and the figures of each round behind it."""
        self.content["tables"][title] = [dict(row) for row in rows]
        self.content["rounds"][title] = {
            each.name: {"wall": each.wall, "cpu": each.cpu} for each in rates
        }
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        lines.insert(1, ["-" * width for width in widths])
        print(f"\n{title}\n")
        for line in lines:
            print("| " + " | ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)) + " |")
        sys.stdout.flush()  # the next table can be minutes away, and stdout a file

    def close(self, limit: str) -> None:
        """Says what limits the figures, and writes the file."""
        self.content["limit"] = limit
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")
        print(f"\nLimit: {limit}\nwritten: {self.path}")


def hardware() -> dict[str, Any]:
    """CPU model, cores that this process may use, and the load average of the last minute."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return {"cpu": model, "cores": available_cores(), "load": os.getloadavg()[0]}
