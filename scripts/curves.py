"""Learning curves of several seeds and several ways to learn: a table, and a picture.

    python scripts/curves.py --arm iql runs/iql-* --arm famo2o runs/famo2o-* [--png curves.png]
        [--against iql] [--level 0.5]

Each run is a seed; intervals are Student's at 95 % over seeds. "last" is the newest value, "best"
the highest, which flatters; where the policy began to act, "offline end" is the value before, the
dip how far the curve then fell below it, and regret the mean failure rate from there on. "area" is
the mean height of the curve; with --against, also how much larger it is than that arm's, in pairs
of equal seeds. With --level: how many seeds came so high, and how many steps those took.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from embodied.curves import Arm, read_arm
from embodied.learning_curve import RETURN
from embodied.results import write_atomically
from embodied.statistics import Estimate, over_seeds


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 2 if it was refused."""
    options = _parser().parse_args(arguments)
    try:
        arms = [
            read_arm(name, [Path(run) for run in runs], options.measure)
            for name, *runs in options.arm
        ]
        first = {arm.name: arm for arm in arms}
        if options.against not in (None, *first):
            raise ValueError(f"--against must name one of {sorted(first)}, got {options.against!r}")
        other = first.get(options.against)
        texts = [as_text(arm, other, options.level) for arm in arms]
    except (ValueError, OSError) as error:
        print(f"curves: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(texts))
    if options.json:
        data = [dataclasses.asdict(arm) for arm in arms]
        write_atomically(options.json, json.dumps(data, indent=1) + "\n")
    if options.png:
        draw(options.png, arms, options.measure)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--arm", nargs="+", action="append", required=True, metavar=("NAME RUN", "RUN")
    )
    parser.add_argument("--measure", default=RETURN, help="such as eval/success")
    parser.add_argument("--against", metavar="NAME", help="the arm that others are compared with")
    parser.add_argument("--level", type=float, help="how many steps until the curve is so high")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the curves")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures as JSON")
    return parser


def as_text(arm: Arm, other: Arm | None = None, level: float | None = None) -> str:
    """The table of an arm."""
    rows = {name: figure(x) for name, x in {**arm.table(), **arm.normalised()}.items()}
    if other is not None and other is not arm:
        rows[f"area less {other.name}'s"] = figure(arm.less(other))
    if level is not None:
        steps = arm.steps_to(level)
        spent = figure(over_seeds(steps)) if steps else f"{'-':>10}"
        rows[f"steps to {level:g}"] = f"{spent}  by {len(steps)} of {len(arm.values)}"
    width = max(map(len, rows))
    head = f"{arm.name}, {len(arm.summaries)} seeds"
    return "\n".join([head, *(f"  {name:<{width}}  {text}" for name, text in rows.items())])


def figure(x: Estimate) -> str:
    """A mean with its interval; one seed has none."""
    if not math.isfinite(x.high):
        return f"{x.mean:10.4g}"
    return f"{x.mean:10.4g}  [{x.low:.4g}, {x.high:.4g}]"


def draw(path: Path, arms: Sequence[Arm], measure: str) -> None:
    """The means of all arms, with bands where there are several seeds."""
    from matplotlib.figure import Figure  # heavy, and only pictures need it

    picture = Figure(figsize=(7, 4), layout="constrained")
    axes = picture.add_subplot()
    for arm in arms:
        band = arm.band()
        (line,) = axes.plot(arm.steps, [x.mean for x in band], label=arm.name)
        if len(arm.values) > 1:
            low, high = [x.low for x in band], [x.high for x in band]
            axes.fill_between(arm.steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel("training steps")
    axes.set_ylabel(measure)
    axes.legend(frameon=False)
    picture.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
