"""Noise schedules by hand and against the formulas of the papers that they come from."""

from __future__ import annotations

import math

import pytest
import torch

from embodied.heads.schedules import SCHEDULES


def test_schedules_by_hand() -> None:
    torch.testing.assert_close(
        SCHEDULES["exponential"](3, 0.01, 1.0), torch.tensor([1.0, 0.1, 0.01, 0.0])
    )
    torch.testing.assert_close(SCHEDULES["linear"](3, 0.2, 1.0), torch.tensor([1.0, 0.6, 0.2, 0.0]))
    # Karras with rho = 7 from 1 to 2^-7: sigma^(1/7) runs 1, 3/4, 1/2.
    torch.testing.assert_close(
        SCHEDULES["karras"](3, 2.0**-7, 1.0), torch.tensor([1.0, 0.75**7, 0.5**7, 0.0])
    )


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 10])
def test_a_schedule_falls_from_sigma_max_to_zero(name: str, num_steps: int) -> None:
    sigmas = SCHEDULES[name](num_steps, 0.005, 5.0)
    assert len(sigmas) == num_steps + 1
    # iddpm has certain levels only.
    assert sigmas[0].item() == pytest.approx(5.0, rel=1e-2 if name == "iddpm" else 1e-6)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    if num_steps > 1:
        assert sigmas[-2].item() == pytest.approx(0.005, rel=0.3 if name == "iddpm" else 1e-4)


def test_ve_is_geometric_in_the_variance() -> None:
    # Karras et al. 2022, Table 1: sigma_max^2 (sigma_min^2 / sigma_max^2)^(i / (N - 1)).
    variances = torch.tensor([80.0**2 * (0.02 / 80.0) ** (2 * i / 4) for i in range(5)])
    torch.testing.assert_close(SCHEDULES["ve"](5, 0.02, 80.0)[:-1], variances.sqrt())


def test_vp_over_its_whole_range_is_the_published_one() -> None:
    # Karras et al. 2022, Table 1: t from 1 to 1e-3 in equal steps, with beta_d = 19.9.
    t = torch.linspace(1, 1e-3, 6, dtype=torch.float64)
    published = (torch.exp(19.9 * t**2 / 2 + 0.1 * t) - 1).sqrt().float()
    found = SCHEDULES["vp"](6, published[-1].item(), published[0].item())
    torch.testing.assert_close(found[:-1], published, rtol=1e-4, atol=1e-5)


def test_cosine_has_evenly_spaced_times() -> None:
    sigmas = SCHEDULES["cosine"](6, 0.01, 50.0)[:-1].double()
    alpha_bar = 1 / (1 + sigmas**2)
    # Nichol and Dhariwal 2021, Eq. 17, solved for t.
    first = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    times = torch.acos((alpha_bar * first).sqrt()) * 2 / math.pi * 1.008 - 0.008
    torch.testing.assert_close(times.diff(), times.diff().mean().expand(5), rtol=1e-3, atol=0)
    assert times[0].item() == pytest.approx(1.0, abs=0.02)


def test_iddpm_keeps_to_levels_of_the_cosine_schedule() -> None:
    # 1000 steps of alpha-bar = sin^2(pi j / (2 * 1.008 M)); away from its clipped end a level is
    # cot(pi j / (2 * 1.008 M)), counted from u_M = 0 there, where the cosine has not reached 1.
    sigmas = SCHEDULES["iddpm"](5, 0.02, 5.0)[:-1].double()
    alpha_bar = 1 / (1 + sigmas**2)
    last = math.sin(math.pi / 2 / 1.008) ** 2
    j = torch.asin((alpha_bar * last).sqrt()) * 2 / math.pi * 1000 * 1.008
    torch.testing.assert_close(j, j.round(), atol=2e-2, rtol=0)
    # Evenly chosen: the counts of levels between those that are visited differ by one at most.
    gaps = j.round().diff()
    assert gaps.max() - gaps.min() <= 1


def test_iddpm_says_that_it_has_too_few_levels() -> None:
    with pytest.raises(ValueError, match=r"iddpm has \d+ levels in \[0.5, 0.6\], fewer than"):
        SCHEDULES["iddpm"](500, 0.5, 0.6)
