"""Samplers against diffusers' schedulers, on one denoiser, one schedule and one noise."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
)
from torch import Tensor

from embodied.heads.edm import EDMHead
from embodied.heads.samplers import SAMPLERS
from embodied.noise import BatchNoise

CPU = torch.device("cpu")
pytestmark = [  # of diffusers
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `scale_model_input` function"),
]


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """E[a | a + sigma n = x] for a = 0.2 +- 0.5, each half the time: curved, so that it matters how
    a sampler weighs what it hears."""
    return 0.2 + 0.5 * torch.tanh(0.5 * (x - 0.2) / sigma**2)


def drawn_by(monkeypatch: pytest.MonkeyPatch, scheduler: Any, draws: BatchNoise) -> None:
    """Gives a scheduler our noise."""

    def draw(shape: tuple[int, ...], **_: object) -> Tensor:
        return draws.normal(*shape, device=CPU)

    monkeypatch.setattr(sys.modules[type(scheduler).__module__], "randn_tensor", draw)


def levels_of(scheduler: Any) -> Tensor:
    """The schedule, without the repetitions of second-order schedulers, and up to the 0."""
    return torch.unique_consecutive(torch.as_tensor(scheduler.sigmas)).float()


def follow(scheduler: Any, x: Tensor, asked: Callable[[int], Tensor]) -> Tensor:
    """diffusers' loop with a network that predicts noise; asked: step -> the level to ask at."""
    for i, t in enumerate(scheduler.timesteps):
        sigma = asked(i)
        x = scheduler.step((x - denoise(x, sigma)) / sigma, t, x).prev_sample
    return x


def start(sigma: Tensor) -> Tensor:
    return sigma * noise(7).normal(6, 4, 2, device=CPU)


@pytest.mark.parametrize("num_steps", [2, 3, 8])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("euler", EulerDiscreteScheduler),
        ("euler_ancestral", EulerAncestralDiscreteScheduler),
        ("heun", HeunDiscreteScheduler),
        ("lms", LMSDiscreteScheduler),
    ],
)
def test_schedulers_that_ask_at_their_levels_agree(
    name: str, make: Callable[..., Any], num_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make(num_train_timesteps=200)  # few, for speed
    scheduler.set_timesteps(num_steps)
    if name == "euler_ancestral":
        drawn_by(monkeypatch, scheduler, noise())
    sigmas = levels_of(scheduler)
    assert len(sigmas) == num_steps + 1
    x = start(sigmas[0])
    expected = follow(scheduler, x, lambda i: scheduler.sigmas[i].float())
    found = SAMPLERS[name](denoise, x, sigmas, noise())
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [2, 3, 8])
@pytest.mark.parametrize(
    ("name", "make"),
    [("dpm2", KDPM2DiscreteScheduler), ("dpm2_ancestral", KDPM2AncestralDiscreteScheduler)],
)
def test_schedulers_that_ask_in_the_middle_too_agree(
    name: str, make: Callable[..., Any], num_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make(num_train_timesteps=200)  # few, for speed
    scheduler.set_timesteps(num_steps)
    if name == "dpm2_ancestral":
        drawn_by(monkeypatch, scheduler, noise())
    sigmas = levels_of(scheduler)
    x = start(sigmas[0])

    def asked(i: int) -> Tensor:
        level, following = sigmas[i // 2], sigmas[i // 2 + 1]
        below = following**2 / level if name == "dpm2_ancestral" else following
        return level if i % 2 == 0 else (level * below).sqrt()

    expected = follow(scheduler, x, asked)
    found = SAMPLERS[name](denoise, x, sigmas, noise())
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [2, 3, 8])
def test_dpmpp_sde_agrees(num_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # diffusers takes its Brownian path from a package that is not needed when the path is given.
    monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))
    module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
    scheduler = module.DPMSolverSDEScheduler(num_train_timesteps=200)
    scheduler.set_timesteps(num_steps)
    sigmas = levels_of(scheduler)
    x, draws = start(sigmas[0]), noise()
    path: list[tuple[Tensor, Tensor]] = []  # (variance, increment) since the step began

    def brownian(high: Tensor, low: Tensor) -> Tensor:
        if len(path) == 2:
            path.clear()
        path.append((high - low, draws.normal(*x.shape, device=CPU)))
        if len(path) == 1:
            return path[0][1]
        (first, z), (total, w) = path
        both: Tensor = (first.sqrt() * z + (total - first).sqrt() * w) / total.sqrt()
        return both

    scheduler.noise_sampler = brownian

    def asked(i: int) -> Tensor:
        level = sigmas[i // 2]
        return level if i % 2 == 0 else (level * sigmas[i // 2 + 1]).sqrt()

    expected = follow(scheduler, x, asked)
    found = SAMPLERS["dpmpp_sde"](denoise, x, sigmas, noise())
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def small_head(**kwargs: Any) -> EDMHead:
    torch.manual_seed(0)
    sizes = {"action_dim": 2, "pred_horizon": 4, "num_tokens": 3, "dim": 16, "num_layers": 1}
    head = EDMHead(**{**sizes, "sigma_max": 5.0, **kwargs}).requires_grad_(False)
    torch.nn.init.normal_(head.trunk.out.weight, std=0.5)  # so that the network matters
    return head


@pytest.mark.parametrize("schedule", ["karras", "exponential"])
@pytest.mark.parametrize("num_steps", [2, 3, 10])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("euler", EDMEulerScheduler),
        ("dpmpp_2m", EDMDPMSolverMultistepScheduler),
        (
            "dpmpp_2m_sde",
            functools.partial(EDMDPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"),
        ),
    ],
)
def test_edm_schedulers_agree_on_a_real_head(
    name: str,
    make: Callable[..., Any],
    schedule: str,
    num_steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = small_head(sampler=name, schedule=schedule, num_steps=num_steps)
    context = torch.randn(5, 3, 16)
    memories = head.trunk.remember(context)
    reference = make(sigma_min=0.005, sigma_max=5.0, sigma_data=0.5, sigma_schedule=schedule)
    reference.set_timesteps(num_steps)
    draws = noise()
    if name == "dpmpp_2m_sde":
        drawn_by(monkeypatch, reference, draws)
    x = 5.0 * draws.normal(5, 4, 2, device=CPU)
    for t, sigma in zip(reference.timesteps, reference.sigmas, strict=False):
        scaled = reference.scale_model_input(x, t)
        output = head.network(scaled, sigma.expand(5), memories)
        x = reference.step(output, t, x).prev_sample
    torch.testing.assert_close(head.sample(context, noise=noise()), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_steps", [2, 4, 10])
def test_the_same_noise_gives_the_same_actions_by_ddim_and_euler(num_steps: int) -> None:
    """DDIM as diffusers has it, which shrinks actions as noise grows; Euler, which does not."""
    # Steps that divide the 1000 of training, of which diffusers takes every so many.
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    kept = scheduler.alphas_cumprod[scheduler.timesteps].double()
    sigmas = torch.cat([(1 / kept - 1).sqrt(), torch.zeros(1)])
    x = start(sigmas[0])
    y = x * kept[0].sqrt()
    for t, alpha_bar, sigma in zip(scheduler.timesteps, kept, sigmas, strict=False):
        clean = denoise(y / alpha_bar.sqrt(), sigma)
        epsilon = (y - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
        y = scheduler.step(epsilon, t, y).prev_sample
    for name in ("ddim", "euler"):
        found = SAMPLERS[name](denoise, x, sigmas, noise())
        torch.testing.assert_close(found, y, atol=1e-4, rtol=0)
