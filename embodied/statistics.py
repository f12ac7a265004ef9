"""Intervals for success rates and paired tests between two policies; NumPy and SciPy only.

A success rate without an interval says little: 45 of 50 is compatible with 79 % and with 96 %.
Two policies are compared on the *same* episodes, which removes the luck of the draw of goals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_CHUNK = 4_000_000  # random draws held in memory at once, 32 MB


@dataclass(frozen=True)
class Estimate:
    """A measured value with its interval.

    Attributes:
        mean: the point estimate; NaN where nothing was measured.
        low, high: ends of the interval, at the confidence that the caller chose.
        episodes: how many scores it rests on.
    """

    mean: float
    low: float
    high: float
    episodes: int


def wilson(successes: int, episodes: int, *, confidence: float = 0.95) -> Estimate:
    """The Wilson score interval of one success rate; nothing measured gives NaN in [0, 1]."""
    if not 0 <= successes <= episodes:
        raise ValueError(f"successes must lie in [0, {episodes}] (the episodes), got {successes}")
    if episodes == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    test = _scipy().binomtest(successes, episodes)
    interval = test.proportion_ci(confidence_level=confidence, method="wilson")
    return Estimate(successes / episodes, float(interval.low), float(interval.high), episodes)


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean and Student's 95 % interval, which is infinite for one seed."""
    numbers = np.asarray(values, np.float64)
    mean, n = float(numbers.mean()), len(numbers)
    if n == 1:
        return Estimate(mean, -math.inf, math.inf, 1)
    half = float(_scipy().t.ppf(0.975, n - 1) * numbers.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def interquartile_mean(scores: Floats) -> Floats:
    """Mean of the middle half along the last axis (Agarwal et al. 2021; arXiv:2108.13264).

    The number cut from each end is rounded down, as in SciPy's `trim_mean`.
    """
    cut = scores.shape[-1] // 4
    ordered = np.sort(scores, axis=-1)
    return np.asarray(ordered[..., cut : scores.shape[-1] - cut].mean(axis=-1))


def stratified_bootstrap(
    strata: Sequence[ArrayLike],
    *,
    statistic: Literal["mean", "iqm"] = "mean",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Percentile interval from resampling within each stratum, never across strata.

    Args:
        strata: per task an (n,) array of scores, n may differ. For one policy the scores are its
            episodes' outcomes. With several training seeds they are each seed's rate on the task,
            so that the interval covers the training's randomness as well (Agarwal et al. 2021).
        statistic: "mean" is the mean over tasks of the per-task means; "iqm" is the interquartile
            mean of all scores together, for several seeds.

    Where all scores within every stratum are equal the interval has no width: a bootstrap cannot
    see what did not happen. `success_rate` and `paired_bootstrap` mend that for binary outcomes.
    """
    arrays = [_scores(stratum, k) for k, stratum in enumerate(strata)]
    if not arrays:
        raise ValueError("strata must hold at least one array of scores, got none")
    rng = np.random.default_rng(seed)
    if statistic == "mean":
        point = float(np.mean([scores.mean() for scores in arrays]))
        draws = np.mean([_resampled_means(s, resamples, rng) for s in arrays], axis=0)
    elif statistic == "iqm":
        point = float(interquartile_mean(np.concatenate(arrays)))
        pooled = [s[rng.integers(len(s), size=(resamples, len(s)))] for s in arrays]
        draws = interquartile_mean(np.concatenate(pooled, axis=1))
    else:
        raise ValueError(f"statistic must be 'mean' or 'iqm', got {statistic!r}")
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(point, float(low), float(high), sum(map(len, arrays)))


def success_rate(
    strata: Sequence[ArrayLike], *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Mean over tasks of the per-task success rates, with its interval.

    Args:
        strata: per task an (n,) array of outcomes, 0 or 1.

    The interval is the stratified bootstrap's. A single task, or outcomes that are all alike, get
    Wilson's over the pooled episodes: there the bootstrap is too narrow, at the limits of width 0.
    """
    arrays = [_scores(stratum, k) for k, stratum in enumerate(strata)]
    pooled = np.concatenate(arrays) if arrays else np.zeros(0)
    if len(arrays) <= 1 or np.ptp(pooled) == 0:
        return wilson(int(pooled.sum()), len(pooled), confidence=confidence)
    return stratified_bootstrap(arrays, confidence=confidence, seed=seed)


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Exact two-sided p-value that two policies succeed equally often on the same episodes.

    Args:
        a, b: (n,) outcomes, 0 or 1; a[i] and b[i] belong to the same episode.

    Only episodes where exactly one succeeds count; under the null hypothesis each is a fair coin
    (McNemar 1947). Without any, p is 1.
    """
    first, second = _pair(a, b)
    only_a = int(np.sum((first == 1) & (second == 0)))
    only_b = int(np.sum((first == 0) & (second == 1)))
    if only_a + only_b == 0:
        return 1.0
    return float(_scipy().binomtest(only_a, only_a + only_b, 0.5).pvalue)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: Sequence[Any] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Interval of the success of b minus that of a, in [-1, 1], over matched episodes.

    Args:
        a, b: (n,) outcomes, 0 or 1; a[i] and b[i] belong to the same episode.
        groups: n task names; the difference is then the mean over tasks, as in `success_rate`.

    Where every pair differs by the same amount the bootstrap has no width, and Tango's score
    interval (1998) takes its place: for no difference at all in n pairs, +-z^2 / (n + z^2).
    """
    first, second = _pair(a, b)
    difference = second - first
    if np.ptp(difference) == 0:
        return _tango_at_the_limit(float(difference[0]), len(difference), confidence)
    strata = split(difference, groups if groups is not None else [0] * len(difference))
    return stratified_bootstrap(strata, confidence=confidence, resamples=resamples, seed=seed)


def required_episodes(
    difference: float, *, discordance: float, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Matched episodes needed for the exact McNemar test to see a given difference.

    Args:
        difference: of the two success rates, in [-1, 1], not 0.
        discordance: the share of episodes in which exactly one policy succeeds, at least
            |difference|; see `independent_discordance`.

    Connor 1987 (Biometrics 43:207), plus 1 / |difference| episodes for continuity: the exact test
    is that much harder to pass than the normal approximation.
    """
    effect = abs(difference)
    if not 0 < effect <= discordance <= 1:
        raise ValueError(
            "difference and discordance must satisfy 0 < |difference| <= discordance <= 1, got "
            f"difference={difference} and discordance={discordance}"
        )
    z_alpha, z_beta = _scipy().norm.ppf(1 - alpha / 2), _scipy().norm.ppf(power)
    spread = z_alpha * math.sqrt(discordance) + z_beta * math.sqrt(discordance - effect**2)
    return int(np.ceil((spread / effect) ** 2 + 1 / effect))


def independent_discordance(rate: float, difference: float) -> float:
    """The discordance of two policies with rates `rate` and `rate + difference` that succeed
    independently of each other: the cautious guess before any episode has been run."""
    other = rate + difference
    if not (0 <= rate <= 1 and 0 <= other <= 1):
        raise ValueError(f"rate and rate + difference must lie in [0, 1], got {rate} and {other}")
    return rate * (1 - other) + other * (1 - rate)


def split(values: ArrayLike, groups: Iterable[Any]) -> list[Floats]:
    """The (n,) values as one array per distinct group, in the order of first appearance."""
    numbers = np.asarray(values, dtype=np.float64)
    rows: dict[Any, list[int]] = {}
    for index, group in enumerate(groups):
        rows.setdefault(group, []).append(index)
    if sum(map(len, rows.values())) != len(numbers):
        raise ValueError(f"groups must name each of the {len(numbers)} values")
    return [numbers[index] for index in rows.values()]


def _scores(stratum: ArrayLike, index: int) -> Floats:
    scores = np.asarray(stratum, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(
            f"stratum {index} must be a non-empty 1-d array of finite scores, got shape "
            f"{scores.shape}; leave out tasks without valid episodes"
        )
    return scores


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    first, second = _scores(a, 0), _scores(b, 1)
    if len(first) != len(second):
        raise ValueError(f"a and b must be matched episodes, got {len(first)} and {len(second)}")
    if not np.isin(np.concatenate([first, second]), (0.0, 1.0)).all():
        raise ValueError("outcomes must be 0 or 1; compare scores of another kind by hand")
    return first, second


def _resampled_means(scores: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Means of `resamples` samples with replacement, (resamples,), in bounded memory."""
    rows = max(1, _CHUNK // len(scores))
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    draws = [scores[rng.integers(len(scores), size=(k, len(scores)))].mean(axis=1) for k in sizes]
    return np.concatenate(draws)


def _tango_at_the_limit(difference: float, episodes: int, confidence: float) -> Estimate:
    """Tango's interval where all pairs have the same difference, -1, 0 or 1; closed form."""
    z2 = float(_scipy().norm.ppf((1 + confidence) / 2)) ** 2
    half = (1 + abs(difference)) * z2 / (episodes + z2)
    low, high = max(-1.0, difference - half), min(1.0, difference + half)
    return Estimate(difference, low, high, episodes)


def _scipy() -> Any:
    # Late: it takes as long to import as torch, and shards of an evaluation compute no interval.
    from scipy import stats

    return stats
