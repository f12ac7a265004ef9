"""Collecting undirected play: long episodes in which one sub-task follows the other.

Play covers what can be done in a scene, and how one thing leads to the next, without anyone having
asked for it (Lynch et al. 2020, arXiv:1903.01973); goals and words come afterwards, in hindsight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from embodied.suites import Playful, Suite
from embodied_datasets import scripted


def collect(
    suite: Suite,
    root: str | Path,
    *,
    episodes: int,
    steps: int,
    benchmark_seed: int = 0,
    noise: Sequence[float] = (0.0,),
    noise_hold: int = 1,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> scripted.Collection:
    """Records a LeRobot data set of play in `root`, or what is missing of it.

    Every episode lasts `steps` steps and has the playground's general words as its instruction;
    `info["subtasks"]` lists [first frame, words] of what was pursued, each until the next one
    begins. Nobody judges play: `success` is False everywhere, so read it with only_success=False.
    Noise comes on top of what the suite's player brings; see `scripted.collect` for it and for the
    other arguments.

    Raises ValueError if the suite has no playground or `root` was collected with other settings.
    """
    if not isinstance(suite, Playful):
        raise ValueError(
            f"{suite.name} has no playground, so nobody can play there: use scripted.collect, or "
            "a suite with a method `playground` (see embodied.suites.Playful)"
        )
    for name, value in (("episodes", episodes), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    collection = scripted.collect(
        suite.playground(steps),
        root,
        episodes_per_task=episodes,
        benchmark_seed=benchmark_seed,
        noise=noise,
        noise_hold=noise_hold,
        seed=seed,
        max_steps=steps,
        workers=workers,
        progress=progress,
    )
    return dataclasses.replace(collection, success_rate={})
