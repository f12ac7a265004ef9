"""What a data set offers a learner from rewards: how good it is, and how much it has seen.

TQ and SACo of Schweighofer et al. 2022, "A Dataset Perspective on Offline Reinforcement Learning",
arXiv:2111.04714, Section 3. Departures: pairs are counted exactly, and not by HyperLogLog; all sets
of a comparison share the replay data's bins; and pairs of many dimensions, of which hardly two
would ever be alike, are counted in a random projection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Episodes
from embodied_datasets.faults import DataError, Fault

Floats = NDArray[np.floating[Any]]
NUM_BINS = 100
MAX_DIMS = 8  # of states and actions together, beyond which they are projected
PROJECTED_DIMS = 6


@dataclass(frozen=True)
class Measures:
    """What is said of a data set.

    Attributes:
        mean_return: of its episodes, undiscounted.
        quality: TQ, 0 for random data and 1 for the best policy's; None without references.
        coverage, log_coverage: SACo and lSACo against replay data; None without these.
    """

    num_episodes: int
    num_steps: int
    mean_return: float
    quality: float | None = None
    coverage: float | None = None
    log_coverage: float | None = None


def measure(
    episodes: Episodes,
    *,
    random: Episodes | None = None,
    best: float | None = None,
    replay: Episodes | None = None,
    seed: int = 0,
) -> Measures:
    """Measures a data set with rewards.

    Args:
        random: data of uniform actions; TQ needs them and `best`.
        best: the best mean return that a policy reached which learned online.
        replay: all that this policy had done, of which SACo is a share.
        seed: of the projection, and of which pairs are counted where sizes differ.

    Raises DataError for episodes without rewards, ValueError where the best is no better than
    random, or where sizes differ.
    """
    returns = returns_of(episodes)
    quality = None
    if random is not None and best is not None:
        quality = trajectory_quality(returns, returns_of(random), best)
    covered = None if replay is None else coverage(pairs_of(episodes), pairs_of(replay), seed=seed)
    return Measures(
        len(episodes),
        sum(len(each) for each in episodes),
        float(returns.mean()),
        quality,
        *(covered or (None, None)),
    )


def trajectory_quality(returns: Floats, random: Floats, best: float) -> float:
    """TQ of the returns (E,) of a data set's episodes, given random ones and the best mean."""
    worst = float(random.mean())
    if best <= worst:
        raise ValueError(f"best must exceed the random data's mean return of {worst:g}, got {best}")
    return (float(returns.mean()) - worst) / (best - worst)


def coverage(pairs: Floats, replay: Floats, *, seed: int = 0) -> tuple[float, float]:
    """SACo and lSACo of (n, S + A) and (m, S + A): distinct pairs over the replay data's.

    Of the larger set as many are drawn as the smaller one has, since more steps see more.
    """
    if pairs.shape[1] != replay.shape[1]:
        raise ValueError(
            f"states and actions have {pairs.shape[1]} numbers, those of the replay data "
            f"{replay.shape[1]}: name sets of one task"
        )
    number = min(len(pairs), len(replay))
    pairs, replay = (_some(each, number, seed) for each in (pairs, replay))
    if replay.shape[1] > MAX_DIMS:
        centre, scale = replay.mean(0), replay.std(0) + 1e-8
        onto = np.random.default_rng(seed).standard_normal((replay.shape[1], PROJECTED_DIMS))
        pairs, replay = ((each - centre) / scale @ onto for each in (pairs, replay))
    low, high = replay.min(0), replay.max(0)
    mine, theirs = (_distinct(each, low, high) for each in (pairs, replay))
    return mine / theirs, float(np.log(mine) / np.log(theirs)) if theirs > 1 else 1.0


def _some(rows: Floats, number: int, seed: int) -> Floats:
    chosen = np.random.default_rng([seed, 1]).permutation(len(rows))[:number]
    return rows[np.sort(chosen)].astype(np.float64)


def _distinct(rows: Floats, low: Floats, high: Floats) -> int:
    """How many of the rows (n, d) differ in any bin; what lies outside counts as at the edge."""
    width = np.where(high > low, high - low, 1.0)
    bins = np.clip((rows - low) / width * NUM_BINS, 0, NUM_BINS - 1).astype(np.uint8)
    return len(np.unique(bins, axis=0))


def returns_of(episodes: Iterable[Episode]) -> Floats:
    """Undiscounted returns (E,)."""
    return np.array([float(_reward(each, i).sum()) for i, each in enumerate(episodes)])


def pairs_of(episodes: Iterable[Episode]) -> Floats:
    """All states with their actions, (n, S + A)."""
    return np.concatenate([np.concatenate([each.state, each.action], 1) for each in episodes])


def _reward(episode: Episode, index: int) -> NDArray[np.float32]:
    if episode.reward is None:
        message, remedy = "has no rewards", "record them, or label with scripts/relabel.py"
        raise DataError(Fault("E_DATA_REWARD", message, remedy, episode=index))
    return episode.reward
