"""Intervals and paired tests against values worked out by hand, SciPy, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from embodied.statistics import (
    independent_discordance,
    interquartile_mean,
    mcnemar,
    over_seeds,
    paired_bootstrap,
    required_episodes,
    split,
    stratified_bootstrap,
    success_rate,
    wilson,
)

Z = 1.959963984540054


def test_wilson_is_the_textbook_formula():
    estimate = wilson(45, 50)
    centre = (0.9 + Z**2 / 100) / (1 + Z**2 / 50)
    half = Z / (1 + Z**2 / 50) * math.sqrt(0.9 * 0.1 / 50 + Z**2 / (4 * 50**2))
    assert estimate.low == pytest.approx(centre - half)
    assert estimate.high == pytest.approx(centre + half)
    assert (estimate.mean, estimate.episodes) == (0.9, 50)


def test_wilson_at_the_limits_keeps_its_width():
    none, every = wilson(0, 50), wilson(50, 50)
    assert (none.mean, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(Z**2 / (50 + Z**2))
    assert (every.mean, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(50 / (50 + Z**2))


def test_nothing_measured_is_nan_between_zero_and_one():
    estimate = wilson(0, 0)
    assert math.isnan(estimate.mean)
    assert (estimate.low, estimate.high, estimate.episodes) == (0.0, 1.0, 0)


def test_more_successes_than_episodes_are_refused():
    with pytest.raises(ValueError, match=r"successes must lie in \[0, 3\]"):
        wilson(4, 3)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_wilson_covers_the_true_rate(rate: float):
    # Exact coverage over all outcomes of 50 episodes; Wilson's is near 95 % on average.
    wins = np.arange(51)
    covered = [wilson(k, 50).low <= rate <= wilson(k, 50).high for k in wins]
    assert 0.93 < np.sum(stats.binom.pmf(wins, 50, rate) * covered) < 0.98


def test_the_interval_over_seeds_is_students():
    # t(0.975; 2) = 4.3027, the deviation of 1, 2, 3 is 1.
    found = over_seeds([1, 2, 3])
    assert (found.mean, found.episodes) == (2, 3)
    assert found.high - 2 == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert over_seeds([5]).high == math.inf


def test_interquartile_mean_agrees_with_scipy():
    scores = np.random.default_rng(0).normal(size=(5, 11))
    np.testing.assert_allclose(interquartile_mean(scores), stats.trim_mean(scores, 0.25, axis=1))


def test_interquartile_mean_by_hand():
    assert interquartile_mean(np.array([100.0, 2.0, 1.0, 4.0, 3.0, 0.0, 5.0, -7.0])) == 2.5


def test_bootstrap_mean_weighs_tasks_alike():
    estimate = stratified_bootstrap([[1, 1, 1, 0], [0, 1]])
    assert estimate.mean == pytest.approx((0.75 + 0.5) / 2)
    assert estimate.episodes == 6


def test_bootstrap_agrees_with_scipy_on_one_stratum():
    scores = np.random.default_rng(1).random(60)
    ours = stratified_bootstrap([scores], resamples=20_000)
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    interval = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=0.004)


def test_bootstrap_agrees_with_the_slow_obvious_version():
    rng = np.random.default_rng(2)
    strata = [rng.random(8) < 0.7, rng.random(12) < 0.3, rng.random(5) < 0.5]
    means = [
        np.mean([rng.choice(stratum, len(stratum)).mean() for stratum in strata])
        for _ in range(4000)
    ]
    ours = stratified_bootstrap(strata, resamples=20_000)
    expected = np.quantile(means, [0.025, 0.975])
    assert (ours.low, ours.high) == pytest.approx(tuple(expected), abs=0.03)


def test_bootstrap_never_resamples_across_strata():
    # Each task is constant, so only mixing tasks could move the mean.
    estimate = stratified_bootstrap([np.ones(9), np.zeros(9)])
    assert (estimate.low, estimate.mean, estimate.high) == (0.5, 0.5, 0.5)


def test_iqm_over_seeds_ignores_one_failed_seed():
    scores = [[0.8, 0.82, 0.0, 0.81], [0.78, 0.8, 0.81, 0.79]]
    estimate = stratified_bootstrap(scores, statistic="iqm")
    assert estimate.mean == pytest.approx((0.79 + 0.8 + 0.8 + 0.81) / 4)
    assert estimate.low < estimate.mean <= estimate.high


def test_same_seed_gives_the_same_interval():
    scores = [np.random.default_rng(3).random(30)]
    assert stratified_bootstrap(scores, seed=5) == stratified_bootstrap(scores, seed=5)
    assert stratified_bootstrap(scores, seed=5) != stratified_bootstrap(scores, seed=6)


def test_success_rate_covers_the_mean_over_tasks():
    rng = np.random.default_rng(4)
    rates = np.array([0.2, 0.5, 0.7, 0.9])
    covered = 0
    for _ in range(300):
        wins = rng.random((4, 25)) < rates[:, None]
        estimate = success_rate(list(wins))
        covered += estimate.low <= rates.mean() <= estimate.high
    assert 0.91 < covered / 300 < 0.985


@pytest.mark.parametrize("outcome", [0, 1])
def test_success_rate_of_equal_outcomes_is_wilsons(outcome: int):
    assert success_rate([[outcome] * 20, [outcome] * 30]) == wilson(50 * outcome, 50)


def test_success_rate_of_no_tasks_is_not_measured():
    assert success_rate([]).episodes == 0


def test_an_empty_stratum_is_named():
    with pytest.raises(ValueError, match="stratum 1 must be a non-empty"):
        stratified_bootstrap([[1.0], []])


def test_mcnemar_by_hand():
    # One episode only a solves, five only b does: 2 * (C(6,0) + C(6,1)) / 2^6 = 14 / 64.
    a = [1, 1, 0, 1, 0, 0, 0, 0, 0]
    b = [1, 1, 0, 0, 1, 1, 1, 1, 1]
    assert mcnemar(a, b) == pytest.approx(14 / 64)
    assert mcnemar(b, a) == mcnemar(a, b)


def test_mcnemar_without_discordant_episodes_is_one():
    assert mcnemar([1, 0, 1], [1, 0, 1]) == 1.0


def test_mcnemar_rarely_claims_what_is_not_there():
    rng = np.random.default_rng(5)
    claims = [mcnemar(*(rng.random((2, 60)) < 0.6)) < 0.05 for _ in range(1000)]
    assert np.mean(claims) < 0.05


def test_paired_bootstrap_is_the_bootstrap_of_the_differences():
    rng = np.random.default_rng(6)
    a, b = rng.random((2, 80)) < [[0.5], [0.7]]
    estimate = paired_bootstrap(a, b)
    assert estimate == stratified_bootstrap([b.astype(float) - a])
    assert estimate.mean == pytest.approx(b.mean() - a.mean())


def test_paired_difference_is_a_mean_over_tasks():
    a, b = [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]
    estimate = paired_bootstrap(a, b, groups=["x", "x", "x", "x", "y"])
    assert estimate.mean == pytest.approx((1 + 0) / 2)


def test_pairing_narrows_the_interval_of_correlated_outcomes():
    rng = np.random.default_rng(7)
    a = rng.random(200) < 0.5
    b = a ^ (rng.random(200) < 0.1)
    paired = paired_bootstrap(a, b)
    unpaired = math.hypot(*(wilson(int(x.sum()), 200).high - x.mean() for x in (a, b)))
    assert paired.high - paired.low < 0.7 * 2 * unpaired


def test_equal_outcomes_leave_room_for_a_difference():
    outcomes = [1, 0] * 25
    estimate = paired_bootstrap(outcomes, outcomes)
    assert estimate.mean == 0
    assert (estimate.low, estimate.high) == pytest.approx((-0.0713, 0.0713), abs=1e-4)


def test_always_worse_reaches_minus_one_and_no_further():
    estimate = paired_bootstrap([1] * 50, [0] * 50)
    assert (estimate.mean, estimate.low) == (-1.0, -1.0)
    # Tango's score equation n (1 - d) = z^2 (1 + d), mirrored.
    assert estimate.high == pytest.approx(-(50 - Z**2) / (50 + Z**2))


def test_paired_bootstrap_covers_the_difference():
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(300):
        a, b = rng.random((2, 100)) < [[0.5], [0.6]]
        estimate = paired_bootstrap(a, b, resamples=1000)
        covered += estimate.low <= 0.1 <= estimate.high
    assert 0.91 < covered / 300 < 0.985


@pytest.mark.parametrize("bad", [[0, 1], [0, 1, 2]])
def test_outcomes_that_do_not_match_are_refused(bad: list[int]):
    with pytest.raises(ValueError, match=r"matched episodes|must be 0 or 1"):
        mcnemar([0, 1, 1], bad)


def test_required_episodes_by_hand():
    # (1.959964 sqrt(0.2) + 0.841621 sqrt(0.19))^2 / 0.01 + 10 = 164.7
    assert required_episodes(0.1, discordance=0.2) == 165
    assert required_episodes(-0.1, discordance=0.2) == 165


@pytest.mark.parametrize(("difference", "discordance"), [(0.05, 0.1), (0.1, 0.5), (0.2, 0.4)])
def test_required_episodes_give_the_power_they_promise(difference: float, discordance: float):
    n = required_episodes(difference, discordance=discordance)
    m = np.arange(n + 1)  # discordant episodes; the test rejects if the rarer kind is <= k
    k = stats.binom.ppf(0.025, m, 0.5)
    k -= 2 * stats.binom.cdf(k, m, 0.5) >= 0.05
    favoured = (discordance + difference) / (2 * discordance)
    rejects = stats.binom.cdf(k, m, favoured) + stats.binom.sf(m - k - 1, m, favoured)
    power = np.sum(stats.binom.pmf(m, n, discordance) * np.where(k >= 0, rejects, 0))
    assert power == pytest.approx(0.8, abs=0.015)


def test_a_difference_beyond_the_discordance_is_refused():
    with pytest.raises(ValueError, match=r"0 < \|difference\| <= discordance"):
        required_episodes(0.3, discordance=0.2)


def test_independent_discordance_by_hand():
    assert independent_discordance(0.5, 0.1) == pytest.approx(0.5 * 0.4 + 0.6 * 0.5)
    with pytest.raises(ValueError, match="must lie in"):
        independent_discordance(0.9, 0.2)


def test_split_keeps_the_order_of_appearance():
    first, second = split([1, 2, 3], ["b", "a", "b"])
    assert (first.tolist(), second.tolist()) == ([1, 3], [2])
    with pytest.raises(ValueError, match="groups must name each"):
        split([1, 2, 3], ["b", "a"])
