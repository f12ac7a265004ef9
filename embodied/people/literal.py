"""An arm that does what it is told in words, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.conditions import LanguageMotion
from embodied.people.corrections import Action, View
from embodied.people.motions import MotionCorrector
from embodied.suites import Assignment, Suite


class Literal:
    """Does to the letter what a person says of each state: as good as words can make a policy that
    obeys and has no skill of its own. An expert (`embodied.suites.Expert`) of one episode.

    Args:
        corrector: factory of a `MotionCorrector`, called with (suite=, assignment=, always=True).
        gain: of the largest action, in (0, 1], for each direction that is named.
        every: steps for which it does what it was told.
        keeps: axes whose last command stays in force until another is named; along the others it
            stops.
    """

    def __init__(
        self,
        *,
        suite: Suite,
        assignment: Assignment,
        corrector: Callable[..., MotionCorrector],
        gain: float = 0.7,
        every: int = 1,
        keeps: Collection[int] = (),
    ) -> None:
        if not 0 < gain <= 1 or every < 1:
            raise ValueError(f"gain must lie in (0, 1] and every be 1 or more, got {gain}, {every}")
        self._person = corrector(suite=suite, assignment=assignment, always=True)
        self._gain, self._every, self._keeps = gain, every, frozenset(keeps)
        self._step, self._said = 0, ""
        self._action: Action | None = None

    def __call__(self, state: NDArray[np.floating[Any]]) -> Action:
        blank = np.zeros(self._person.num_controls, np.float32)
        now = blank if self._action is None else self._action
        view = View(self._step, {"state": state}, "", "", now, executed=self._action)
        correction = self._person(view)
        if self._step % self._every == 0 and correction is not None:
            (part,) = correction.parts
            assert isinstance(part, LanguageMotion)
            self._said = part.text
        self._step += 1
        self._action = self._person.obeyed(self._said, now, gain=self._gain, keeps=self._keeps)
        return self._action
