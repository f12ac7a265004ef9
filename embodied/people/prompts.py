"""People who show what they mean, by what an expert does in the same scene: a goal, a sketch."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from embodied.conditions import GoalImage, GoalState, Part, Sketch
from embodied.data.sketches import draw
from embodied.people.corrections import Action, Correction, Level, View
from embodied.prompting import Prompter, demonstrating
from embodied.suites import Assignment, Suite, hand_of


class _Shower(abc.ABC):
    """Speaks where the policy is far from a demonstration of the episode, or late.

    Args:
        tolerance: distance from all its states that is let pass, in their units.
        columns: which numbers of the state are compared; None: the hand's position.
        late: steps by which the nearest state may lag behind; None: any number.

    Attributes:
        states: (L + 1, S) of the demonstration.
    """

    level: Level
    shown: str
    """The modality that prompts are made in."""

    def __init__(
        self,
        *,
        suite: Suite,
        assignment: Assignment,
        tolerance: float,
        columns: Sequence[int] | None = None,
        late: int | None = None,
    ) -> None:
        if columns is None:
            if (hand := hand_of(suite)) is None:
                raise ValueError(f"{suite.name} does not say where its hand is: give `columns`")
            columns = hand.position
        with demonstrating(suite) as demonstrate:
            self._prepare(Prompter(demonstrate, [self.shown]), assignment)
            shown = demonstrate(assignment)
        self.states = np.concatenate([shown.state, shown.final["state"][None]])
        self._columns, self._tolerance, self._late = list(columns), tolerance, late
        self._path = self.states[:, self._columns]

    def __call__(self, view: View) -> Correction | None:
        here = np.asarray(view.observation["state"])[self._columns]
        distances = np.linalg.norm(self._path - here, axis=-1)
        nearest = int(distances.argmin())
        is_late = self._late is not None and view.step - nearest > self._late
        if distances[nearest] <= self._tolerance and not is_late:
            return None
        return Correction(self.level, self._prompt(nearest))

    def demonstrate(self, view: View) -> Action | None:
        return None

    @abc.abstractmethod
    def mistaken(self, wanted: Correction, random: np.random.Generator) -> Correction: ...
    @abc.abstractmethod
    def _prepare(self, prompter: Prompter, assignment: Assignment) -> None:
        """Takes what prompts are made of, while the demonstrator is open."""

    @abc.abstractmethod
    def _prompt(self, nearest: int) -> tuple[Part, ...]:
        """For a policy whose nearest state is that of a step of the demonstration."""


class GoalCorrector(_Shower):
    """Shows a state that the demonstration comes to.

    Args:
        ahead: how many of its steps later; None: its end.
        images: shows what the cameras see at its end instead.
    """

    level, shown = "goal", "goal_image"

    def __init__(self, *, ahead: int | None = 20, images: bool = False, **usual: Any) -> None:
        super().__init__(**usual)
        self._ahead, self._images = ahead, images

    def mistaken(self, wanted: Correction, random: np.random.Generator) -> Correction:
        """Any state of the demonstration."""
        state = self.states[int(random.integers(len(self._path)))]
        return Correction(self.level, (GoalState(state),))

    def _prepare(self, prompter: Prompter, assignment: Assignment) -> None:
        self._final = prompter(assignment)[0]

    def _prompt(self, nearest: int) -> tuple[Part, ...]:
        if self._images:
            assert isinstance(self._final, GoalImage)
            if not self._final.images:
                raise ValueError("goal images need a suite with cameras; give images=false")
            return (self._final,)
        last = len(self._path) - 1
        step = last if self._ahead is None else min(nearest + self._ahead, last)
        return (GoalState(self.states[step]),)


class SketchCorrector(_Shower):
    """Draws the demonstration's path from where the policy is on (RT-Trajectory,
    arXiv:2311.01977), in the image of the suite's first camera that stays in place.

    Args:
        with_height: whether colours tell heights.
    """

    level, shown = "sketch", "sketch"

    def __init__(self, *, with_height: bool = True, **usual: Any) -> None:
        super().__init__(**usual)
        self._with_height = with_height

    def mistaken(self, wanted: Correction, random: np.random.Generator) -> Correction:
        """The path mirrored, left for right."""
        (part,) = wanted.parts
        assert isinstance(part, Sketch)
        return Correction(self.level, (Sketch(np.ascontiguousarray(part.image[:, ::-1])),))

    def _prepare(self, prompter: Prompter, assignment: Assignment) -> None:
        self._trace = prompter.trace(assignment)

    def _prompt(self, nearest: int) -> tuple[Part, ...]:
        nearest = min(nearest, len(self._trace.points) - 1)
        marks = (self._trace.closes, self._trace.opens)
        closes, opens = (None if m is None or m < nearest else m - nearest for m in marks)
        rest = replace(
            self._trace,
            points=self._trace.points[nearest:],
            heights=self._trace.heights[nearest:],
            closes=closes,
            opens=opens,
        )
        return (Sketch(draw(rest, with_height=self._with_height)),)
