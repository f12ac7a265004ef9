"""Named evaluation protocols: which episodes, how long, and what counts as success."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embodied.suites import Assignment, Suite, image_profile

Wording = Literal["canonical", "held_out", "other"]
_WORDINGS = ("canonical", "held_out", "other")
LANGUAGE = ("language",)
SKETCHES = frozenset({"sketch", "sketch_2d"})
MODALITIES = (*LANGUAGE, "goal_state", "goal_image", *sorted(SKETCHES))
SPOKEN = "motion"
"""Told while the policy acts, by the evaluation's `person`."""


@dataclass(frozen=True)
class Protocol:
    """Every one of the first `goals_per_task` goals of every task, or of some, once.

    Attributes:
        name: what results carry; a result without one is refused.
        goals_per_task: up to the suite's `num_goals`.
        tasks: of the suite; None for all. Results of some carry how many in their name.
        max_steps: horizon of an episode, environment steps.
        success: "any" counts success at any step, "final" at the last one.
        benchmark_seed: which list of goals; also enters each episode's seed.
        wording: tells the policy each task's canonical instruction, its held-out paraphrases in
            turn, or ("other") another task's instruction.
        modalities: what the policy is told each task in, one or several of `MODALITIES`: all but
            the words are taken from a demonstration of the very episode (`embodied.prompting`).
            Also `SPOKEN`, which needs an evaluation with a `person`, who says at each step what is
            to be done next.
            Results of anything but words alone carry it in their name.
        suite: for a probe: where its episodes run instead of the run's suite, with equal spaces.
    """

    name: str
    goals_per_task: int = 50
    tasks: tuple[str, ...] | None = None
    max_steps: int = 500
    success: Literal["any", "final"] = "any"
    benchmark_seed: int = 0
    wording: Wording = "canonical"
    modalities: tuple[str, ...] = LANGUAGE
    suite: Suite | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("a protocol needs a name; results without one cannot be compared")
        if self.success not in ("any", "final"):
            raise ValueError(f"success must be 'any' or 'final', got {self.success!r}")
        if self.wording not in _WORDINGS:
            raise ValueError(f"wording must be one of {_WORDINGS}, got {self.wording!r}")
        object.__setattr__(self, "modalities", tuple(self.modalities))  # YAML gives lists
        if self.tasks is not None:
            object.__setattr__(self, "tasks", tuple(self.tasks))
        self._check_modalities()

    def _check_modalities(self) -> None:
        given = self.modalities
        known = (*MODALITIES, SPOKEN)
        if not given or len(set(given)) < len(given) or not set(given) <= set(known):
            raise ValueError(f"modalities must be some of {known}, each once, got {given}")
        if set(given) >= SKETCHES:
            raise ValueError(f"an episode has one sketch: choose one of {sorted(SKETCHES)}")
        if self.wording == "other" and given != LANGUAGE:
            raise ValueError(
                f"wording 'other' is for words alone: what is shown of a task is its own, got "
                f"{given}"
            )

    def name_on(self, suite: Suite) -> str:
        """What results are called, such as "mt-v3@fast" where a policy sees images drawn "fast".

        So figures from images drawn in different ways are of different protocols and never mix.
        Neither do those of other modalities than words, "mt-v3@goal_image@fast", or of some tasks
        alone, "mt-v3@3-of-10".
        """
        profile = image_profile(suite)
        asked, all_tasks = len(self._tasks_in(suite)), len(suite.tasks)
        some = () if asked == all_tasks else (f"{asked}-of-{all_tasks}",)
        told = () if self.modalities == LANGUAGE else ("+".join(self.modalities),)
        return "@".join((self.name, *some, *told, *(() if profile is None else (profile,))))

    def _tasks_in(self, suite: Suite) -> tuple[str, ...]:
        if self.tasks is None:
            return suite.tasks
        unknown = sorted(set(self.tasks) - set(suite.tasks))
        if unknown or not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(
                f"protocol.tasks must be some of {suite.name}'s {list(suite.tasks)}, each once, "
                f"got {list(self.tasks)}"
            )
        return self.tasks

    def assignments(self, suite: Suite) -> tuple[Assignment, ...]:
        """The episodes in a suite, goal by goal, so that neighbours are different tasks."""
        if not 1 <= self.goals_per_task <= suite.num_goals:
            raise ValueError(
                f"goals_per_task must lie in [1, {suite.num_goals}] ({suite.name}'s num_goals), "
                f"got {self.goals_per_task}"
            )
        return tuple(
            Assignment(
                task=task,
                goal=goal,
                benchmark_seed=self.benchmark_seed,
                seed=_episode_seed(task, goal, self.benchmark_seed),
                instruction=self.instruction(suite, task, goal),
            )
            for goal in range(self.goals_per_task)
            for task in self._tasks_in(suite)
        )

    def instruction(self, suite: Suite, task: str, goal: int) -> str:
        """What the policy is told in the episode (task, goal)."""
        texts = suite.texts(task)
        if self.wording == "held_out":
            if not texts.held_out:
                raise ValueError(f"wording 'held_out' needs held-out texts, {task} has none")
            return texts.held_out[goal % len(texts.held_out)]
        if self.wording == "other":
            return suite.texts(other_task(suite, task, goal)).canonical
        return texts.canonical


def other_task(suite: Suite, task: str, goal: int) -> str:
    """A task of the suite that is not `task`, fixed by (task, goal)."""
    others = [other for other in suite.tasks if other != task]
    if not others:
        raise ValueError(f"wording 'other' needs at least two tasks, {suite.name} has one")
    return others[np.random.default_rng([zlib.crc32(task.encode()), goal]).integers(len(others))]


def _episode_seed(task: str, goal: int, benchmark_seed: int) -> int:
    return zlib.crc32(f"{task}/{goal}/{benchmark_seed}".encode())
