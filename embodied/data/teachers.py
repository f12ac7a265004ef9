"""Scripted people, who know the true reward and answer questions as people do, more or less.

B-Pref (Lee et al. 2021, arXiv:2111.03026). Its six teachers are the files of
conf/teacher. Two departures from its code: thresholds are computed anew for each session, whereas
there they shrink tenfold at the first one (multiplied by epsilon twice); and exact ties of a
rational teacher are ties, whereas there the first segment wins them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Answered:
    """What a teacher said of N pairs.

    Attributes:
        second_better: (N,) float32, 0, 1 or 0.5.
        answered: (N,) bool, False where the teacher skipped the question.
    """

    second_better: NDArray[np.float32]
    answered: NDArray[np.bool_]


@dataclass(frozen=True)
class Teacher:
    """Prefers the segment with the higher return, within the limits of its patience.

    Attributes:
        beta: chooses the second with probability sigmoid(beta (its return - the first's)); None is
            always right.
        discount: of earlier steps, in (0, 1]: below 1 the last steps count most.
        mistake: probability of saying the opposite.
        skip: epsilon; skips a question if no return reaches epsilon of what is usual.
        equal: epsilon; finds returns equal that differ by less than epsilon of what is usual.
    """

    beta: float | None = None
    discount: float = 1.0
    mistake: float = 0.0
    skip: float = 0.0
    equal: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.discount <= 1 and 0 <= self.mistake <= 1):
            raise ValueError(
                "discount must lie in (0, 1] and mistake in [0, 1], got "
                f"{self.discount} and {self.mistake}"
            )

    def label(
        self,
        rewards: Floats,
        *,
        usual_return: float,
        rng: np.random.Generator,
    ) -> Answered:
        """Answers N questions.

        Args:
            rewards: (N, 2, T) the true ones.
            usual_return: of a segment; see `usual_return`.
        """
        returns = rewards.sum(-1, dtype=np.float64)
        second_better = self._choose(rewards, rng)
        wrong = rng.random(len(returns)) < self.mistake
        second_better = np.where(wrong, 1 - second_better, second_better)
        if self.equal > 0:
            near = np.abs(returns[:, 1] - returns[:, 0]) < self.equal * usual_return
            second_better = np.where(near, 0.5, second_better)
        answered = np.ones(len(returns), np.bool_)
        if self.skip > 0:
            answered = returns.max(1) >= self.skip * usual_return
        return Answered(second_better.astype(np.float32), answered)

    def _choose(self, rewards: Floats, rng: np.random.Generator) -> NDArray[np.float64]:
        age = np.arange(rewards.shape[-1])[::-1]
        seen = (rewards * self.discount**age).sum(-1, dtype=np.float64)
        gap = seen[:, 1] - seen[:, 0]
        if self.beta is None:
            return np.asarray(0.5 * (1 + np.sign(gap)), np.float64)
        # 1 / (1 + e^-x) would overflow
        second = 0.5 * (1 + np.tanh(0.5 * self.beta * gap))
        return np.asarray(rng.random(len(gap)) < second, np.float64)


def usual_return(
    episode_returns: Sequence[float], *, segment_length: int, episode_length: int
) -> float:
    """What a segment earns: the mean return of the last 10 episodes, for its share of the steps.

    A function of what was seen, never of the threshold before.
    """
    if not len(episode_returns):
        raise ValueError("episode_returns is empty; run an episode before the first session")
    return float(np.mean(list(episode_returns)[-10:])) * segment_length / episode_length
