"""Language motions: what an arm does next, in a few words, from its own sensors.

RT-H (Belkhale et al. 2024, arXiv:2403.01823, Sec. III-B): for each dimension of the change of the
end effector a pair of words; those that hardly change are left out, the others named from the
largest to the smallest. Nobody annotates anything.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STILL = "hold still"
_AND = " and "


@dataclass(frozen=True)
class Axis:
    """One dimension of motion.

    Attributes:
        positive, negative: the words for a change along the dimension and against it.
        threshold: least change over the horizon that is worth a word, in the data's units (m, rad,
            or the gripper's). Too small, and phrases are hard to predict; too large, and they say
            little.
    """

    positive: str
    negative: str
    threshold: float


Term = tuple[int, int]
"""An axis and the sign of its change, +1 or -1."""


class MotionGrammar:
    """Phrases such as "move arm forward and close gripper", and what they mean.

    Every phrase is a sequence of terms joined by "and", or `STILL`; `terms` and `phrase` are each
    other's inverse.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = tuple(axes)
        self._terms = {
            words: (i, sign)
            for i, axis in enumerate(axes)
            for words, sign in ((axis.positive, 1), (axis.negative, -1))
        }
        if len(self._terms) != 2 * len(self.axes) or STILL in self._terms:
            raise ValueError(f"the words of all directions must differ, got {sorted(self._terms)}")
        wrong = [words for words in self._terms if _AND in words or words != words.strip()]
        thresholds = [axis.threshold for axis in axes]
        if wrong or not self.axes or min(thresholds) <= 0:
            raise ValueError(
                f"axes need words without {_AND!r} (wrong: {wrong}) and thresholds above 0, "
                f"got {thresholds}"
            )
        self._thresholds = np.array(thresholds)

    def describe(self, change: NDArray[np.floating]) -> str:
        """The phrase of a change (D,) over the horizon, the largest part of it first.

        Parts are compared in units of their thresholds, so that metres and radians can be.
        """
        relative = np.asarray(change, np.float64) / self._thresholds
        order = sorted(range(len(relative)), key=lambda i: -abs(relative[i]))
        return self.phrase([(i, int(np.sign(relative[i]))) for i in order if abs(relative[i]) >= 1])

    def phrase(self, terms: Sequence[Term]) -> str:
        """The words for some terms, in their order."""
        words = [self.axes[i].positive if sign > 0 else self.axes[i].negative for i, sign in terms]
        return _AND.join(words) or STILL

    def terms(self, phrase: str) -> tuple[Term, ...]:
        """What a phrase says. Raises ValueError naming the nearest known words."""
        words = phrase.strip().split(_AND)
        if words == [STILL]:
            return ()
        found = []
        for word in words:
            if word not in self._terms:
                near = difflib.get_close_matches(word, self._terms, 1, 0.0)
                raise ValueError(f"no motion is called {word!r}; the nearest is {near[0]!r}")
            found.append(self._terms[word])
        if len({axis for axis, _ in found}) < len(found):
            raise ValueError(f"{phrase!r} names a direction twice; name each once")
        return tuple(found)

    def label(self, pose: NDArray[np.floating], horizon: int) -> list[str]:
        """The phrase at each step of an episode: the change over the next `horizon` steps.

        Args:
            pose: (L, D) what the axes measure, at each step. Angles must not wrap.

        The last steps look as far ahead as there are steps.
        """
        if pose.ndim != 2 or pose.shape[1] != len(self.axes):
            raise ValueError(f"pose must be (L, {len(self.axes)}), got shape {pose.shape}")
        if horizon < 1:
            raise ValueError(f"horizon must be 1 step or more, got {horizon}")
        ahead = np.minimum(np.arange(len(pose)) + horizon, len(pose) - 1)
        return [self.describe(change) for change in pose[ahead] - pose]
