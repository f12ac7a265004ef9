"""Learning curves of several seeds and several ways to learn, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embodied import checkpoint
from embodied.checkpoint_files import CheckpointError
from embodied.learning_curve import LABELS, points, summarise
from embodied.loggers import read_jsonl
from embodied.statistics import Estimate, over_seeds

D4RL_REFERENCES = {
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
}
"""Mean returns of a random and an expert policy by robot (Fu et al. 2020, arXiv:2004.07219), in
the versions of the simulators that D4RL has."""


@dataclass(frozen=True)
class Arm:
    """One way to learn.

    Attributes:
        steps: (T,) training steps at which all its seeds were evaluated.
        values: (seeds, T).
        summaries: of each seed, as of `learning_curve.summarise`.
        references: returns of a random and an expert policy, of a task that D4RL has.
        seeds: of each run.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    summaries: tuple[Mapping[str, float], ...]
    references: tuple[float, float] | None = None
    seeds: tuple[int, ...] = ()

    def band(self) -> list[Estimate]:
        """The mean over seeds with its interval, at each step."""
        return [over_seeds(column) for column in zip(*self.values, strict=True)]

    def table(self) -> dict[str, Estimate]:
        """What the curves say, in the words of tables, each a mean over seeds."""
        known = [key for key in LABELS if all(key in each for each in self.summaries)]
        found = {LABELS[key]: over_seeds([each[key] for each in self.summaries]) for key in known}
        return {**found, "area": over_seeds(self.areas())}

    def areas(self) -> list[float]:
        """The area under each seed's curve over its width: the mean height while it learned."""
        width = self.steps[-1] - self.steps[0]
        if not width:
            return [row[0] for row in self.values]
        return [float(np.trapezoid(row, self.steps)) / width for row in self.values]

    def steps_to(self, level: float) -> list[int]:
        """The first step at which each curve came to a level, of the seeds that did."""
        reached = (
            [s for s, value in zip(self.steps, row, strict=True) if value >= level]
            for row in self.values
        )
        return [steps[0] for steps in reached if steps]

    def less(self, other: Arm) -> Estimate:
        """How much larger its areas are than another's, seed by seed.

        Raises ValueError where they share no seed, or were evaluated at other steps.
        """
        if self.steps != other.steps:
            raise ValueError(f"{self.name} and {other.name} were evaluated at different steps")
        mine, its = (dict(zip(a.seeds, a.areas(), strict=True)) for a in (self, other))
        shared = sorted(mine.keys() & its.keys())
        if not shared:
            raise ValueError(f"{self.name} and {other.name} have no seed in common")
        return over_seeds([mine[seed] - its[seed] for seed in shared])

    def normalised(self) -> dict[str, Estimate]:
        """D4RL's score of returns, 0 for its random and 100 for its expert policy; last and best.

        Empty for a task without references.
        """
        if self.references is None:
            return {}
        low, high = self.references
        scores = {
            key: [100 * (each[key] - low) / (high - low) for each in self.summaries]
            for key in ("last", "best")
        }
        return {f"D4RL score, {key}": over_seeds(each) for key, each in scores.items()}


def read_arm(name: str, runs: Sequence[Path], measure: str) -> Arm:
    """Reads the runs of one arm, a seed each.

    Raises ValueError where a run has no curve, or where no step is common to all.
    """
    configs = [_config(run) for run in runs]
    rows = [read_jsonl(run / "metrics.jsonl") for run in runs]
    curves = [dict(points(each, measure)) for each in rows]
    for run, curve in zip(runs, curves, strict=True):
        if not curve:
            raise ValueError(f"{run} has no curve of {measure}: train with eval.every")
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not steps:
        raise ValueError(f"the runs of {name} were never evaluated at the same step")
    offline = [each["source"].get("offline_steps") for each in configs]
    return Arm(
        name,
        tuple(steps),
        tuple(tuple(curve[step] for step in steps) for curve in curves),
        tuple(summarise(each, measure, at) for each, at in zip(rows, offline, strict=True)),
        _references(configs, measure),
        tuple(config["seed"] for config in configs),
    )


def _config(run: Path) -> Mapping[str, Any]:
    found = checkpoint.latest(run / "checkpoints")
    if found is None:
        raise CheckpointError(f"E_CKPT_MISSING: no checkpoint in {run / 'checkpoints'}")
    config: Mapping[str, Any] = found.documents["config"]
    return config


def _references(configs: Sequence[Mapping[str, Any]], measure: str) -> tuple[float, float] | None:
    suites = [config["task"].get("suite", {}) for config in configs]
    tasks = {task for suite in suites for task in suite.get("tasks", ())}
    if measure != "eval/return" or len(tasks) != 1:
        return None
    return D4RL_REFERENCES.get(tasks.pop().partition("-")[0])
