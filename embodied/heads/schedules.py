"""Noise schedules: the levels that a sampler visits.

A schedule is a falling tensor (num_steps + 1,) from sigma_max to sigma_min, and then 0. Names as in
BESO (Reuss et al. 2023, arXiv:2304.02532). Those that come from other forms of diffusion (vp, ve,
cosine, iddpm) are taken to the sigma form as in Karras et al. 2022, arXiv:2206.00364, Table 1, and
visit the part of their path that lies in [sigma_min, sigma_max], where the head is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Schedule = Callable[[int, float, float], Tensor]
"""(num_steps, sigma_min, sigma_max) -> (num_steps + 1,) float32."""


def _end_in_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas.float(), torch.zeros(1)])


def exponential(num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Evenly spaced in ln(sigma)."""
    return _end_in_zero(torch.linspace(math.log(sigma_max), math.log(sigma_min), num_steps).exp())


ve = exponential
"""Of the variance-exploding SDE: sigma^2 = sigma_max^2 (sigma_min^2 / sigma_max^2)^(i / (N - 1))
(Karras et al. 2022, Table 1), which is the exponential one. BESO's code divides by N - 1 what runs
to N + 1, and so ends below sigma_min."""


def linear(num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Evenly spaced in sigma."""
    return _end_in_zero(torch.linspace(sigma_max, sigma_min, num_steps))


def karras(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Evenly spaced in sigma^(1/rho) (Karras et al. 2022, Eq. 5)."""
    ramp = torch.linspace(0, 1, num_steps)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas: Tensor = (high + ramp * (low - high)) ** rho
    return _end_in_zero(sigmas)


def vp(num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Evenly spaced in the time t of the variance-preserving SDE (Song et al. 2021,
    arXiv:2011.13456), with its betas: sigma^2 = exp(beta_d t^2 / 2 + beta_min t) - 1
    (Karras et al. 2022, Table 1, first column)."""
    beta_d, beta_min = 19.9, 0.1

    def time(sigma: float) -> float:
        return (math.sqrt(beta_min**2 + 2 * beta_d * math.log1p(sigma**2)) - beta_min) / beta_d

    t = torch.linspace(time(sigma_max), time(sigma_min), num_steps, dtype=torch.float64)
    return _end_in_zero(torch.expm1(beta_d * t**2 / 2 + beta_min * t).sqrt())


def cosine(num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Evenly spaced in the time t of the cosine schedule (Nichol and Dhariwal 2021,
    arXiv:2102.09672, Eq. 17): alpha_bar = f(t) / f(0), f(t) = cos^2((t + s) / (1 + s) pi / 2) with
    s = 0.008, where sigma^2 = 1 / alpha_bar - 1. BESO's code takes the betas for the levels."""
    s = 0.008
    start = math.cos(s / (1 + s) * math.pi / 2)  # the root of f(0)

    def angle(sigma: float) -> float:  # linear in t
        return math.acos(start / math.sqrt(1 + sigma**2))

    angles = torch.linspace(angle(sigma_max), angle(sigma_min), num_steps, dtype=torch.float64)
    return _end_in_zero(((start / angles.cos()) ** 2 - 1).sqrt())


def iddpm(num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """The levels of the cosine schedule that iDDPM is trained at, evenly chosen from those within
    [sigma_min, sigma_max] (Karras et al. 2022, Table 1, third column).

    Raises ValueError where there are fewer than `num_steps`.
    """
    levels = [sigma for sigma in _iddpm_levels() if sigma_min <= sigma <= sigma_max]
    if len(levels) < num_steps:
        raise ValueError(
            f"iddpm has {len(levels)} levels in [{sigma_min}, {sigma_max}], fewer than num_steps "
            f"{num_steps}; take fewer steps, or the cosine schedule"
        )
    places = torch.linspace(0, len(levels) - 1, num_steps, dtype=torch.float64)
    return _end_in_zero(torch.tensor(levels)[(places + 0.5).long()])


def _iddpm_levels(steps: int = 1000, c_1: float = 0.001, c_2: float = 0.008) -> list[float]:
    """u_0 > ... > u_steps = 0."""

    def alpha_bar(j: int) -> float:
        return math.sin(math.pi / 2 * j / (steps * (c_2 + 1))) ** 2

    levels = [0.0]
    for j in range(steps, 0, -1):
        ratio = max(alpha_bar(j - 1) / alpha_bar(j), c_1)
        levels.append(math.sqrt((levels[-1] ** 2 + 1) / ratio - 1))
    return levels[::-1]


SCHEDULES: dict[str, Schedule] = {
    "exponential": exponential,
    "linear": linear,
    "karras": karras,
    "vp": vp,
    "ve": ve,
    "cosine": cosine,
    "iddpm": iddpm,
}
