"""A person who says in which direction the arm should go (RT-H, arXiv:2403.01823, Sec. III-D)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.conditions import LanguageMotion
from embodied.data.motions import Axis, MotionGrammar
from embodied.people.corrections import Action, Correction, View
from embodied.suites import Assignment, Suite

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Foresight:
    """Where an action leads within the next steps, if it is repeated.

    An expert tells an action for what it sees, and not what it will see. So each of D measures of
    the pose is taken to go on at its present speed for `inertia` steps of the horizon, then at
    `scale * action` for the others, within the pose's bounds.

    Attributes:
        columns: (D,) which numbers of the state the measures are.
        controls: (D,) which number of the action moves each of them.
        scale: (D,) change of each in one step at an action of 1; negative where it goes the other
            way.
        horizon: steps.
        inertia: (D,) steps, for arms that follow late; None for none.
        low, high: (D,) the pose's bounds; None for none.
    """

    columns: Sequence[int]
    controls: Sequence[int]
    scale: Sequence[float]
    horizon: int
    inertia: Sequence[float] | None = None
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.columns), len(self.controls), len(self.scale)}
        optional = (self.inertia, self.low, self.high)
        sizes |= {len(each) for each in optional if each is not None}
        if len(sizes) > 1 or self.horizon < 1:
            raise ValueError(
                "columns, controls, scale, inertia and bounds must be of one length and horizon 1 "
                f"or more, got lengths {sorted(sizes)} and horizon {self.horizon}"
            )

    def pose(self, state: NDArray[Any]) -> Vector:
        """The measures (D,) in a state (S,)."""
        pose: Vector = np.asarray(state, np.float64)[list(self.columns)]
        return pose

    def push(self, action: NDArray[Any]) -> Vector:
        """(D,) by how much an action (A,) would move each measure in one step."""
        chosen: Vector = np.asarray(action, np.float64)[list(self.controls)]
        return chosen * np.asarray(self.scale, np.float64)

    def change(self, pose: Vector, speed: Vector, action: NDArray[Any]) -> Vector:
        """(D,) the change over the horizon; `speed` (D,) is that of the last step."""
        coasting = np.zeros(len(pose)) if self.inertia is None else np.asarray(self.inertia)
        coasting = np.minimum(coasting, self.horizon)
        ahead = pose + coasting * speed + (self.horizon - coasting) * self.push(action)
        if self.low is not None or self.high is not None:
            ahead = np.clip(ahead, self.low, self.high)
        return ahead - pose


class MotionCorrector:
    """Says the phrase of what the expert would do where the policy's phrase is another.

    Terms are compared without their order. A policy without phrases is judged by the action that it
    is about to take. A measure that was pushed for a whole horizon and hardly moved, such as those
    of a gripper that holds something, is taken to stay where it is.

    Args:
        axes: words and threshold of each measure, as in `MotionGrammar`.
        slack: share of a threshold by which a change may miss it without being worth a word.
        always: speaks also where a policy that has no phrase would do right by itself, so that it
            is told each motion in words and nothing is left to it.
    """

    def __init__(
        self,
        *,
        suite: Suite,
        assignment: Assignment,
        axes: Sequence[Mapping[str, Any]],
        foresight: Foresight,
        slack: float = 0.0,
        always: bool = False,
    ) -> None:
        self.grammar = MotionGrammar([Axis(**axis) for axis in axes])
        if len(self.grammar.axes) != len(foresight.columns):
            raise ValueError(
                f"foresight must measure the {len(self.grammar.axes)} axes, got "
                f"{len(foresight.columns)} columns"
            )
        self._thresholds = np.array([axis.threshold for axis in self.grammar.axes])
        self._expert = suite.expert(assignment.task, seed=assignment.seed)
        self._foresight, self._slack, self._always = foresight, slack, always
        self._action: Action = np.zeros(0, np.float32)
        self._past: deque[tuple[Vector, Vector]] = deque(maxlen=foresight.horizon)
        self._pose: Vector | None = None
        self._speed: Vector = np.zeros(len(foresight.columns))

    def __call__(self, view: View) -> Correction | None:
        self._action = self._expert(view.state)
        pose = self._foresight.pose(view.state)
        if view.executed is not None and self._pose is not None:
            self._past.append((self._pose, self._foresight.push(view.executed)))
            self._speed = pose - self._pose
        self._pose = pose
        change = self._ahead(pose, self._action)
        said = view.said
        if not said and not self._always:
            said = self.grammar.describe(self._ahead(pose, view.planned))
        if self._is_right(said, change):
            return None
        return Correction("motion", (LanguageMotion(self.grammar.describe(change)),))

    def mistaken(self, wanted: Correction, random: np.random.Generator) -> Correction:
        (part,) = wanted.parts
        assert isinstance(part, LanguageMotion)
        right = self.grammar.terms(part.text)
        others = [(i, s) for i in range(len(self._thresholds)) for s in (1, -1)]
        others = [term for term in others if term not in right]
        wrong = others[int(random.integers(len(others)))]
        return Correction("motion", (LanguageMotion(self.grammar.phrase([wrong])),))

    def demonstrate(self, view: View) -> Action:
        return self._action

    @property
    def num_controls(self) -> int:
        """Numbers of an action, as far as the axes move by them."""
        return 1 + max(self._foresight.controls)

    def obeyed(
        self, phrase: str, before: Action, *, gain: float, keeps: Collection[int] = ()
    ) -> Action:
        """(A,) the action that does to the letter what a phrase says.

        Args:
            before: (A,) the action of the step before.
            gain: size of the numbers that move a named axis.
            keeps: axes that go on with what they did before where they are not named; others stop.
        """
        action = before.astype(np.float32).copy()
        named = dict(self.grammar.terms(phrase))
        for axis, control in enumerate(self._foresight.controls):
            if axis in named:
                action[control] = gain * named[axis] * np.sign(self._foresight.scale[axis])
            elif axis not in keeps:
                action[control] = 0
        return action

    def _ahead(self, pose: Vector, action: Action) -> Vector:
        """(D,) what changes over the horizon if the action is repeated."""
        change = self._foresight.change(pose, self._speed, action)
        if len(self._past) < self._foresight.horizon:
            return change
        pushed = np.sum([push for _, push in self._past], axis=0)
        moved = pose - self._past[0][0]
        blocked = (np.abs(pushed) >= self._thresholds) & (np.abs(moved) < self._thresholds / 2)
        return np.where(blocked & (np.sign(pushed) == np.sign(change)), 0.0, change)

    def _is_right(self, phrase: str, change: Vector) -> bool:
        """Whether a phrase says of each axis what happens, but for what is nearly a threshold."""
        try:
            said = dict(self.grammar.terms(phrase))
        except ValueError:  # no words of this grammar
            return False
        relative = change / self._thresholds
        signs = np.array([said.get(i, 0) for i in range(len(relative))])
        named = signs * relative >= 1 - self._slack
        unnamed = np.abs(relative) < 1 + self._slack
        return bool(np.where(signs != 0, named, unnamed).all())
