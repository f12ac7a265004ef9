"""Measures of data against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied_datasets.checking.quality import (
    Grid,
    idle_share,
    jerk,
    language_diversity,
    length_outliers,
    saco,
    trajectory_quality,
)


def test_trajectory_quality_is_0_for_the_random_and_1_for_the_online_policy() -> None:
    reference = {"random_return": -20.0, "online_return": 180.0}
    assert trajectory_quality([-30, -10], **reference) == 0
    assert trajectory_quality([180], **reference) == 1
    assert trajectory_quality([80], **reference) == 0.5
    assert trajectory_quality([280], **reference) == 1.5  # data may beat the online policy


def test_trajectory_quality_needs_a_scale() -> None:
    with pytest.raises(ValueError, match="must differ"):
        trajectory_quality([1], random_return=3, online_return=3)


@settings(max_examples=15)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 50))
def test_coverage_of_the_replay_data_is_1(state_dim: int, action_dim: int, steps: int) -> None:
    rng = np.random.default_rng(steps)
    replay = rng.normal(size=(steps, state_dim)), rng.normal(size=(steps, action_dim))
    assert saco(replay, replay) == 1


def test_cells_are_counted_as_by_hand() -> None:
    # In one dimension of states over [0, 10], a bin is 0.1 wide; the actions do not vary.
    state = np.array([[0.0], [0.05], [0.15], [0.19], [9.99], [10.0]])
    action = np.zeros((6, 1))
    assert Grid.fit(state, action).count(state, action) == 3
    # Pairs differ where the actions do, and what lies outside falls into the last bin.
    action[1] = 1
    grid = Grid.fit(state, action)
    assert grid.count(state, action) == 4
    assert grid.count(np.array([[10.0], [11.0], [900.0]]), np.zeros((3, 1))) == 1


@pytest.mark.parametrize("state_dim", [2, 30])
def test_an_expert_who_repeats_himself_covers_little(state_dim: int) -> None:
    rng = np.random.default_rng(0)
    replay = rng.uniform(-1, 1, (2000, state_dim)), rng.uniform(-1, 1, (2000, 2))
    once = replay[0][:50], replay[1][:50]
    expert = np.tile(once[0], (40, 1)), np.tile(once[1], (40, 1))
    assert saco(expert, replay) < 0.05
    logarithms = saco(expert, replay, log=True)
    assert 0.4 < logarithms < 0.6  # log 50 / log 2000 = 0.51
    half = replay[0].copy(), replay[1].copy()
    half[0][1000:], half[1][1000:] = half[0][:1000], half[1][:1000]
    assert saco(half, replay) == pytest.approx(0.5, abs=0.02)


def test_coverage_needs_data_of_equal_size() -> None:
    data = np.zeros((4, 1)), np.zeros((4, 1))
    with pytest.raises(ValueError, match="as many steps"):
        saco(data, (np.zeros((5, 1)), np.zeros((5, 1))))


def test_jerk_is_the_third_derivative() -> None:
    time = np.arange(20)[:, None] / 10.0
    assert jerk(5 * time**2 + time, 10.0) == pytest.approx(0, abs=1e-8)
    assert jerk(time**3, 10.0) == pytest.approx(6)
    assert np.isnan(jerk(time[:3], 10.0))


def test_idle_steps_are_those_without_motion_in_any_dimension() -> None:
    state = np.array([[0, 0], [0, 0], [1, 0], [1, 0], [1, 1e-5]], float)
    assert idle_share(state, [1, 1]) == 0.75
    assert idle_share(state, [1, 1e-4]) == 0.5
    assert idle_share(state[:1], [1, 1]) == 0


def test_length_outliers_are_far_from_the_median() -> None:
    assert length_outliers([100, 104, 98, 101, 20, 99, 400]) == [4, 6]
    assert length_outliers([100, 100, 100, 101]) == []
    assert length_outliers([]) == []


def test_diversity_of_instructions() -> None:
    found = language_diversity(["Open the drawer.", "open the drawer", "close the drawer", ""])
    assert (found.distinct, found.words) == (2, 6)
    assert found.type_token == pytest.approx(4 / 6)  # open, close, the, drawer
    assert found.pairwise == pytest.approx(1 - 2 / 4)
    assert language_diversity([]) == language_diversity(["", " "])
    assert language_diversity(["go"]).pairwise == 0
