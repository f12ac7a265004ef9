"""What people want of a policy, from a scripted expert who knows: its action, its sub-task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from embodied.conditions import Language, LanguageMotion, Part
from embodied.people.corrections import Action, Correction, View
from embodied.suites import Assignment, Player, Staged, Suite


class ActionCorrector:
    """Takes the controls where the policy strays from the expert (HG-DAgger, arXiv:1810.02890).

    Args:
        tolerance: largest difference of a number of the action that is let pass, in its units.
        low, high: bounds of the action; experts may ask for more.
    """

    def __init__(
        self,
        *,
        suite: Suite,
        assignment: Assignment,
        tolerance: float = 0.5,
        low: float = -1.0,
        high: float = 1.0,
    ) -> None:
        self._expert = suite.expert(assignment.task, seed=assignment.seed)
        self._tolerance, self._low, self._high = tolerance, low, high
        self._action: Action = np.zeros(0, np.float32)

    def __call__(self, view: View) -> Correction | None:
        action = self._expert(view.state)
        self._action = np.clip(action, self._low, self._high).astype(np.float32)
        if np.abs(view.planned - self._action).max() <= self._tolerance:
            return None
        return Correction("action", act=self._act)

    def mistaken(self, wanted: Correction, random: np.random.Generator) -> Correction:
        action = random.uniform(self._low, self._high, self._action.shape).astype(np.float32)
        return Correction("action", act=lambda view: action)

    def demonstrate(self, view: View) -> Action:
        return self._action

    def _act(self, view: View) -> Action:
        return self._action


class SubtaskCorrector:
    """Names the sub-task that is due where the policy pursues another (YAY Robot,
    arXiv:2403.12910).

    The expert must be a `Player` or `Staged`.

    Args:
        said_as: "motion" gives the words to a policy with phrases in place of its own, "language"
            to any other in place of its instruction.
        choices: what a mistaken person may say; None: the instructions of the suite's tasks.
    """

    def __init__(
        self,
        *,
        suite: Suite,
        assignment: Assignment,
        said_as: Literal["language", "motion"] = "language",
        choices: Sequence[str] | None = None,
    ) -> None:
        if said_as not in ("language", "motion"):
            raise ValueError(f"said_as must be 'language' or 'motion', got {said_as!r}")
        self._expert = suite.expert(assignment.task, seed=assignment.seed)
        if not isinstance(self._expert, Player | Staged):
            raise ValueError(
                f"the expert of {assignment.task} knows no sub-tasks: it needs `pursuits` (Player) "
                "or `subtask` (Staged)"
            )
        self._said_as = said_as
        self._choices = [suite.texts(task).canonical for task in suite.tasks]
        if choices is not None:
            self._choices = list(choices)
        self._action: Action | None = None

    def __call__(self, view: View) -> Correction | None:
        self._action = self._expert(view.state)
        due = self._due(view)
        heard = view.said if self._said_as == "motion" else view.told
        return None if due == heard else self._correction(due)

    def mistaken(self, wanted: Correction, random: np.random.Generator) -> Correction:
        others = [words for words in self._choices if [self._part(words)] != list(wanted.parts)]
        if not others:
            return wanted
        return self._correction(others[int(random.integers(len(others)))])

    def demonstrate(self, view: View) -> Action | None:
        return self._action

    def _due(self, view: View) -> str:
        if isinstance(self._expert, Player):
            return self._expert.pursuits[-1][1]
        assert isinstance(self._expert, Staged)
        return self._expert.subtask(view.state)

    def _correction(self, words: str) -> Correction:
        return Correction("subtask", (self._part(words),))

    def _part(self, words: str) -> Part:
        return LanguageMotion(words) if self._said_as == "motion" else Language(words)
