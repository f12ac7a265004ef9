"""What trained policies do when they are sampled in other ways: a table, and a picture.

    python scripts/sampling.py RUN [RUN ...] --vary guidance 0 1 1.5 2 3 5 [--measure result reward]
    python scripts/sampling.py RUN [RUN ...] --vary num_steps 1 3 20 [--png FILE] [OVERRIDE ...]

No weight changes: `--vary` names a key of `eval.sampling`. Each RUN is a seed of one recipe. It is
evaluated for each value by the protocol that judged it first, in the same episodes; overrides
change that or the machine, as `protocol.goals_per_task=20 shards=2`. What is done lies in
RUN/sampling and is not done again. Intervals are Student's at 95 % over seeds; those of one
run are over episodes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from embodied.assessment import evaluate
from embodied.cli import clear_errors
from embodied.results import RESULTS_FILE, Evaluation, read_results
from embodied.run_table import SUCCESS, across, figure_of
from embodied.statistics import Estimate

CONF = Path(__file__).parents[1] / "conf"
Curves = Mapping[str, Sequence[Estimate]]
"""Measure -> its figure for each value."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    overrides = [x for x in given if "=" in x and not x.startswith("-")]
    options = _parser().parse_args([x for x in given if x not in overrides])
    key, *values = options.vary
    with clear_errors():
        found = [
            [evaluated(run, {key: _number(value)}, overrides) for run in options.runs]
            for value in values
        ]
        curves = {
            measure: [across([figure_of(each, measure) for each in row]) for row in found]
            for measure in options.measure
        }
    print(table(key, values, curves))
    if options.png:
        draw(options.png, key, values, curves)
    return 0


def evaluated(run: Path, sampling: Mapping[str, Any], overrides: Sequence[str]) -> Evaluation:
    """The run's policy, sampled so; from its folder where that is done already."""
    name = ",".join([*(f"{key}={value}" for key, value in sampling.items()), *overrides])
    output = run / "sampling" / name
    if not (output / RESULTS_FILE).exists():
        stored = read_results(run).config
        with initialize_config_dir(str(CONF), version_base="1.3"):
            shipped = compose("evaluate")
        own = {
            "checkpoint": str(run),
            "output": str(output),
            "protocol": stored["protocol"],
            "eval": {"sampling": dict(sampling)},
        }
        OmegaConf.set_struct(shipped.protocol, False)
        evaluate(OmegaConf.merge(shipped, own, OmegaConf.from_dotlist(list(overrides))))
    return read_results(output)


def table(key: str, values: Sequence[str], curves: Curves) -> str:
    """Markdown."""
    rows = [
        (value, *(f"{x.mean:.3f} [{x.low:.3f}, {x.high:.3f}]" for x in figures))
        for value, *figures in zip(values, *curves.values(), strict=True)
    ]
    lines = [(key, *curves), ("---",) * (1 + len(curves)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(path: Path, key: str, values: Sequence[str], curves: Curves) -> None:
    """Each measure over the values, its interval as a bar."""
    from matplotlib.figure import Figure  # heavy, and only pictures need it

    numbers = [_number(value) for value in values]
    places = range(len(values)) if any(isinstance(x, str) for x in numbers) else numbers
    picture = Figure(figsize=(4 * len(curves), 3), dpi=150, layout="constrained")
    for axes, (measure, figures) in zip(
        picture.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        bars = [[x.mean - x.low for x in figures], [x.high - x.mean for x in figures]]
        axes.errorbar(places, [x.mean for x in figures], bars, marker="o", capsize=3)
        axes.set(xlabel=key, ylabel=measure, ylim=(0, None))
        axes.set_xticks(list(places), values)
        axes.grid(alpha=0.3)
    picture.savefig(path)


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage="%(prog)s RUN [RUN ...] --vary KEY VALUE [VALUE ...] [options] [OVERRIDE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--vary", nargs="+", required=True, metavar=("KEY", "VALUE"))
    parser.add_argument("--measure", nargs="+", default=[SUCCESS], help="any of the environment's")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the curves")
    return parser


if __name__ == "__main__":
    sys.exit(main())
