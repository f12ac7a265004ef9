"""A front of policies, begun from fixed weights and extended one objective at a time (C-MORL)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from embodied.objectives.pareto import Floats, crowding_distance, select, undominated

State = TypeVar("State")


@dataclass(frozen=True)
class Found(Generic[State]):
    """A policy of the search.

    Attributes:
        returns: (K,) what it earns in each objective.
        state: whatever training goes on from, such as a checkpoint's path.
    """

    returns: Floats
    state: State


Start = Callable[[NDArray[np.float64]], Found[State]]
"""Trains a policy from scratch for weights (K,)."""
Extend = Callable[[Found[State], int], Found[State]]
"""Trains on from a policy, raises the objective of this number and holds the others."""


def search(
    start: Start[State],
    extend: Extend[State],
    weights: Floats,
    *,
    rounds: int,
    count: int = 5,
    capacity: int = 200,
) -> list[Found[State]]:
    """The front after training for each of the weights (m, K) and extending it in rounds.

    Each round goes on from the loneliest policies of the front, each in every objective, and from
    none that an earlier round went on from.

    Args:
        count: how many policies a round goes on from.
        capacity: how many the front keeps; those in the thickest crowd leave it.
    """
    if count < 1 or capacity < 2:
        raise ValueError(
            f"count must be at least 1 and capacity at least 2, got {count} and {capacity}"
        )
    front = _front([start(row) for row in weights], capacity)
    extended: set[int] = set()  # identities, since returns may coincide
    for _ in range(rounds):
        used = frozenset(i for i, found in enumerate(front) if id(found) in extended)
        chosen = [front[i] for i in select(_returns(front), count, used=used)]
        if not chosen:
            break
        extended |= {id(found) for found in chosen}
        new = [extend(found, k) for found in chosen for k in range(weights.shape[1])]
        front = _front([*front, *new], capacity)
    return front


def _front(found: Sequence[Found[State]], capacity: int) -> list[Found[State]]:
    kept = [found[i] for i in undominated(_returns(found))]
    while len(kept) > capacity:
        del kept[int(crowding_distance(_returns(kept)).argmin())]
    return kept


def _returns(found: Sequence[Found[State]]) -> Floats:
    return np.stack([each.returns for each in found])
