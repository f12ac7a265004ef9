"""Samplers against a closed-form ODE solution, exact means and variances, and one known point;
against diffusers see test_samplers_reference.py."""

from __future__ import annotations

import functools
import math
from itertools import product

import pytest
import torch
from torch import Tensor

from embodied.heads.base import Denoiser
from embodied.heads.samplers import SAMPLERS, Sampler, ddim
from embodied.heads.schedules import SCHEDULES
from embodied.noise import BatchNoise

CPU = torch.device("cpu")
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


def test_ddim_and_euler_are_one_method_in_the_sigma_form() -> None:
    """DDIM (Song et al. 2020, Eq. 12, eta = 0) with alpha-bar = 1 / (1 + sigma^2), scaled back."""
    sigma, next_sigma = torch.tensor(2.0), torch.tensor(0.5)
    x = torch.randn(4, 1, 1, dtype=torch.float64)
    clean = gaussian_denoiser(x, sigma)
    epsilon = (x - clean) / sigma
    expected = clean + next_sigma * epsilon  # sqrt(a) clean + sqrt(1 - a) epsilon, over sqrt(a)
    found = ddim(gaussian_denoiser, x, torch.stack([sigma, next_sigma]), noise())
    torch.testing.assert_close(found, expected)


class Impulses:
    """Noise of which draw i is 1 in row i + 2 and 0 in the others."""

    def __init__(self) -> None:
        self.row = 2

    def normal(self, *shape: int, device: torch.device) -> Tensor:
        draw = torch.zeros(shape, dtype=torch.float64, device=device)
        draw[self.row] = 1
        self.row += 1
        return draw

    def uniform(self, *shape: int, device: torch.device) -> Tensor:
        raise NotImplementedError


def outcome(sampler: Sampler, sigmas: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of what a sampler makes of N(MEAN, STD^2 + sigma_max^2).

    Exactly: under a Gaussian's denoiser a sample is a constant (row 0), plus a multiple of the
    start (row 1), plus multiples of the draws.
    """
    x = torch.zeros(2 + 2 * len(sigmas), 1, 1, dtype=torch.float64)
    x[1] = 1
    found = sampler(gaussian_denoiser, x, sigmas, Impulses())[:, 0, 0]
    gain, draws = found[1] - found[0], found[2:] - found[0]
    variance = gain**2 * (STD**2 + sigmas[0] ** 2) + draws.square().sum()
    return float(found[0] + gain * MEAN), float(variance.sqrt())


ORDERS = {
    "ddim": 1.0,
    "euler": 1.0,
    "euler_ancestral": 1.0,
    "heun": 2.0,
    "dpm2": 2.0,
    "dpm2_ancestral": 2.0,
    "dpmpp_2s_ancestral": 2.0,
    "dpmpp_2m": 2.0,
    "dpmpp_sde": 2.0,
    "dpmpp_2m_sde": 2.0,
    "lms": 3.2,  # it begins with Euler's step, and gains its orders one by one
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_error_shrinks_with_the_order_of_the_method(name: str) -> None:
    # The last step, from sigma_min to 0, is Euler's in most; 1e-4 makes it harmless.
    schedules = [SCHEDULES["exponential"](n, 1e-4, 5.0).double() for n in (32, 64, 128)]
    outcomes = [outcome(SAMPLERS[name], sigmas) for sigmas in schedules]
    errors = [abs(std - STD) for _, std in outcomes]
    assert [mean for mean, _ in outcomes] == pytest.approx([MEAN] * 3)
    orders = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
    assert orders == pytest.approx([ORDERS[name]] * 2, abs=0.25)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm2", "dpmpp_2m", "lms"])
def test_deterministic_samplers_follow_the_flow(name: str) -> None:
    x = torch.linspace(-5, 5, 11, dtype=torch.float64)[:, None, None]
    sigmas = SCHEDULES["exponential"](128, 1e-4, 5.0).double()
    found = SAMPLERS[name](gaussian_denoiser, x, sigmas, noise())
    tolerance = 0.05 if name == "ddim" else 2e-3
    torch.testing.assert_close(found, exact_solution(x, 5.0), atol=tolerance, rtol=0)


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
    start = MEAN + math.hypot(STD, 5.0) * noise(1).normal(20000, 1, 1, device=CPU)
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
    draw = noise(3).normal(1, 1, 1, device=CPU)
    torch.testing.assert_close(found, 2.0 * (0.5 / 2.0) + math.sqrt(0.75) * draw)


def test_2s_by_the_paper() -> None:
    """DPM-Solver++, Algorithm 1 with r = 1/2, as written: in alpha, sigma and lambda = ln(alpha /
    sigma) of a variance-preserving process, whose x is ours times alpha."""
    sigmas = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None, None]
    curved: Denoiser = functools.partial(lambda x, sigma: torch.tanh(x / sigma**2))
    levels = {"s": 2.0, "t": 1.0**2 / 2.0}  # from 2 to below 1
    lambdas = {"s": -math.log(levels["s"]), "t": -math.log(levels["t"])}
    h = lambdas["t"] - lambdas["s"]
    levels["u"] = math.exp(-(lambdas["s"] + h / 2))
    alpha = {k: 1 / math.hypot(1, v) for k, v in levels.items()}
    sigma = {k: v / math.hypot(1, v) for k, v in levels.items()}

    def data(y: Tensor, at: str) -> Tensor:
        return curved(y / alpha[at], torch.tensor(levels[at], dtype=torch.float64))

    y = alpha["s"] * x
    u = sigma["u"] / sigma["s"] * y - alpha["u"] * math.expm1(-h / 2) * data(y, "s")
    y = sigma["t"] / sigma["s"] * y - alpha["t"] * math.expm1(-h) * data(u, "u")
    lifted = y / alpha["t"] + math.sqrt(1 - levels["t"] ** 2) * noise().normal(7, 1, 1, device=CPU)
    expected = curved(lifted, sigmas[1])  # the step to 0
    found = SAMPLERS["dpmpp_2s_ancestral"](curved, x, sigmas, noise())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "dpm2", "dpmpp_2m", "lms"])
def test_deterministic_samplers_draw_nothing(name: str) -> None:
    x = torch.randn(3, 1, 2)
    sigmas = SCHEDULES["karras"](4, 0.005, 1.0)
    results = [SAMPLERS[name](gaussian_denoiser, x, sigmas, noise(seed)) for seed in (0, 1)]
    assert torch.equal(*results)
