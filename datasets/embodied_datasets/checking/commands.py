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

_NAMED = 3  # faults printed of each code; --json lists all


ReadPolicy = Callable[[Path], Mapping[str, NDArray[Any]]]
"""Reads a policy's state dict from a run, for which this package would have to know the core."""


def main(arguments: Sequence[str] | None = None, *, read_policy: ReadPolicy | None = None) -> int:
    """Runs the command line; see `scripts/inspect.py` for the exit codes."""
    options = _parser().parse_args(arguments)
    options.read_policy = read_policy
    try:
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
    for command in (check, show, norm):
        command.add_argument("path", type=Path, metavar="PATH", help="the data set")
        command.add_argument("--format", metavar="F", help="its format, where it is not recognised")
    return parser


def _check(options: argparse.Namespace) -> int:
    inspection = inspect_path(options.path, format=options.format)
    beside = [inspect_path(path, format=options.format) for path in options.against]
    faults = [*inspection.faults, *(f for other in beside for f in compare(inspection, other))]
    inspection = dataclasses.replace(inspection, faults=faults)
    changes = _fix(options, inspection) if options.fix else []
    if options.json:
        plain = inspection.as_json(strict=options.strict) | {"changes": changes}
        print(json.dumps(plain, indent=1))
    else:
        print(as_text(inspection))
        for change in changes:
            print(f"fixed: {change}")
    return inspection.exit_code(strict=options.strict)


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

    size = write_page(options.path, options.output, format=options.format, shown=options.episodes)
    print(f"{options.output} ({size / 2**20:.1f} MB)")
    return 0


def _norm_report(options: argparse.Namespace) -> int:
    from embodied_datasets.checking.normalising import norm_report

    tensors = None
    if options.checkpoint is not None:
        if options.read_policy is None:
            raise ValueError("--checkpoint needs scripts/inspect.py, which knows how to read it")
        tensors = options.read_policy(options.checkpoint)
    report = norm_report(options.path, format=options.format, tensors=tensors)
    print(json.dumps(report.as_json(), indent=1) if options.json else report.as_text())
    return 1 if report.faults else 0
