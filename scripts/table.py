"""Puts runs in a table: success, parameters, time to train, latency.

    python scripts/table.py RUN [RUN ...] [--probe held_out] [--measure result] [--tasks]
        [--json FILE]

Each RUN is a run directory, or a folder of some, such as a multirun makes. Runs that differ in
their seed alone share a row, and so do runs that started from such ones (init_from). Latency is
that of one call on one thread, measured now.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from embodied.results import write_atomically
from embodied.run_table import SUCCESS, Cost, Row, cost_of, find_runs, rows_of
from embodied.statistics import Estimate

COLUMNS = ("seeds", "episodes", "parameters", "trained in", "p50 ms", "p99 ms")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 if the table could be made, 2 if it was refused."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    try:
        runs = find_runs(options.runs)
        rows = rows_of(runs)
        found = [row.figure(options.measure, options.probe) for row in rows]
        tasks = [row.per_task(options.probe) if options.tasks else {} for row in rows]
        costs = [cost_of(row.runs[0]) for row in tqdm(rows, "latency", disable=None)]
    except (ValueError, OSError) as error:
        print(f"table: {error}", file=sys.stderr)
        return 2
    protocol = runs[0].evaluation.protocol
    probe = f", {options.probe}" if options.probe else ""
    head = ("run", options.measure, *COLUMNS, *tasks[0])
    lines = [_line(head), _line("---" for _ in head)]
    for row, figure, of_tasks, cost in zip(rows, found, tasks, costs, strict=True):
        means = (f"{of_tasks[name]:.2f}" for name in tasks[0])
        lines.append(_line((*cells(row, figure, cost), *means)))
    print("\n".join([f"protocol {protocol}{probe}", "", *lines]))
    if options.json:
        data = [as_json(options.measure, *each) for each in zip(rows, found, costs, strict=True)]
        write_atomically(options.json, json.dumps({"protocol": protocol, "rows": data}, indent=1))
    return 0


def cells(row: Row, figure: Estimate, cost: Cost) -> tuple[str, ...]:
    """What stands in a row."""
    trained = "" if row.train_s is None else f"{row.train_s / 60:.1f} min"
    return (
        row.name,
        f"{figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}]",
        str(len(row.runs)),
        str(figure.episodes),
        f"{cost.parameters / 1e6:.2f} M",
        trained,
        f"{cost.p50_ms:.1f}",
        f"{cost.p99_ms:.1f}",
    )


def as_json(measure: str, row: Row, figure: Estimate, cost: Cost) -> dict[str, object]:
    """The row's figures."""
    return {
        "name": row.name,
        "runs": [str(run.path) for run in row.runs],
        measure: dataclasses.asdict(figure),
        "train_s": row.train_s,
        **dataclasses.asdict(cost),
    }


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run, or folder of runs")
    parser.add_argument("--probe", help="another evaluation of the runs, such as held_out")
    parser.add_argument("--measure", default=SUCCESS, help="another one of the environment's")
    parser.add_argument("--tasks", action="store_true", help="also the success of each task")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
