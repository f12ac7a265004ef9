"""Outcomes of evaluation episodes, and results.json, which every tool reads them from.

results.json holds what was measured (`episodes`) and, for readers without Python, the figures
that follow from it (`success`, `tasks`). The figures are computed afresh on reading.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from embodied.statistics import (
    Estimate,
    paired_bootstrap,
    split,
    stratified_bootstrap,
    success_rate,
    wilson,
)
from embodied.suites import Assignment

RESULTS_FILE = "results.json"
PACKAGES = (
    "embodied-policies",
    "torch",
    "numpy",
    "scipy",
    "mujoco",
    "metaworld",
    "gymnasium",
    "dm-control",
    "diffusers",
    "transformers",
    "hydra-core",
    "wandb",
)


@dataclass(frozen=True)
class Outcome:
    """How one assigned episode ended.

    Attributes:
        success: by the protocol's rule; not counted where the episode is invalid.
        steps: environment steps taken.
        reward: sum over the episode, environment units; may be NaN where invalid.
        valid: False if the simulator became unstable or a worker died.
        reason: why it is invalid; empty where it is valid.
        metrics: further measures of the episode, by the environment: the last values, if finite.
    """

    assignment: Assignment
    success: bool
    steps: int
    reward: float
    valid: bool = True
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """All episodes of one policy under one named protocol.

    Attributes:
        protocol: which episodes, which horizon, what counts as success; never empty, because a
            success rate without its protocol cannot be compared with anything.
        checkpoint: what was evaluated; None for a policy that was not loaded from a file.
        wall_s: how long the evaluation took, in s.
        seed: what the assignments were drawn with.
        probes: further evaluations by name, such as "held_out_paraphrases", "other_instruction".
        versions: package -> version; see `versions`.
        fingerprint: of the training data.
        config: the run's resolved configuration, JSON-able.
        perturbation: what made the episodes harder than the protocol asks, and how much, such as
            "action-delay=2"; empty for none.
    """

    protocol: str
    checkpoint: str | None
    outcomes: tuple[Outcome, ...]
    wall_s: float
    seed: int
    probes: Mapping[str, Evaluation] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    perturbation: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.protocol, str) or not self.protocol.strip():
            raise ValueError(
                f"protocol must name the evaluation protocol, got {self.protocol!r}; "
                "a result without one cannot be compared"
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names in the order of their first episode."""
        return tuple(dict.fromkeys(outcome.assignment.task for outcome in self.outcomes))

    @property
    def valid(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.valid)

    @property
    def invalid(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if not outcome.valid)

    def per_task(self) -> dict[str, Estimate]:
        """Success rate of each task with Wilson's 95 % interval, over its valid episodes."""
        rates = self._successes()
        return {task: wilson(sum(wins), len(wins)) for task, wins in rates.items()}

    def success(self) -> Estimate:
        """Mean over tasks of the per-task rates (Meta-World's figure), 95 % interval.

        The interval resamples episodes within tasks: it speaks about these tasks, not about new
        ones. A task without any valid episode cannot enter; `unmeasured` names it.
        """
        return success_rate([wins for wins in self._successes().values() if wins])

    def metrics(self) -> dict[str, Estimate]:
        """Each further measure as the mean over tasks of the per-task means, 95 % interval.

        Over the valid episodes that have it; the interval resamples episodes within tasks.
        """
        names = dict.fromkeys(name for outcome in self.valid for name in outcome.metrics)
        return {name: self._metric(name) for name in names}

    def _metric(self, name: str) -> Estimate:
        having = [outcome for outcome in self.valid if name in outcome.metrics]
        values = [outcome.metrics[name] for outcome in having]
        return stratified_bootstrap(split(values, [each.assignment.task for each in having]))

    def difference_from(self, base: Evaluation) -> Estimate:
        """Success minus that of `base`, mean over tasks, with the 95 % interval of pairs.

        A pair is an episode of both, valid in both: one task, goal, benchmark seed and seed. What
        the policy was told may differ.
        """
        ours, theirs = _by_episode(self), _by_episode(base)
        shared = [episode for episode in theirs if episode in ours]
        if not shared:
            return Estimate(math.nan, -1.0, 1.0, 0)
        return paired_bootstrap(
            [theirs[episode] for episode in shared],
            [ours[episode] for episode in shared],
            groups=[episode[0] for episode in shared],
        )

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Tasks with no valid episode, which are missing from `success`."""
        return tuple(task for task, wins in self._successes().items() if not wins)

    def num_invalid(self, task: str) -> int:
        return sum(outcome.assignment.task == task for outcome in self.invalid)

    def _successes(self) -> dict[str, list[bool]]:
        wins: dict[str, list[bool]] = {task: [] for task in self.tasks}
        for outcome in self.valid:
            wins[outcome.assignment.task].append(outcome.success)
        return wins


def _by_episode(evaluation: Evaluation) -> dict[tuple[str, int, int, int], bool]:
    pairs = [(outcome.assignment, outcome.success) for outcome in evaluation.valid]
    return {(a.task, a.goal, a.benchmark_seed, a.seed): success for a, success in pairs}


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The content of results.json."""
    return {
        "protocol": evaluation.protocol,
        "checkpoint": evaluation.checkpoint,
        "success": _estimate_json(evaluation.success()),
        "tasks": {
            task: {**_estimate_json(estimate), "invalid": evaluation.num_invalid(task)}
            for task, estimate in evaluation.per_task().items()
        },
        "metrics": {name: _estimate_json(e) for name, e in evaluation.metrics().items()},
        "wall_s": evaluation.wall_s,
        "seed": evaluation.seed,
        "versions": dict(evaluation.versions),
        "fingerprint": evaluation.fingerprint,
        "config": dict(evaluation.config),
        "perturbation": evaluation.perturbation,
        "probes": {name: _probe_json(p, evaluation) for name, p in evaluation.probes.items()},
        "episodes": [_outcome_json(outcome) for outcome in evaluation.outcomes],
    }


def from_json(data: Mapping[str, Any]) -> Evaluation:
    """The evaluation that `to_json` wrote.

    Raises:
        ValueError: naming every field that is missing, or the protocol if it is empty.
    """
    needed = ("protocol", "checkpoint", "wall_s", "seed", "episodes")
    if missing := [name for name in needed if name not in data]:
        raise ValueError(f"results lack the fields {missing}; evaluate the policy again")
    return Evaluation(
        protocol=data["protocol"],
        checkpoint=data["checkpoint"],
        outcomes=tuple(_outcome(episode) for episode in data["episodes"]),
        wall_s=data["wall_s"],
        seed=data["seed"],
        probes={name: from_json(probe) for name, probe in data.get("probes", {}).items()},
        versions=data.get("versions", {}),
        fingerprint=data.get("fingerprint"),
        config=data.get("config", {}),
        perturbation=data.get("perturbation", ""),
    )


def write_results(path: Path | str, evaluation: Evaluation) -> None:
    """Writes results.json whole or not at all."""
    text = json.dumps(to_json(evaluation), indent=1, allow_nan=False)
    write_atomically(Path(path), text + "\n")


def read_results(path: Path | str) -> Evaluation:
    """Reads results.json, given the file or the run directory that holds it."""
    file = Path(path)
    if file.is_dir():
        file = file / RESULTS_FILE
    try:
        return from_json(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a results.json: {error}") from error


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file by a complete new one; a crash leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def versions() -> dict[str, str]:
    """Installed versions of Python and of the packages that results depend on.

    Reads the packages' metadata and imports none of them; absent ones are left out.
    """
    found = {"python": platform.python_version(), "platform": sys.platform}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _estimate_json(estimate: Estimate) -> dict[str, float | int | None]:
    mean = None if math.isnan(estimate.mean) else estimate.mean  # JSON has no NaN
    return {**dataclasses.asdict(estimate), "mean": mean}


def _probe_json(probe: Evaluation, base: Evaluation) -> dict[str, Any]:
    """A probe; where it perturbs the episodes of `base`, with the difference that this makes."""
    if not probe.perturbation:
        return to_json(probe)
    return {**to_json(probe), "difference": _estimate_json(probe.difference_from(base))}


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    reward = outcome.reward if math.isfinite(outcome.reward) else None
    return {**dataclasses.asdict(outcome), "reward": reward}


def _outcome(data: Mapping[str, Any]) -> Outcome:
    reward = math.nan if data["reward"] is None else float(data["reward"])
    assignment = Assignment(**data["assignment"])
    return Outcome(**{**data, "assignment": assignment, "reward": reward})
