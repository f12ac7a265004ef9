"""Sets of policies that are judged by several returns: which are not beaten, and how good a set is.

All returns are to be raised; sets are (n, K), a row for each policy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def undominated(returns: Floats) -> NDArray[np.int64]:
    """Numbers of the rows that no other row beats: at least as high in all, higher in one.

    Of equal rows the first counts.
    """
    at_least = (returns[:, None] >= returns[None]).all(-1)
    higher = (returns[:, None] > returns[None]).any(-1)
    equal_before = np.tril((returns[:, None] == returns[None]).all(-1), -1)
    beaten = (at_least & higher).any(0) | equal_before.any(1)
    return np.flatnonzero(~beaten)


def hypervolume(returns: Floats, reference: Floats) -> float:
    """The volume of what is beaten by some row and beats the reference (K,), for any K.

    By slices along the last objective (While et al. 2006); rows that do not beat the reference in
    all objectives add nothing.
    """
    points = np.asarray(returns, np.float64)
    points = points[(points > reference).all(-1)] - reference
    return _volume(points)


def _volume(points: Floats) -> float:
    """Of boxes from 0 to each of the points (n, K)."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points.max())
    levels = np.unique(points[:, -1])
    total, below = 0.0, 0.0
    for level in levels:
        total += (level - below) * _volume(points[points[:, -1] >= level, :-1])
        below = level
    return float(total)


def expected_utility(returns: Floats, weights: Floats) -> float:
    """The mean over weights (m, K) of the best weighted return of any row."""
    return float((weights @ returns.T).max(-1).mean())


def weight_grid(num_objectives: int, step: float) -> Floats:
    """All weights that are multiples of `step`, at least 0, and sum to 1, (m, K)."""
    parts = round(1 / step)
    if num_objectives < 1 or abs(parts * step - 1) > 1e-9:
        raise ValueError(
            f"num_objectives must be at least 1 and step divide 1, got {num_objectives} and {step}"
        )
    return np.array(list(_shares(num_objectives, parts)), np.float64) / parts


def _shares(places: int, left: int) -> list[tuple[int, ...]]:
    """All ways to share `left` among places."""
    if places == 1:
        return [(left,)]
    return [
        (first, *rest) for first in range(left + 1) for rest in _shares(places - 1, left - first)
    ]


def sparsity(returns: Floats) -> float:
    """The mean squared gap between neighbours on the front, summed over objectives; 0 of one row.

    Of undominated rows, sorted in each objective (Xu et al. 2020, "Prediction-Guided
    Multi-Objective Reinforcement Learning").
    """
    front = returns[undominated(returns)]
    if len(front) < 2:
        return 0.0
    return float(np.square(np.diff(np.sort(front, 0), axis=0)).sum() / (len(front) - 1))


def crowding_distance(returns: Floats) -> Floats:
    """(n,) how far apart the neighbours of each row are, summed over objectives scaled to [0, 1].

    The best and the worst in an objective are infinitely far out (NSGA-II, Deb et al. 2002).
    """
    found = np.zeros(len(returns))
    for column in returns.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        found[order[[0, -1]]] = np.inf
        if spread > 0:
            found[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return found


def select(returns: Floats, count: int, *, used: frozenset[int] = frozenset()) -> list[int]:
    """Numbers of up to `count` undominated rows to extend the front from, the loneliest first.

    Args:
        used: numbers of rows that have been extended already, which are not chosen again.
    """
    front = undominated(returns)
    distance = crowding_distance(returns[front])
    order = front[np.argsort(-distance, kind="stable")]
    return [int(number) for number in order if int(number) not in used][:count]
