"""Compares policies on the episodes that they share, and says whether they differ.

    python scripts/compare.py RUN RUN [RUN ...] [--points 5] [--json FILE] [--html FILE]

Each RUN is a run directory or its results.json; every further one is compared with the first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embodied.comparison import Comparison, compare_all
from embodied.report import write_comparison
from embodied.results import Evaluation, read_results, write_atomically
from embodied.statistics import Estimate
from embodied.suites import Assignment

_NAMED = 5  # unmatched episodes printed of each kind; --json lists all


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 if the comparison could be made, 2 if it was refused."""
    options = _parser().parse_args(arguments)
    try:
        runs = read_runs(options.runs)
        comparisons = compare_all(runs, resolution=options.points / 100)
    except (ValueError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    protocol = next(iter(runs.values())).protocol
    print("\n\n".join([f"protocol {protocol}", *map(as_text, comparisons)]))
    if options.json:
        data = {"protocol": protocol, "comparisons": [as_json(c) for c in comparisons]}
        write_atomically(options.json, json.dumps(data, indent=1) + "\n")
    if options.html:
        write_comparison(options.html, protocol=protocol, comparisons=comparisons)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directory or results.json"
    )
    parser.add_argument(
        "--points", type=float, default=5.0, help="smallest difference worth seeing, in points"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write an HTML report")
    return parser


def read_runs(paths: Sequence[Path]) -> dict[str, Evaluation]:
    """The evaluations by name: the run directory's name, or the path where names repeat."""
    if len(paths) < 2:
        raise ValueError(f"two runs or more are needed, got {len(paths)}")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("the same run is given twice")
    names = [(path if path.is_dir() else path.parent).resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return dict(zip(names, map(read_results, paths), strict=True))


def as_text(comparison: Comparison) -> str:
    """The comparison as a small table, the verdict, and the episodes that were left out."""
    c, v = comparison, comparison.verdict
    rows = [
        (c.a, _rate(v.a), f"alone solved {v.only_a}"),
        (c.b, _rate(v.b), f"alone solved {v.only_b}"),
        ("difference", _difference(v.difference), f"McNemar p = {v.p_value:.2g}"),
    ]
    width = max(len(name) for name, _, _ in rows)
    head = f"{len(c.pairing.matched)} matched episodes, intervals at {100 * v.confidence:.4g} %"
    table = [f"  {name:<{width}}  {figure}  {extra}" for name, figure, extra in rows]
    return "\n".join([head, *table, v.text(c.a, c.b), *_left_out(comparison)])


def as_json(comparison: Comparison) -> dict[str, Any]:
    """All figures of the comparison, and all episodes that were left out."""
    c, pairing = comparison, comparison.pairing
    left_out = {"only_a": pairing.only_a, "only_b": pairing.only_b, "invalid": pairing.invalid}
    return {
        "names": {"a": c.a, "b": c.b},
        "text": c.verdict.text(c.a, c.b),
        "matched": len(pairing.matched),
        "verdict": dataclasses.asdict(c.verdict),
        "tasks": {task: dataclasses.asdict(verdict) for task, verdict in c.tasks.items()},
        "left_out": {kind: [dataclasses.asdict(x) for x in xs] for kind, xs in left_out.items()},
    }


def _rate(e: Estimate) -> str:
    return f"{100 * e.mean:6.1f} %  [{100 * e.low:5.1f}, {100 * e.high:5.1f}]"


def _difference(e: Estimate) -> str:
    return f"{100 * e.mean:+6.1f}    [{100 * e.low:+5.1f}, {100 * e.high:+5.1f}]"


def _left_out(comparison: Comparison) -> list[str]:
    c = comparison
    kinds = {
        f"only in {c.a}": c.pairing.only_a,
        f"only in {c.b}": c.pairing.only_b,
        "invalid in either": c.pairing.invalid,
    }
    lines: list[str] = []
    for kind, assignments in kinds.items():
        if assignments:
            lines.append(f"left out, {kind}: {len(assignments)}")
            lines += [f"  {_name(assignment)}" for assignment in assignments[:_NAMED]]
            lines += [f"  and {len(assignments) - _NAMED} more"] * (len(assignments) > _NAMED)
    return lines


def _name(a: Assignment) -> str:
    return (
        f"{a.task}, goal {a.goal}, benchmark_seed {a.benchmark_seed}, seed {a.seed}, "
        f"{a.instruction!r}"
    )


if __name__ == "__main__":
    sys.exit(main())
