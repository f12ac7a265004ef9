"""Noise schedules and samplers for a denoiser D(x, sigma), in the sigma form of EDM.

Karras et al. 2022, arXiv:2206.00364; sampler names as in BESO, arXiv:2304.02532. A schedule is a
decreasing tensor (num_steps + 1,) that ends in 0. A denoiser takes x (B, H, A) and a 0-d sigma and
gives the expected clean action.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from embodied.noise import Noise

Denoiser = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[Denoiser, Tensor, Tensor, Noise], Tensor]
Schedule = Callable[[int, float, float], Tensor]


def _end_in_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def exponential(num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Evenly spaced in ln(sigma)."""
    return _end_in_zero(torch.linspace(math.log(sigma_max), math.log(sigma_min), num_steps).exp())


def linear(num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Evenly spaced in sigma."""
    return _end_in_zero(torch.linspace(sigma_max, sigma_min, num_steps))


def karras(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Evenly spaced in sigma^(1/rho) (Karras et al. 2022, Eq. 5)."""
    ramp = torch.linspace(0, 1, num_steps)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas: Tensor = (high + ramp * (low - high)) ** rho
    return _end_in_zero(sigmas)


def _slope(denoise: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
    """dx/dsigma of the probability-flow ODE (Karras et al. 2022, Eq. 3 with s = 1)."""
    return (x - denoise(x, sigma)) / sigma


def euler(denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """Euler's method on the probability-flow ODE; in this form it equals DDIM."""
    for sigma, next_sigma in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = x + (next_sigma - sigma) * _slope(denoise, x, sigma)
    return x


ddim = euler


def euler_ancestral(denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """Euler to below the next level, then fresh noise up to it (k-diffusion's ancestral step)."""
    for sigma, next_sigma in zip(sigmas[:-1], sigmas[1:], strict=True):
        up = next_sigma * (1 - (next_sigma / sigma) ** 2).sqrt()
        down = next_sigma**2 / sigma
        x = x + (down - sigma) * _slope(denoise, x, sigma)
        x = x + up * noise.normal(*x.shape, device=x.device)
    return x


def heun(denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """Heun's second-order method (Karras et al. 2022, Algorithm 1 without churn)."""
    last = len(sigmas) - 2
    for i, (sigma, next_sigma) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        slope = _slope(denoise, x, sigma)
        euler_x = x + (next_sigma - sigma) * slope
        if i < last:  # the slope at sigma = 0 does not exist
            slope = (slope + _slope(denoise, euler_x, next_sigma)) / 2
        x = x + (next_sigma - sigma) * slope
    return x


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
}
SCHEDULES: dict[str, Schedule] = {"exponential": exponential, "linear": linear, "karras": karras}
