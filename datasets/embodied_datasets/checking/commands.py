"""The command line of `scripts/inspect.py`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from embodied_datasets.checking.against import compare
from embodied_datasets.checking.run import Inspection, inspect_path
from embodied_datasets.faults import Fault
from embodied_datasets.formats import find_sets
from embodied_datasets.options import read_options

_NAMED = 3  # faults printed of each code; --json lists all


ReadPolicy = Callable[[Path], Mapping[str, NDArray[Any]]]
"""Reads a policy's state dict from a run, for which this package would have to know the core."""


def main(arguments: Sequence[str] | None = None, *, read_policy: ReadPolicy | None = None) -> int:
    """Runs the command line; see `scripts/inspect.py` for the exit codes."""
    options = _parser().parse_args(arguments)
    options.read_policy = read_policy
    try:
        options.read = {"format": options.format} | read_options(options.read)
        code: int = options.run(options)
    except (ValueError, OSError, LookupError, ImportError, RuntimeError) as error:
        print(f"inspect: {error}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inspect.py", description="Looks at recorded data.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="name what is wrong; exit 0 clean, 1 faults, 2 none")
    check.set_defaults(run=_check)
    check.add_argument("--json", action="store_true", help="print all faults as JSON")
    check.add_argument("--strict", action="store_true", help="warnings count as faults")
    check.add_argument(
        "--against", type=Path, action="append", default=[], metavar="OTHER", help="another set"
    )
    check.add_argument("--fix", action="store_true", help="write a repaired copy to PATH-fixed")
    check.add_argument("--to", type=Path, metavar="TARGET", help="with --fix: write it there")
    check.add_argument(
        "--in-place", action="store_true", help="with --fix: swap the copy in; the old one stays"
    )
    show = commands.add_parser("show", help="write one HTML page about the set")
    show.set_defaults(run=_show)
    show.add_argument("-o", "--output", type=Path, default=Path("dataset.html"), metavar="FILE")
    show.add_argument("--episodes", type=int, default=6, metavar="N", help="how many to draw")
    norm = commands.add_parser("norm-report", help="data after normalisation")
    norm.set_defaults(run=_norm_report)
    norm.add_argument("--checkpoint", type=Path, metavar="RUN", help="a run, or a checkpoint of it")
    norm.add_argument("--json", action="store_true", help="print the figures as JSON")
    measures = commands.add_parser("measures", help="what learners from rewards find in the set")
    measures.set_defaults(run=_measures)
    measures.add_argument("--random", type=Path, metavar="SET", help="of uniform actions; for TQ")
    measures.add_argument("--best", type=float, metavar="RETURN", help="reached online; for TQ")
    measures.add_argument("--replay", type=Path, metavar="SET", help="of that run; for SACo")
    measures.add_argument("--json", action="store_true", help="print the figures as JSON")
    for command in (check, show, norm, measures):
        read = "options of the format's reader, such as rate_hz=20"
        command.add_argument("--read", nargs="*", default=[], metavar="NAME=VALUE", help=read)
        command.add_argument("path", type=Path, metavar="PATH", help="the data set")
        command.add_argument("--format", metavar="F", help="its format, where it is not recognised")
    return parser


def _check(options: argparse.Namespace) -> int:
    """Checks the set, or those in the folder; the exit code is the worst."""
    named = options.format is not None or not options.path.is_dir()
    sets = [options.path] if named else find_sets(options.path) or [options.path]
    if options.fix and len(sets) > 1:
        raise ValueError(
            f"--fix repairs one set, {options.path} holds {len(sets)} data sets; name one"
        )
    beside = [inspect_path(path, **options.read) for path in options.against]
    plain = [_check_one(options, path, beside) for path in sets]
    worst: int = max(each["exit_code"] for each in plain)
    if options.json:
        whole = {"path": str(options.path), "exit_code": worst, "sets": plain}
        print(json.dumps(whole if sets != [options.path] else plain[0], indent=1))
    return worst


def _check_one(
    options: argparse.Namespace, path: Path, beside: Sequence[Inspection]
) -> dict[str, Any]:
    """The outcome for machines; people read it unless they asked for that."""
    inspection = inspect_path(path, **options.read)
    faults = [*inspection.faults, *(f for other in beside for f in compare(inspection, other))]
    inspection = dataclasses.replace(inspection, faults=faults)
    changes = _fix(options, inspection) if options.fix else []
    if not options.json:
        print("\n".join([as_text(inspection), *(f"fixed: {change}" for change in changes)]))
    return inspection.as_json(strict=options.strict) | {"changes": changes}


def _fix(options: argparse.Namespace, inspection: Inspection) -> list[str]:
    from embodied_datasets.checking.fixes import repair

    return repair(inspection, options.to, in_place=options.in_place)


def as_text(inspection: Inspection) -> str:
    """The faults by code, the first few of each, and a line that counts them."""
    by_code: dict[str, list[Fault]] = {}
    for fault in sorted(inspection.faults, key=lambda fault: fault.severity):
        by_code.setdefault(fault.code, []).append(fault)
    lines = []
    for code, faults in by_code.items():
        lines += [f"{fault.severity}: {fault}" for fault in faults[:_NAMED]]
        lines += [f"  and {len(faults) - _NAMED} more {code}"] * (len(faults) > _NAMED)
    errors = sum(fault.severity == "error" for fault in inspection.faults)
    warnings = len(inspection.faults) - errors
    looked = f"{inspection.episodes} episodes, {inspection.steps} steps"
    lines.append(
        f"{inspection.path} ({inspection.format or 'unknown format'}): {looked}, "
        f"{errors} errors, {warnings} warnings"
    )
    return "\n".join(lines)


def _show(options: argparse.Namespace) -> int:
    from embodied_datasets.checking.page import write_page

    size = write_page(options.path, options.output, shown=options.episodes, **options.read)
    print(f"{options.output} ({size / 2**20:.1f} MB)")
    return 0


def _norm_report(options: argparse.Namespace) -> int:
    from embodied_datasets.checking.normalising import norm_report

    tensors = None
    if options.checkpoint is not None:
        if options.read_policy is None:
            raise ValueError("--checkpoint needs scripts/inspect.py, which knows how to read it")
        tensors = options.read_policy(options.checkpoint)
    report = norm_report(options.path, tensors=tensors, **options.read)
    print(json.dumps(report.as_json(), indent=1) if options.json else report.as_text())
    return 1 if report.faults else 0


def _measures(options: argparse.Namespace) -> int:
    from embodied_datasets.formats import open_episodes
    from embodied_datasets.measures import measure

    def open_set(path: Path | None) -> Any:
        return None if path is None else open_episodes(path)

    if (options.random is None) != (options.best is None):
        raise ValueError("TQ needs both --random SET and --best RETURN")
    read = {name: x for name, x in options.read.items() if name != "format"}
    found = measure(
        open_episodes(options.path, format=options.format, **read),
        random=open_set(options.random),
        best=options.best,
        replay=open_set(options.replay),
    )
    figures = dataclasses.asdict(found)
    if options.json:
        print(json.dumps(figures, indent=1))
    else:
        names = {"quality": "TQ", "coverage": "SACo", "log_coverage": "lSACo"}
        for name, value in figures.items():
            if value is not None:
                print(f"{names.get(name, name.replace('_', ' ')):>12}  {value:g}")
    return 0
