"""How often which noise is trained: quantiles worked out from the distribution functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from embodied.heads.densities import DENSITIES, Levels

RANGE = Levels(0.005, 1.0, 0.5, sampled=torch.tensor([1.0, 0.1, 0.01]))
U = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0])


def quantiles(name: str, levels: Levels = RANGE) -> Tensor:
    return DENSITIES[name](U, levels)


def test_loglogistic() -> None:
    # F(s) = 1 / (1 + (0.5 / s)^2) for location ln 0.5 and scale 0.5. F(0.005) = 1e-4 and
    # F(1) = 0.8, so u = 0.5 lies at F = 0.40005: s = 0.5 sqrt(0.40005 / 0.59995) = 0.408;
    # u = 0.05 at F = 0.0401 gives 0.102, and u = 0.95 at F = 0.76 gives 0.890.
    expected = torch.tensor([0.005, 0.1022, 0.4083, 0.8898, 1.0])
    torch.testing.assert_close(quantiles("loglogistic"), expected, atol=2e-4, rtol=0)


def test_lognormal() -> None:
    # Phi((ln 0.005 + 1.2) / 1.2) = Phi(-3.4153) = 0.00032 and Phi(1) = 0.84134, so that u = 0.5
    # lies at Phi = 0.42083, z = -0.19975: exp(-1.2 - 0.2397) = 0.2370. Of 0.05, at 0.04237,
    # z = -1.72390: 0.03806; of 0.95, at 0.79929, z = 0.83915: 0.8244.
    expected = torch.tensor([0.005, 0.0381, 0.2370, 0.8244, 1.0])
    torch.testing.assert_close(quantiles("lognormal"), expected, atol=3e-4, rtol=0)


def test_loguniform() -> None:
    # 0.005 * 200^u.
    expected = torch.tensor([0.005 * 200**u for u in (0.0, 0.05, 0.5, 0.95, 1.0)])
    torch.testing.assert_close(quantiles("loguniform"), expected)


def test_uniform() -> None:
    expected = torch.tensor([0.005, 0.05475, 0.5025, 0.95025, 1.0])
    torch.testing.assert_close(quantiles("uniform"), expected)


def test_v_diffusion() -> None:
    # Between atan(0.01) = 0.0099997 and atan(2) = 1.1071487, tan(0.5585742) = 0.624965.
    found = quantiles("v_diffusion")
    assert found[2].item() == pytest.approx(0.5 * 0.624965, rel=1e-4)
    assert found[[0, 4]].tolist() == pytest.approx([0.005, 1.0])


def test_v_diffusion_over_all_noise_has_half_of_it_below_sigma_data() -> None:
    found = quantiles("v_diffusion", Levels(1e-6, 1e6, 0.5, torch.ones(1)))
    assert found[2].item() == pytest.approx(0.5, rel=1e-3)


def test_discrete_takes_the_sampled_levels_equally_often() -> None:
    u = (torch.arange(300) + 0.5) / 300
    found = DENSITIES["discrete"](u, RANGE)
    values, counts = found.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0.01, 0.1, 1.0]))
    assert counts.tolist() == [100, 100, 100]


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("bounds", [(0.005, 1.0), (0.001, 80.0), (0.5, 1e4)])
def test_noise_stays_in_its_range(name: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    levels = Levels(low, high, 0.5, sampled=torch.tensor([high, math.sqrt(low * high), low]))
    u = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    sigma = DENSITIES[name](u, levels)
    assert low * 0.99 < float(sigma.min()) <= float(sigma.max()) < high * 1.01
    assert (DENSITIES[name](u.sort().values, levels).diff() >= 0).all() or name == "discrete"
