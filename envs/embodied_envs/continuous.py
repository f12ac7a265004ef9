"""Continuous goals in words, after ARNOLD: "leave the window a quarter open".

An episode asks for a fraction of an object's range and is done when that is held: within 10 % of
the range and nearly still (below 5 % of it in a second) for 20 steps on end, which are two seconds,
as in ARNOLD (Gong et al. 2023, arXiv:2304.04321). Leaving the band sets the count to zero.

Departures: a finger on rails moves joints with friction in one scene of four objects, instead of an
arm in scanned rooms; actions are small displacements, not two key poses for a planner; openings
begin anywhere, so that opening and closing are one task.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from embodied.suites import Expert, Hand
from embodied_envs.catalogue import TaskFacts
from embodied_envs.continuous_experts import FractionExpert
from embodied_envs.continuous_scene import (
    HOLD_STEPS,
    NOVEL_POSES,
    OBJECTS,
    STATE_DIM,
    TRAINED_POSES,
    ContinuousScene,
)
from embodied_envs.continuous_text import continuous_texts
from embodied_envs.options import check_choice
from embodied_envs.scene import RATE_HZ
from embodied_envs.simulated import SimulatedSuite

GRID = (25, 50, 75, 100)
OFF_GRID = (12, 18, 33, 40, 58, 64, 70, 88)  # percent; what `any_state` asks for by default
MAX_STEPS = 150

Split = Literal["seen", "novel_pose", "novel_state", "any_state"]


@dataclass(frozen=True)
class Continuous(SimulatedSuite):
    """Bring a drawer, a window, a door or a knob to a fraction of its range, and leave it there.

    Tasks are named "<object>-<percent>", such as "drawer-25". Actions are (3,), the displacement of
    the finger's target in units of 3 cm, in [-1, 1]; for the state see `ContinuousScene`. Episodes
    terminate when the object was held and are truncated after 150 steps. See `SimulatedSuite` for
    the other fields.

    Attributes:
        tasks: all of the split's, where none is named.
        split: "seen" has the percentages of the grid that are trained on, and poses of the trained
            range; "novel_pose" has poses outside that range; "novel_state" the percentage of the
            grid that is held out; "any_state" those off the grid.
        held_out: the percentage of the grid that "seen" and "novel_pose" leave out.
        goal_visible: whether the target fraction is the last number of the state; without it, only
            the words say it.
    """

    library: ClassVar[str] = "continuous"
    camera_names: ClassVar[tuple[str, ...]] = ("front", "top", "side")

    tasks: tuple[str, ...] = ()
    split: Split = "seen"
    held_out: int = 75
    goal_visible: bool = False

    def __post_init__(self) -> None:
        check_choice("split", self.split, get_args(Split))
        if self.held_out not in GRID:
            raise ValueError(f"held_out must be one of the grid's {GRID}, got {self.held_out}")
        if not self.tasks:
            object.__setattr__(self, "tasks", self._default_tasks())
        super().__post_init__()

    @property
    def name(self) -> str:
        return f"continuous/{self.split}{'+goal' if self.goal_visible else ''}"

    @property
    def hand(self) -> Hand:
        """The fingertip."""
        return Hand()

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """All tasks of the split, any whole percentage off the grid among them."""
        return _catalogue(self._percentages(), STATE_DIM + self.goal_visible)

    def open_simulator(self, task: str) -> ContinuousScene:
        """The scene, with the task's object to be moved."""
        name, percent = parse_task(task)
        poses = NOVEL_POSES if self.split == "novel_pose" else TRAINED_POSES
        return ContinuousScene(name, percent / 100, poses=poses, goal_visible=self.goal_visible)

    def expert(self, task: str, *, seed: int = 0) -> Expert:
        """Takes the state (S,); the target it knows from the task."""
        check_choice("task", task, self.tasks)
        name, percent = parse_task(task)
        return FractionExpert(name, percent / 100, seed=seed)

    def _percentages(self) -> tuple[int, ...]:
        if self.split == "novel_state":
            return (self.held_out,)
        if self.split == "any_state":
            return tuple(percent for percent in range(101) if percent not in GRID)
        return tuple(percent for percent in GRID if percent != self.held_out)

    def _default_tasks(self) -> tuple[str, ...]:
        percentages = OFF_GRID if self.split == "any_state" else self._percentages()
        return tuple(f"{name}-{percent}" for name in OBJECTS for percent in percentages)


def parse_task(task: str) -> tuple[str, int]:
    """The object and the percentage of a task's name."""
    name, _, percent = task.partition("-")
    return name, int(percent)


@functools.cache
def _catalogue(percentages: tuple[int, ...], state_dim: int) -> Mapping[str, TaskFacts]:
    return {
        f"{name}-{percent}": TaskFacts(
            state_dim=state_dim,
            action_dim=3,
            rate_hz=RATE_HZ,
            max_steps=MAX_STEPS,
            measure="held",
            threshold=HOLD_STEPS,
            texts=continuous_texts(name, percent),
        )
        for name in OBJECTS
        for percent in percentages
    }
