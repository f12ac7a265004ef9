"""Samplers against diffusers, against a closed-form ODE solution, and against one known point."""

from __future__ import annotations

import functools
import math
from itertools import product

import pytest
import torch
from diffusers import EDMEulerScheduler
from torch import Tensor

from embodied.heads.edm import EDMHead
from embodied.heads.samplers import SAMPLERS, SCHEDULES, Denoiser, ddim, euler, heun
from embodied.noise import BatchNoise

MEAN, STD = 0.3, 0.5  # of the Gaussian data below


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def gaussian_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """E[a | a + sigma n = x] for a ~ N(MEAN, STD^2)."""
    return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)


def exact_solution(x: Tensor, sigma_max: float) -> Tensor:
    """Where the probability-flow ODE carries x from sigma_max to 0.

    dx/dsigma = (x - D) / sigma = sigma / (STD^2 + sigma^2) (x - MEAN), so x - MEAN grows as
    sqrt(STD^2 + sigma^2).
    """
    return MEAN + (x - MEAN) * STD / math.hypot(STD, sigma_max)


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
    assert sigmas[0].item() == pytest.approx(5.0)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize("schedule", ["karras", "exponential"])
@pytest.mark.parametrize("num_steps", [2, 3, 10])
def test_euler_on_a_real_head_equals_diffusers(schedule: str, num_steps: int) -> None:
    torch.manual_seed(0)
    head = EDMHead(
        action_dim=2,
        pred_horizon=4,
        num_tokens=3,
        dim=16,
        num_layers=1,
        sampler="euler",
        schedule=schedule,
        num_steps=num_steps,
        sigma_max=5.0,
    ).requires_grad_(False)
    torch.nn.init.normal_(head.trunk.out.weight, std=0.5)  # so that the network matters
    context = torch.randn(5, 3, 16)
    memories = head.trunk.remember(context)
    reference = EDMEulerScheduler(
        sigma_min=0.005, sigma_max=5.0, sigma_data=0.5, sigma_schedule=schedule
    )
    reference.set_timesteps(num_steps)
    x = 5.0 * noise().normal(5, 4, 2, device=torch.device("cpu"))
    for t, sigma in zip(reference.timesteps, reference.sigmas, strict=False):
        scaled = reference.scale_model_input(x, t)
        output = head.network(scaled, sigma.expand(5), memories)
        x = reference.step(output, t, x).prev_sample
    torch.testing.assert_close(head.sample(context, noise=noise()), x, atol=1e-5, rtol=0)


def test_ddim_and_euler_are_one_method_in_the_sigma_form() -> None:
    """DDIM (Song et al. 2020, Eq. 12, eta = 0) with alpha-bar = 1 / (1 + sigma^2), scaled back."""
    sigma, next_sigma = torch.tensor(2.0), torch.tensor(0.5)
    x = torch.randn(4, 1, 1, dtype=torch.float64)
    clean = gaussian_denoiser(x, sigma)
    epsilon = (x - clean) / sigma
    expected = clean + next_sigma * epsilon  # sqrt(a) clean + sqrt(1 - a) epsilon, over sqrt(a)
    found = ddim(gaussian_denoiser, x, torch.stack([sigma, next_sigma]), noise())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2)])
def test_the_error_shrinks_with_the_order_of_the_method(sampler: object, order: int) -> None:
    x = torch.linspace(-5, 5, 11, dtype=torch.float64)[:, None, None]
    exact = exact_solution(x, 5.0)

    def error(num_steps: int) -> float:
        # The last step, from sigma_min to 0, is Euler's in every method; 1e-5 makes it harmless.
        sigmas = SCHEDULES["karras"](num_steps, 1e-5, 5.0).double()
        assert callable(sampler)
        return float((sampler(gaussian_denoiser, x, sigmas, noise()) - exact).abs().max())

    orders = [math.log2(error(n) / error(2 * n)) for n in (32, 64)]
    assert orders == pytest.approx([order, order], abs=0.2)


def test_heun_is_closer_than_euler_for_the_same_steps() -> None:
    x = torch.linspace(-5, 5, 11, dtype=torch.float64)[:, None, None]
    sigmas = SCHEDULES["karras"](20, 0.005, 5.0).double()
    errors = {
        name: (SAMPLERS[name](gaussian_denoiser, x, sigmas, noise()) - exact_solution(x, 5.0))
        for name in ("euler", "heun")
    }
    assert errors["heun"].abs().max() < errors["euler"].abs().max() / 3


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_keeps_mean_and_variance_with_many_steps(name: str) -> None:
    start = MEAN + math.hypot(STD, 5.0) * noise(1).normal(20000, 1, 1, device=torch.device("cpu"))
    sigmas = SCHEDULES["karras"](100, 0.005, 5.0)
    x = SAMPLERS[name](gaussian_denoiser, start, sigmas, noise(2))
    # Four standard errors: 4 * 0.5 / sqrt(20000) = 0.014 of the mean, 0.01 of the deviation.
    # Finite steps of the ancestral sampler lose a little variance, hence 0.03.
    assert x.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert x.std().item() == pytest.approx(STD, abs=0.03)


@pytest.mark.parametrize(
    ("name", "schedule", "num_steps"), [*product(SAMPLERS, SCHEDULES, (1, 2, 7))]
)
def test_one_possible_action_is_found_in_any_number_of_steps(
    name: str, schedule: str, num_steps: int
) -> None:
    action = torch.tensor([[[0.25, -0.75]]])
    denoise: Denoiser = functools.partial(lambda x, sigma: action.expand_as(x))
    x = 5.0 * torch.randn(3, 1, 2)
    found = SAMPLERS[name](denoise, x, SCHEDULES[schedule](num_steps, 0.005, 5.0), noise())
    torch.testing.assert_close(found, action.expand(3, 1, 2), atol=1e-5, rtol=0)


def test_the_ancestral_step_ends_at_the_next_noise_level() -> None:
    # sigma 2 -> 1: down = 1 / 2, up = sqrt(1 - 1/4); down^2 + up^2 = 1.
    x = torch.full((1, 1, 1), 2.0)
    zero: Denoiser = functools.partial(lambda x, sigma: torch.zeros_like(x))
    sigmas = torch.tensor([2.0, 1.0])
    found = SAMPLERS["euler_ancestral"](zero, x, sigmas, noise(3))
    draw = noise(3).normal(1, 1, 1, device=torch.device("cpu"))
    torch.testing.assert_close(found, 2.0 * (0.5 / 2.0) + math.sqrt(0.75) * draw)


@pytest.mark.parametrize("name", ["ddim", "euler", "heun"])
def test_deterministic_samplers_draw_nothing(name: str) -> None:
    x = torch.randn(3, 1, 2)
    sigmas = SCHEDULES["karras"](4, 0.005, 1.0)
    results = [SAMPLERS[name](gaussian_denoiser, x, sigmas, noise(seed)) for seed in (0, 1)]
    assert torch.equal(*results)
