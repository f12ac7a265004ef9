"""Several objectives: fronts, their measures, and the barrier of an extension."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embodied.algorithms.cmorl import Barrier, mean_returns, shifted
from embodied.objectives.pareto import (
    crowding_distance,
    expected_utility,
    hypervolume,
    select,
    sparsity,
    undominated,
    weight_grid,
)

STAIRS = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
ZERO = np.zeros(2)
points = st.integers(0, 10_000).map(lambda seed: np.random.default_rng(seed).random((6, 3)))


def test_a_row_that_another_beats_is_not_of_the_front():
    rows = np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 3.0], [2.0, 2.0], [2.0, 1.0]])
    assert undominated(rows).tolist() == [1, 2]


def test_the_volume_of_stairs_is_counted_in_squares():
    """Boxes 1x3, 2x2, 3x1 from the origin: columns of heights 3, 2 and 1."""
    assert hypervolume(STAIRS, ZERO) == pytest.approx(6.0)
    assert hypervolume(STAIRS, np.array([1.0, 0.0])) == pytest.approx(3.0)
    assert hypervolume(STAIRS, np.array([5.0, 5.0])) == 0


def test_a_volume_in_three_dimensions():
    """Boxes 2x1x1 and 1x1x2 share the unit cube."""
    assert hypervolume(np.array([[2.0, 1, 1], [1.0, 1, 2]]), np.zeros(3)) == pytest.approx(3.0)


@given(points)
def test_a_volume_is_the_share_of_random_points_that_are_beaten(returns):
    u = np.random.default_rng(1).random((4000, 3))
    share = (u[:, None] < returns[None]).all(-1).any(-1).mean()
    assert hypervolume(returns, np.zeros(3)) == pytest.approx(share, abs=0.04)


@given(points)
def test_beaten_rows_change_no_measure(returns):
    front = returns[undominated(returns)]
    grid = weight_grid(3, 0.25)
    assert hypervolume(front, np.zeros(3)) == pytest.approx(hypervolume(returns, np.zeros(3)))
    assert expected_utility(front, grid) == pytest.approx(expected_utility(returns, grid))
    assert sparsity(front) == sparsity(returns)


def test_a_grid_of_weights_has_all_shares():
    assert weight_grid(2, 0.5).tolist() == [[0, 1], [0.5, 0.5], [1, 0]]
    assert len(weight_grid(3, 0.1)) == 66
    with pytest.raises(ValueError, match="divide 1"):
        weight_grid(2, 0.3)


def test_the_utility_of_a_set_is_that_of_its_best_row_for_each_weight():
    # Weights (0, 1), (1/2, 1/2), (1, 0): best 3, 2, 3.
    assert expected_utility(STAIRS, weight_grid(2, 0.5)) == pytest.approx(8 / 3)


def test_a_set_is_sparse_where_gaps_are_wide():
    assert sparsity(STAIRS) == pytest.approx((2 + 2) / 2)  # two gaps of 1 in both objectives
    assert sparsity(STAIRS[[0, 2]]) == pytest.approx(8.0)
    assert sparsity(STAIRS[:1]) == 0


def test_the_loneliest_rows_are_extended_first_and_none_twice():
    rows = np.array([[0.0, 10.0], [1.0, 9.0], [2.0, 8.0], [9.0, 1.0], [10.0, 0.0], [0.0, 0.0]])
    distance = crowding_distance(rows[:5])
    # Neighbours of the second span 2 of 10 in each objective, of the third and fourth 8.
    assert distance.tolist() == pytest.approx([math.inf, 0.4, 1.6, 1.6, math.inf])
    assert select(rows, 3) == [0, 4, 2]
    assert select(rows, 3, used=frozenset({0, 4, 2})) == [3, 1]


def test_a_barrier_is_what_is_left_above_the_share():
    """At ratio 1 the margin is (1 - 0.9) G; with t = 20 and G = 10, -log(1) / 20 = 0."""
    found = Barrier()(torch.ones(4), torch.tensor([10.0]))
    assert found.item() == pytest.approx(0.0, abs=1e-6)
    two = Barrier()(torch.ones(4), torch.tensor([10.0, 20.0]))
    assert two.item() == pytest.approx(-math.log(2) / 2 / 20, abs=1e-6)


def test_a_barrier_pushes_against_ratios_that_fall_and_is_flat_beyond_the_floor():
    ratio = torch.full((4,), 0.95, requires_grad=True)
    Barrier()(ratio, torch.tensor([10.0])).backward()
    # d/d rho_i of -log(10 mean - 9) / 20 = -10 / 4 / 0.5 / 20
    assert ratio.grad.tolist() == pytest.approx([-0.25] * 4, rel=1e-4)
    low = torch.full((4,), 0.85, requires_grad=True)
    loss = Barrier()(low, torch.tensor([10.0]))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-3) / 20)
    assert low.grad.abs().max() == 0


def test_negative_returns_are_counted_from_the_lowest():
    """Unshifted, a return of -10 would have to be -9 at once, and the floor holds nothing."""
    assert shifted(torch.tensor([-10.0, 5.0]), torch.tensor([-30.0, 0.0])).tolist() == [20.0, 5.0]
    held = shifted(torch.tensor([-10.0]), torch.tensor([-30.0]))
    ratio = torch.ones(4, requires_grad=True)
    Barrier()(ratio, held).backward()
    assert (ratio.grad < 0).all()
    raw = torch.ones(4, requires_grad=True)
    Barrier()(raw, torch.tensor([-10.0])).backward()
    assert raw.grad.tolist() == [0.0] * 4


def test_a_mean_return_is_over_segments():
    objectives = torch.tensor([[1.0, 0.0], [2.0, 1.0], [4.0, 1.0]])
    found = mean_returns(objectives, torch.tensor([True, False, False]))
    assert found.tolist() == [3.5, 1.0]


@pytest.mark.parametrize(("name", "value"), [("beta", 1.0), ("sharpness", 0.0)])
def test_a_barrier_that_makes_no_sense_is_refused(name, value):
    with pytest.raises(ValueError, match=f"algorithm.{name}"):
        Barrier(**{name: value})
