"""Which comparisons are kept back, so that what was learned is judged by segments never shown."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from embodied.data.preferences import Preferences

logger = logging.getLogger(__name__)


def hold_out(
    preferences: Preferences, share: float, fold: int = 0, seed: int = 0
) -> tuple[Preferences, Preferences]:
    """Two disjoint parts, the second with about the share `share`, which have no episode in common.

    Pairs that are linked by shared episodes stay together. Where all are, as if anybody may be
    compared with anybody, pairs are divided at random, and a warning says so.

    Args:
        fold: which part of all is kept back, in [0, 1 / share): over all folds, each pair is once.
        seed: of the order in which pairs are divided.

    Raises ValueError where a number is out of range or nothing would be left to learn from.
    """
    if not 0 < share < 1 or not 0 <= fold < round(1 / share):
        raise ValueError(
            f"held_out must lie in (0, 1) and fold in [0, 1 / held_out), got {share} and {fold}"
        )
    rng = np.random.default_rng(seed)
    kept = _within(linked(preferences), share, fold, rng)
    if not kept.any():
        logger.warning(
            "all pairs are linked by the episodes that they share: pairs are held out, not episodes"
        )
        kept = _within(np.arange(len(preferences)), share, fold, rng)
    if not kept.any() or kept.mean() > 2 * share:
        raise ValueError(
            f"fold {fold} would hold out {kept.sum()} of {len(preferences)} pairs; choose another "
            "fold, or compare more"
        )
    return preferences[~kept], preferences[kept]


def linked(preferences: Preferences) -> NDArray[np.int64]:
    """(N,) a number for each pair, equal where pairs share episodes, directly or through others."""
    root: dict[int, int] = {}

    def find(episode: int) -> int:
        while (above := root.setdefault(episode, episode)) != episode:
            root[episode] = root.get(above, above)
            episode = above
        return episode

    for a, b in zip(preferences.first.episode, preferences.second.episode, strict=True):
        root[find(int(a))] = find(int(b))
    return np.array([find(int(a)) for a in preferences.first.episode], np.int64)


def _within(
    group: NDArray[np.int64], share: float, fold: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """(N,) bool, the groups whose middle lies in the fold, the smallest groups first."""
    names, sizes = np.unique(group, return_counts=True)
    order = np.lexsort((rng.random(len(names)), sizes))
    ends = np.cumsum(sizes[order])
    middle = (ends - sizes[order] / 2) / len(group)
    chosen = (middle >= fold * share) & (middle < (fold + 1) * share)
    return np.isin(group, names[order][chosen])
