"""Normalisers: the arithmetic, and no silent identity where statistics are missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embodied.normalize import MinMax, ZScore

DATA = torch.tensor([[1.0, 0.0, 5.0], [3.0, 8.0, 5.0]])
KINDS = (ZScore, MinMax)


def test_z_scores_by_hand() -> None:
    normalizer = ZScore(3)
    normalizer.fit(DATA)
    # Column 0: mean 2, std 1. Column 1: mean 4, std 4. Column 2 is constant: mean 5, unscaled.
    assert normalizer.mean.tolist() == [2.0, 4.0, 5.0]
    assert normalizer.std.tolist() == [1.0, 4.0, 1.0]
    out = normalizer(torch.tensor([[3.0, 2.0, 5.0], [2.0, 4.0, 5.5]]))
    assert out.tolist() == [[1.0, -0.5, 0.0], [0.0, 0.0, 0.5]]


def test_min_max_by_hand() -> None:
    normalizer = MinMax(3)
    normalizer.fit(DATA)
    assert normalizer(DATA).tolist() == [[-1.0, -1.0, 0.0], [1.0, 1.0, 0.0]]
    assert normalizer(torch.tensor([2.0, 2.0, 5.0])).tolist() == [0.0, -0.5, 0.0]
    assert normalizer.inverse(torch.tensor([0.0, -0.5, 0.0])).tolist() == [2.0, 2.0, 5.0]


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_of_data_is_all_constant(kind: Any) -> None:
    normalizer = kind(2)
    normalizer.fit(torch.tensor([[3.0, -2.0]]))
    assert normalizer(torch.tensor([3.0, -2.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.lists(st.lists(st.floats(-100, 100), min_size=2, max_size=2), min_size=2))
def test_the_inverse_undoes_it(kind: Any, data: list[list[float]]) -> None:
    x = torch.tensor(data)
    normalizer = kind(2)
    normalizer.fit(x)
    torch.testing.assert_close(normalizer.inverse(normalizer(x)), x, atol=1e-3, rtol=1e-5)


def test_large_offsets_do_not_spoil_the_deviation() -> None:
    normalizer = ZScore(1)
    normalizer.fit(torch.tensor([[10000.0], [10000.5]]))
    # In float32, E[x^2] - E[x]^2 would lose all digits of 0.25^2 beside 1e8.
    assert normalizer.std.item() == 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_an_unfitted_normalizer_refuses_to_work(kind: Any) -> None:
    for use in (kind(2), kind(2).inverse):
        with pytest.raises(RuntimeError, match=r"no statistics \((mean, std|low, high)\): call"):
            use(torch.zeros(1, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_travel_in_the_state_dict(kind: Any) -> None:
    fitted, fresh = kind(3), kind(3)
    fitted.fit(DATA)
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh(DATA), fitted(DATA))
    with pytest.raises(RuntimeError, match="Missing key"):
        kind(3).load_state_dict({})


@pytest.mark.parametrize("kind", KINDS)
def test_loading_unfitted_statistics_leaves_it_unfitted(kind: Any) -> None:
    normalizer = kind(3)
    normalizer.fit(DATA)
    normalizer.load_state_dict(kind(3).state_dict())
    with pytest.raises(RuntimeError, match="has no statistics"):
        normalizer(DATA)


@pytest.mark.parametrize("kind", KINDS)
def test_data_that_are_not_finite_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="non-finite"):
        kind(3).fit(torch.full((2, 3), torch.nan))


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_width_is_named(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(2,\), got \(3,\)"):
        kind(2).fit(DATA)
    normalizer = kind(3)
    normalizer.fit(DATA)
    with pytest.raises(ValueError, match=r"last dimension of 3, got shape \(4, 2\)"):
        normalizer(torch.zeros(4, 2))
