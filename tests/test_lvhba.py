"""Constrained bilevel problems whose solutions are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.objectives.lvhba import LVHBA, Iterate, affine_projection, normalised

N = 100
RATES: dict[str, Any] = {
    "rate": 0.3,
    "inner_rate": 0.5,
    "anchor_rate": 0.9,
    "proximity": (10.0, 1.0),
}


def solve(method: LVHBA, x: Tensor, y: Tensor, steps: int) -> Iterate:
    at = method.start(x, y)
    for _ in range(steps):
        at = method.step(at)
    return at


def coupled_sum(scale: float) -> LVHBA:
    """The published example: 100 outer and 200 inner numbers whose sum is held at 0.

    min 1/2 |x - y2|^2 + 1/2 |y1 - 1|^2, y minimising 1/2 |y1|^2 - x . y1 + 1 . y2. The lower
    level's stationarity gives a multiplier of -1 and y1 = x + 1; with y2 = -2 x - 1 of the sum, the
    upper level is (3 x + 1)^2 / 2 + x^2 / 2 for each, least at x = -0.3.
    """

    def upper(x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * ((x - y[N:]).square().sum() + (y[:N] - 1).square().sum())

    def lower(x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * y[:N].square().sum() - x @ y[:N] + y[N:].sum()

    def constraint(x: Tensor, y: Tensor) -> Tensor:
        return (x.sum() + y.sum())[None] / scale

    project = affine_projection(torch.ones(N), torch.ones(2 * N), 0.0, equality=True)
    return LVHBA(upper, lower, constraint, project, equality=True)


def distance(at: Iterate) -> float:
    return float((at.x + 0.3).abs().mean())


def test_the_published_example_is_solved_once_its_constraint_is_scaled() -> None:
    at = solve(coupled_sum(math.sqrt(3 * N)), torch.zeros(N), torch.zeros(2 * N), 600)
    assert distance(at) < 0.02
    assert float((at.y[:N] - 0.7).abs().mean()) < 0.03
    assert float((at.y[N:] + 0.4).abs().mean()) < 0.03
    assert float(at.multiplier) == pytest.approx(-math.sqrt(3 * N), rel=0.02)
    assert float((at.x.sum() + at.y.sum()).abs()) < 1e-3


def test_normalised_the_units_of_a_constraint_do_not_matter() -> None:
    """Ten times as steep as it stands, the constraint drives the same rates apart."""
    x, y = torch.zeros(N), torch.zeros(2 * N)
    steep, plain = coupled_sum(0.1), coupled_sum(1.0)
    assert distance(solve(steep, x, y, 100)) > 10
    found = []
    for method in (steep, plain):
        method.constraint = normalised(method.constraint, x, y)
        assert float(method.constraint(x + 1, y)) == pytest.approx(N / math.sqrt(3 * N))
        found.append(solve(method, x, y, 100))
    assert torch.allclose(found[0].x, found[1].x, atol=1e-4)


def test_a_limit_on_the_lower_level_binds() -> None:
    """The lower level follows x up to 1; the upper wants x = 3 and y = 2: so x = 3, y = 1."""
    project = affine_projection(torch.zeros(1), torch.ones(1), 1.0, equality=False)
    method = LVHBA(
        lambda x, y: 0.5 * ((y - 2).square() + (x - 3).square()).sum(),
        lambda x, y: 0.5 * (y - x).square().sum(),
        lambda x, y: y - 1,
        project,
        **RATES,
    )
    at = solve(method, torch.zeros(1), torch.zeros(1), 400)
    assert float(at.x) == pytest.approx(3.0, abs=0.01)
    assert float(at.y) == pytest.approx(1.0, abs=0.01)
    assert float(at.multiplier) == pytest.approx(2.0, abs=0.01)  # y - x + multiplier = 0


def test_a_limit_that_does_not_bind_is_without_effect() -> None:
    project = affine_projection(torch.zeros(1), torch.ones(1), 9.0, equality=False)
    method = LVHBA(
        lambda x, y: 0.5 * ((y - 2).square() + (x - 3).square()).sum(),
        lambda x, y: 0.5 * (y - x).square().sum(),
        lambda x, y: y - 9,
        project,
        **RATES,
    )
    at = solve(method, torch.zeros(1), torch.zeros(1), 400)
    assert float(at.multiplier) == 0.0
    assert float(at.x) == pytest.approx(2.5, abs=0.1)  # y = x; between the two wishes
    assert float(at.y) == pytest.approx(2.5, abs=0.1)


def test_projections_end_on_the_nearest_allowed_pair() -> None:
    project = affine_projection(torch.tensor([1.0, 0.0]), torch.tensor([1.0]), 1.0, equality=False)
    inside = torch.tensor([0.2, 5.0]), torch.tensor([0.3])
    assert all(torch.equal(a, b) for a, b in zip(project(*inside), inside, strict=True))
    x, y = project(torch.tensor([2.0, 5.0]), torch.tensor([3.0]))
    assert x.tolist() == [0.0, 5.0]
    assert y.tolist() == [1.0]


def test_settings_without_meaning_are_refused() -> None:
    def nothing(x: Tensor, y: Tensor) -> Tensor:
        return 0 * y

    project = affine_projection(torch.zeros(1), torch.ones(1), 1.0, equality=False)
    with pytest.raises(ValueError, match="power"):
        LVHBA(nothing, nothing, nothing, project, power=0.5)
    with pytest.raises(ValueError, match="constraint 0 has no slope"):
        normalised(nothing, torch.ones(1), torch.ones(1))
