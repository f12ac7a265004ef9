"""What a person who watches a policy sees, and what they may ask for instead.

Words for a motion (RT-H, Belkhale et al. 2024, arXiv:2403.01823, Sec. III-D) or a sub-task (YAY
Robot, Shi et al. 2024, arXiv:2403.12910, Sec. IV), a drawn path, a goal, or the controls themselves
(HG-DAgger, Kelly et al. 2019, arXiv:1810.02890) reach a running policy in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from embodied.conditions import Row
from embodied.suites import Assignment

Level = Literal["action", "motion", "subtask", "sketch", "goal"]
LEVELS: tuple[Level, ...] = get_args(Level)
FULL = "full"
"""The observation, beside those of the policy, by which people see all that an expert sees."""

Action = NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """One step of a running episode, as the person who watches it knows it.

    Attributes:
        step: from 0.
        observation: name -> array, without a batch.
        said: the phrase that the policy acts by, its own or one that it was given; "" if none.
        told: the instruction in force.
        planned: (A,) what is about to be executed, environment units.
        executed: (A,) what was executed in the step before; None at first.
        corrected: whether that was under a correction.
        held: whether what happens now is.
        waiting: whether a correction was given that no inference has taken up yet.
    """

    step: int
    observation: Mapping[str, NDArray[Any]]
    said: str
    told: str
    planned: Action
    executed: Action | None = None
    corrected: bool = False
    held: bool = False
    waiting: bool = False

    @property
    def state(self) -> NDArray[Any]:
        """All that an expert sees: `FULL` where the simulator gives it, else the state."""
        return self.observation.get(FULL, self.observation["state"])


@dataclass(frozen=True)
class Correction:
    """What is to be done instead, and for how long.

    Attributes:
        parts: these stand in what the policy is asked for those of their kinds.
        act: for the level "action": gives the action (A,) of each step in the policy's place.
        steps: for how many steps; None until it is released or another takes its place.
        replan: asks the policy at once, and does not wait until its chunk is executed.
    """

    level: Level
    parts: Row = ()
    act: Callable[[View], Action] | None = None
    steps: int | None = None
    replan: bool = True

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level must be one of {LEVELS}, got {self.level!r}")
        if (self.act is None) is (self.level == "action") or bool(self.parts) is bool(self.act):
            raise ValueError(
                "a correction of actions needs `act` and no parts, any other needs parts and no "
                f"`act`; got level {self.level!r} with {len(self.parts)} parts"
            )
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"a correction lasts 1 step or more, got {self.steps}")


@dataclass(frozen=True)
class Release:
    """The policy does as it likes again, from now on."""


class Person(Protocol):
    """Watches one episode."""

    @property
    def name(self) -> str:
        """Who it is, in the records."""
        ...

    def __call__(self, view: View) -> Correction | Release | None:
        """Called at every step, before its action is executed; None lets the policy go on."""
        ...

    def demonstrate(self, view: View) -> Action | None:
        """What they would do themselves (A,), after they were called with the view; None for those
        who cannot say."""
        ...


class People(Protocol):
    """Who watches which episode: a person of its own for each, so that none affects another."""

    def begin(self, assignment: Assignment) -> Person: ...
