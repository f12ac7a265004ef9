"""A scene to draw over, and a policy that follows what was drawn there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embodied.conditions import Language, Row, Sketch
from embodied.data.asked import SketchStyle
from embodied.data.sketches import Trace, draw
from embodied.evaluation import Frames, evaluate
from embodied.policies.base import Policy
from embodied.protocols import Protocol
from embodied.results import Outcome
from embodied.rollout import Controller
from embodied.simulators import open_envs
from embodied.suites import Assignment, Suite

_SEEN = 0.6  # how much of a film's pixel is the sketch, where there is one


class View(NamedTuple):
    """What a camera sees: its name and its image (h, w, 3) uint8."""

    camera: str
    image: NDArray[np.uint8]


def find_episode(protocol: Protocol, suite: Suite, task: str | None, goal: int) -> Assignment:
    """The protocol's episode of a task (None: the suite's first) and a goal.

    Raises ValueError where there is none.
    """
    task = suite.tasks[0] if task is None else task
    if task not in suite.tasks:
        raise ValueError(f"scene must be one of {', '.join(suite.tasks)}, got {task!r}")
    if not 0 <= goal < suite.num_goals:
        raise ValueError(f"goal must lie in [0, {suite.num_goals - 1}], got {goal}")
    episodes = replace(protocol, goals_per_task=goal + 1, tasks=(task,)).assignments(suite)
    return episodes[-1]


def first_camera(suite: Suite) -> str | int:
    """The camera that a suite names first; raises ValueError where it names none."""
    cameras: tuple[str | int, ...] = getattr(suite, "cameras", ())
    if not cameras:
        raise ValueError(f"{suite.name} names no camera by itself: give camera=NAME")
    return cameras[0]


def first_view(suite: Suite, assignment: Assignment) -> View:
    """What a camera sees when the episode begins: the first one that stays in place.

    Where the suite does not know which do, the first one. Raises ValueError where there is none.
    """
    env = suite.make_env()
    try:
        names = ("task", "goal", "benchmark_seed", "instruction")
        options = {name: getattr(assignment, name) for name in names}
        observation, _ = env.reset(seed=assignment.seed, options=options)
        fixed: dict[str, Any] = getattr(env.unwrapped, "camera_matrices", dict)()
    finally:
        env.close()
    cameras = [*fixed, *(name for name in observation if name != "state")]
    if not cameras:
        raise ValueError(f"{suite.name} shows no images to draw on: name a camera=...")
    return View(cameras[0], np.array(observation[cameras[0]]))


@dataclass(frozen=True)
class Follower:
    """A policy in an episode that it is shown a sketch of.

    Attributes:
        size: (height, width) of the sketch in pixels, as in training.
        style: how it was drawn in training.
        settings: `env`, `eval` and `video` of a config.
        words: told besides; None tells none.
    """

    policy: Policy
    suite: Suite
    size: tuple[int, int]
    style: SketchStyle
    settings: Mapping[str, Any]
    words: str | None = None

    def prompt(self, trace: Trace) -> Row:
        """What the policy is told."""
        scaled, style = trace.scaled(self.size), self.style
        sketch = Sketch(draw(scaled, with_height=style.with_height, width=style.width))
        return [sketch] if self.words is None else [sketch, Language(self.words)]

    def follow(
        self, trace: Trace, assignment: Assignment, *, max_steps: int, success: str = "any"
    ) -> tuple[Outcome, Frames]:
        """Runs the episode; its outcome and what the suite's first camera saw of it."""
        reels: dict[int, Frames] = {}
        env = {**self.settings["env"], "num_envs": 1, "workers": 0, "backend": "python"}
        height, width = self.settings["video"]["size"]
        with open_envs(self.suite, env, render_size=(height, width)) as envs:
            actor = Controller(
                self.policy,
                1,
                action_horizon=self.settings["eval"]["action_horizon"],
                inference_batch=1,
                prompts=lambda _: self.prompt(trace),
            )
            (outcome,) = evaluate(
                actor,
                envs,
                [assignment],
                max_steps=max_steps,
                success=success,
                film=reels.__setitem__,
                film_every=self.settings["video"]["every"],
                description="follow",
            )
        return outcome, reels[0]


def overlay(frame: NDArray[np.uint8], trace: Trace) -> NDArray[np.uint8]:
    """A picture (h, w, 3) with the sketch on it."""
    sketch = draw(trace.scaled((frame.shape[0], frame.shape[1])))
    drawn = sketch.any(axis=2, keepdims=True)
    mixed = np.where(drawn, _SEEN * sketch + (1 - _SEEN) * frame, frame)
    return mixed.astype(np.uint8)


def style_of(config: Mapping[str, Any]) -> SketchStyle:
    """How sketches were drawn in the training that a config describes.

    Raises ValueError where it showed none.
    """
    told = config["source"].get("told") or {}
    if told.get("sketches") is None:
        raise ValueError(
            "this policy was shown no sketches in training (source.told.sketches), so that it "
            "cannot follow one: train one that is, such as experiment=rt_trajectory"
        )
    return SketchStyle(**told["sketches"])
