"""Collecting demonstrations from a suite's scripted experts, in parallel and resumable.

Noise is injected as in DART (Laskey et al. 2017, arXiv:1703.09327): the noisy action is executed
and recorded as `action`, the expert's own is the label `expert_action`. Departing from the paper,
the noise is isotropic and its level cycles over a schedule instead of being fitted to a learner.

All that is random in an episode follows from the seed, its task and its number, so that the set is
the same for any number of workers and after any number of interruptions.
"""

from __future__ import annotations

import functools
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embodied.structs import Spec
from embodied.suites import Suite, check_experts, image_profile
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.lerobot_catalog import read_catalog
from embodied_datasets.lerobot_writer import record
from embodied_datasets.recording import fill, settle, spec_of
from embodied_datasets.scripted_rollout import (
    Behaviour,
    Job,
    Settings,
    UnstableError,
    run_episode,
)

_CONFIG = "collection.json"
_MAX_ATTEMPTS = 20

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """What `collect` leaves behind.

    Attributes:
        success_rate: task -> share of its own expert's episodes that solved it.
        num_retries: how many unstable episodes were thrown away and run with another seed.
        subtasks: words of each sub-task that a `Player` pursued -> how often it was begun.
    """

    root: Path
    num_episodes: int
    success_rate: Mapping[str, float]
    num_retries: int
    subtasks: Mapping[str, int]


def collect(
    suite: Suite,
    root: str | Path,
    *,
    episodes_per_task: int,
    benchmark_seed: int = 0,
    noise: Sequence[float] = (0.0, 0.1, 0.2),
    noise_hold: int = 1,
    seed: int = 0,
    max_steps: int | None = None,
    steps_after_success: int | None = 10,
    cross_instruction_fraction: float = 0.0,
    cross_instruction_steps: int = 100,
    behaviour: Behaviour | None = None,
    epsilon: Sequence[float] = (0.0,),
    final: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Collection:
    """Records a LeRobot data set of the suite's experts in `root`, or what is missing of it.

    Failures are kept and marked. Instructions cycle over the canonical one and the paraphrases,
    never the held-out ones.

    Args:
        episodes_per_task: of each task's own expert; episode i starts from goal i % num_goals.
        benchmark_seed: the seed that the suite draws its goals with; the next ones follow where
            episodes_per_task exceeds the number of goals.
        noise: standard deviations, environment units of the action; one per episode in turn.
        noise_hold: steps for which a draw of the noise lasts. Longer pushes carry the robot
            further from the expert's path, so that the way back is learned too (DART, Laskey et
            al. 2017, arXiv:1703.09327, has 1).
        max_steps: an expert that has not solved its task by then is given up; None means the
            suite's. Who has failed for long teaches little.
        steps_after_success: an episode ends this many steps after the first success; None lets it
            go on to its end.
        cross_instruction_fraction: further episodes per task, as a share of `episodes_per_task`,
            in which another task's expert acts and its instruction is given, so that the words and
            not the scene decide. They have `info["expert"] != info["task"]` and no success.
        cross_instruction_steps: their length.
        behaviour: who acts instead of the suite's experts.
        epsilon: in how many of the steps an action is uniform in the bounds; one share per episode
            in turn.
        final: whether what is seen after the last action is recorded too, without which an episode
            that was cut off lacks a transition.
        workers: processes; None means one per core, and with 1 all runs in this process.

    Raises ValueError if `root` was collected with other settings, and NoExpertError, before
    anything is written, where the suite has nobody to demonstrate a task.
    """
    root = Path(root)
    if behaviour is None:
        check_experts(suite)
    settings = Settings(
        suite=suite,
        benchmark_seed=benchmark_seed,
        noise=tuple(noise),
        noise_hold=noise_hold,
        seed=seed,
        max_steps=suite.max_steps if max_steps is None else min(max_steps, suite.max_steps),
        steps_after_success=steps_after_success,
        cross_instruction_steps=cross_instruction_steps,
        behaviour=behaviour,
        epsilon=tuple(epsilon),
        final=final,
    )
    num_cross = round(cross_instruction_fraction * episodes_per_task)
    _check_settings(settings, episodes_per_task, num_cross)
    jobs = [
        Job(task, number, cross)
        for task in range(len(suite.tasks))
        for cross, count in ((False, episodes_per_task), (True, num_cross))
        for number in range(count)
    ]
    settle(root, _CONFIG, _config(settings, episodes_per_task, num_cross), "collected")
    if not (root / schema.INFO_PATH).exists():
        spec = spec_of(suite)
        start = functools.partial(_Recorder, settings, spec)
        fill(root, spec, jobs, start, workers=workers, progress=progress)
    return _summary(root)


def _check_settings(settings: Settings, episodes_per_task: int, num_cross: int) -> None:
    if episodes_per_task < 1:
        raise ValueError(f"episodes_per_task must be 1 or more, got {episodes_per_task}")
    if settings.max_steps < 1:
        raise ValueError(f"max_steps must be 1 or more, got {settings.max_steps}")
    if not settings.noise or min(settings.noise) < 0:
        raise ValueError(f"noise must list levels of 0 or more, got {settings.noise}")
    if not settings.epsilon or not all(0 <= share <= 1 for share in settings.epsilon):
        raise ValueError(f"epsilon must list shares in [0, 1], got {settings.epsilon}")
    if num_cross < 0 or (num_cross and len(settings.suite.tasks) < 2):
        raise ValueError(
            f"cross_instruction_fraction gives {num_cross} episodes per task for "
            f"{len(settings.suite.tasks)} tasks; it needs 0 or more, and two tasks: set it to 0"
        )


def _config(settings: Settings, episodes_per_task: int, num_cross: int) -> dict[str, Any]:
    suite = settings.suite
    later = {"behaviour": None, "epsilon": (0.0,), "final": False}  # older folders say none of it
    shared = {name: value for name, value in vars(settings).items() if name != "suite"}
    if settings.behaviour is not None:
        shared["behaviour"] = repr(settings.behaviour)
    return {
        "suite": suite.name,
        "render_profile": image_profile(suite),
        "instructions": {task: suite.texts(task).trained for task in suite.tasks},
        "num_goals": suite.num_goals,
        "rate_hz": suite.rate_hz,
        "episodes_per_task": episodes_per_task,
        "cross_instruction_episodes_per_task": num_cross,
        **{name: x for name, x in shared.items() if name not in later or x != later[name]},
    }


class _Recorder:
    """Runs episodes one after the other in one environment."""

    def __init__(self, settings: Settings, spec: Spec, incoming: Path) -> None:
        self.env = settings.suite.make_env()
        self._settings = settings
        self._spec = spec
        self._incoming = incoming

    def run(self, job: Job) -> None:
        """Records the job's episode, with another seed as long as the simulation breaks down."""
        reason = ""
        for attempt in range(_MAX_ATTEMPTS):
            try:
                episode = run_episode(self.env, self._settings, job, attempt)
            except UnstableError as error:
                reason = str(error)
                _logger.warning("episode %s: %s; taking another seed", job.key, reason)
            else:
                return record(self._incoming, job.key, episode, spec=self._spec)
        raise RuntimeError(
            f"episode {job.key} was unstable {_MAX_ATTEMPTS} times, last: {reason}; "
            "lower the noise or mend the task"
        )

    def close(self) -> None:
        self.env.close()


def _summary(root: Path) -> Collection:
    entries = read_catalog(root).entries
    solved: dict[str, list[bool]] = {}
    subtasks: Counter[str] = Counter()
    num_retries = 0
    for entry in entries:
        info = json.loads(entry.info)
        num_retries += info["retries"]
        subtasks.update(words for _, words in info.get("subtasks", ()))
        if info["expert"] == info["task"]:
            solved.setdefault(info["task"], []).append(entry.flags["success"])
    rates = {task: sum(flags) / len(flags) for task, flags in solved.items()}
    return Collection(root, len(entries), rates, num_retries, dict(sorted(subtasks.items())))
