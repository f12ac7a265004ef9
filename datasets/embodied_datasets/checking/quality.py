"""Figures about how good, how varied and how smooth recorded data are.

Trajectory quality and state-action coverage follow the code of Schweighofer et al. 2022
(arXiv:2111.04714) with three departures: pairs are counted exactly and not by HyperLogLog (1 %
error); bin limits are always the replay data's, so that two data sets share them; and where a
pair has more than 8 numbers, in which nearly every pair is unique, a random projection is counted.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embodied_datasets.checking.common import rows

Floats = NDArray[np.float64]

NUM_BINS = 100
MAX_DIM = 8
PROJECTED_DIM = 6
_MAX_TEXTS = 300  # distinct instructions of which all pairs are compared


def trajectory_quality(returns: ArrayLike, *, random_return: float, online_return: float) -> float:
    """TQ: the mean return, 0 for a random policy's and 1 for the online policy's; not clipped.

    Args:
        returns: (N,) undiscounted returns of the data set's trajectories.
        random_return: mean return of the random data set.
        online_return: best evaluation return of the online policy.
    """
    if online_return == random_return:
        raise ValueError(
            f"random_return and online_return must differ, both are {online_return}; without a "
            "better policy there is no scale"
        )
    mean = float(np.mean(np.asarray(returns, np.float64)))
    return (mean - random_return) / (online_return - random_return)


@dataclass(frozen=True)
class Grid:
    """Cells of state-action space, 100 bins a dimension between the limits of reference data.

    Attributes:
        low, high: (S + A,) limits of the reference pairs.
        directions: (S + A, D) random projection of pairs scaled to [0, 1]; None below 9 numbers.
        cut: (D,) limits of the projected reference pairs.
    """

    low: Floats
    high: Floats
    directions: Floats | None
    cut: tuple[Floats, Floats] | None

    @classmethod
    def fit(cls, state: ArrayLike, action: ArrayLike, *, seed: int = 0) -> Grid:
        """Takes the limits of the pairs (N, S) and (N, A); the seed is the projection's."""
        pairs = _pairs(state, action)
        low, high = pairs.min(0), pairs.max(0)
        if pairs.shape[1] <= MAX_DIM:
            return cls(low, high, None, None)
        shape = (pairs.shape[1], PROJECTED_DIM)
        directions = np.random.default_rng(seed).standard_normal(shape)
        projected = _scaled(pairs, low, high) @ directions
        return cls(low, high, directions, (projected.min(0), projected.max(0)))

    def count(self, state: ArrayLike, action: ArrayLike) -> int:
        """How many cells the pairs fall into; what lies outside counts to the outermost bins."""
        place = _scaled(_pairs(state, action), self.low, self.high)
        if self.directions is not None and self.cut is not None:
            place = _scaled(place @ self.directions, *self.cut)
        bins = np.clip(np.floor(place * NUM_BINS), 0, NUM_BINS - 1).astype(np.int64)
        keys = bins @ NUM_BINS ** np.arange(bins.shape[1], dtype=np.int64)  # 100^8 < 2^63
        return len(np.unique(keys))


def saco(
    data: tuple[ArrayLike, ArrayLike],
    replay: tuple[ArrayLike, ArrayLike],
    *,
    log: bool = False,
    seed: int = 0,
) -> float:
    """SACo: unique state-action pairs relative to an online run's replay data; may exceed 1.

    Args:
        data, replay: states (N, S) and actions (N, A), as many of one as of the other.
        log: lSACo, the ratio of the logarithms.

    Raises ValueError if the sizes differ: more data visit more pairs.
    """
    sizes = [len(np.asarray(state)) for state, _ in (data, replay)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"data and replay must have as many steps, got {sizes[0]} and {sizes[1]}; draw a "
            "sample of the larger"
        )
    grid = Grid.fit(*replay, seed=seed)
    found, reference = (grid.count(*each) for each in (data, replay))
    return float(np.log(found) / np.log(reference)) if log else found / reference


def jerk(positions: ArrayLike, rate_hz: float) -> float:
    """Root mean square of the third derivative, in units per s^3; NaN for fewer than 4 steps."""
    third = np.diff(rows(np.asarray(positions)), n=3, axis=0)
    return float(np.sqrt(np.mean(third**2)) * rate_hz**3) if third.size else float("nan")


def idle_share(state: ArrayLike, scale: ArrayLike, *, tolerance: float = 1e-3) -> float:
    """Share of steps in which no dimension moves by more than `tolerance` of its scale (S,)."""
    steps = abs(np.diff(rows(np.asarray(state)), axis=0))
    if not steps.size:
        return 0.0
    return float((steps <= tolerance * np.asarray(scale, np.float64)).all(1).mean())


def length_outliers(lengths: Sequence[int], *, deviations: float = 5.0) -> list[int]:
    """Indices of episodes whose length is far from the median, by its absolute deviation."""
    values = np.asarray(lengths, np.float64)
    if not len(values):
        return []
    off = abs(values - np.median(values))
    spread = max(1.4826 * float(np.median(off)), 0.05 * float(np.median(values)), 1.0)
    return [int(i) for i in np.flatnonzero(off > deviations * spread)]


@dataclass(frozen=True)
class Diversity:
    """How varied instructions are.

    Attributes:
        distinct: number of different instructions.
        words: number of words in all distinct ones.
        type_token: different words among those, in (0, 1]; 0 without words.
        pairwise: mean Jaccard distance of the word sets of two distinct instructions, in [0, 1].
    """

    distinct: int
    words: int
    type_token: float
    pairwise: float


def language_diversity(instructions: Sequence[str]) -> Diversity:
    """Of the instructions of a set, case and punctuation aside."""
    distinct = [text for text in dict.fromkeys(map(_plain, instructions)) if text]
    tokens = [word for text in distinct for word in text.split()]
    sets = [set(text.split()) for text in distinct[:_MAX_TEXTS]]
    distances = [1 - len(a & b) / len(a | b) for a, b in itertools.combinations(sets, 2)]
    return Diversity(
        distinct=len(distinct),
        words=len(tokens),
        type_token=len(set(tokens)) / len(tokens) if tokens else 0.0,
        pairwise=float(np.mean(distances)) if distances else 0.0,
    )


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _pairs(state: ArrayLike, action: ArrayLike) -> Floats:
    return np.hstack([rows(np.asarray(state)), rows(np.asarray(action))])


def _scaled(values: Floats, low: Floats, high: Floats) -> Floats:
    """Values with their limits moved to 0 and 1; what never changes stays at 0."""
    return np.asarray((values - low) / np.where(high > low, high - low, 1.0))
