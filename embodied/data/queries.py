"""Which pairs to ask about, from many candidates: one signature, so that a config can name it.

    choose(probability, count, rng) -> (count,) indices of candidates

`probability` (E, C) is what each member of an ensemble thinks of each of C pairs: that the second
is better. As in B-Pref (Lee et al. 2021, arXiv:2111.03026), ten times as many candidates
as questions are usual.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


def uniform(probability: Floats, count: int, rng: np.random.Generator) -> Integers:
    """Any, each once."""
    return rng.choice(_candidates(probability, count), count, replace=False)


def disagreement(probability: Floats, count: int, rng: np.random.Generator) -> Integers:
    """Those of which the members think most differently, by the standard deviation."""
    return _highest(probability.std(0), count, rng)


def entropy(probability: Floats, count: int, rng: np.random.Generator) -> Integers:
    """Those of which the members themselves are least sure, by their mean entropy."""
    p = np.clip(probability.astype(np.float64), 1e-12, 1 - 1e-12)
    return _highest(-(p * np.log(p) + (1 - p) * np.log1p(-p)).mean(0), count, rng)


def _highest(score: Floats, count: int, rng: np.random.Generator) -> Integers:
    """Ties, such as before anything was learned, are broken at random."""
    size = _candidates(score[None], count)
    order = np.lexsort((rng.random(size), -score))
    return order[:count].astype(np.int64)


def _candidates(probability: Floats, count: int) -> int:
    size: int = probability.shape[1]
    if not 0 <= count <= size:
        raise ValueError(f"count must lie in [0, {size}] (candidates), got {count}")
    return size
