"""Which noise levels are trained how often.

A density is given as the inverse of its distribution function: uniform u in [0, 1] -> sigma. Names
as in BESO (Reuss et al. 2023, arXiv:2304.02532) and k-diffusion; all but the discrete one lie
within [sigma_min, sigma_max], where samplers ask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """What densities depend on.

    Attributes:
        sigma_min, sigma_max: the range.
        sigma_data: standard deviation of normalised actions.
        sampled: the levels above 0 that the sampler visits.
    """

    sigma_min: float
    sigma_max: float
    sigma_data: float
    sampled: Tensor


Density = Callable[[Tensor, Levels], Tensor]


def _between(u: Tensor, levels: Levels, distribution: Callable[[float], float]) -> Tensor:
    """Where the distribution function is to lie for sigma to stay in its range."""
    low, high = distribution(levels.sigma_min), distribution(levels.sigma_max)
    return low + (high - low) * u


def loglogistic(u: Tensor, levels: Levels) -> Tensor:
    """ln(sigma) logistic with location ln(sigma_data) and scale 0.5, truncated: BESO's."""
    location, scale = math.log(levels.sigma_data), 0.5

    def distribution(sigma: float) -> float:
        return 1 / (1 + math.exp(-(math.log(sigma) - location) / scale))

    return torch.exp(location + scale * torch.logit(_between(u, levels, distribution)))


def lognormal(u: Tensor, levels: Levels) -> Tensor:
    """ln(sigma) normal with mean -1.2 and deviation 1.2 (Karras et al. 2022, arXiv:2206.00364,
    Table 1); truncated, which theirs is not."""
    mean, deviation = -1.2, 1.2

    def distribution(sigma: float) -> float:
        return (1 + math.erf((math.log(sigma) - mean) / deviation / math.sqrt(2))) / 2

    sigma = torch.exp(mean + deviation * torch.special.ndtri(_between(u, levels, distribution)))
    return sigma.clamp(levels.sigma_min, levels.sigma_max)  # the tail's ends round to 0 and 1


def loguniform(u: Tensor, levels: Levels) -> Tensor:
    """ln(sigma) uniform."""
    return torch.exp(_between(u, levels, math.log))


def uniform(u: Tensor, levels: Levels) -> Tensor:
    """Sigma uniform."""
    return _between(u, levels, float)


def v_diffusion(u: Tensor, levels: Levels) -> Tensor:
    """The angle atan(sigma / sigma_data) uniform: time in the cosine schedule of v-prediction
    (Salimans and Ho 2022, arXiv:2202.00512), truncated.

    Also k-diffusion's interpolated cosine (Hoogeboom et al. 2023, arXiv:2301.11093), whose shift
    by an image's resolution chunks of actions lack.
    """
    angle = _between(u, levels, lambda sigma: math.atan(sigma / levels.sigma_data))
    return levels.sigma_data * torch.tan(angle)


def discrete(u: Tensor, levels: Levels) -> Tensor:
    """The levels that the sampler visits, equally often; so the number of steps is fixed by
    training."""
    sampled = levels.sampled.to(u.device)
    return sampled[(u * len(sampled)).long().clamp(max=len(sampled) - 1)]


DENSITIES: dict[str, Density] = {
    "loglogistic": loglogistic,
    "lognormal": lognormal,
    "loguniform": loguniform,
    "uniform": uniform,
    "v_diffusion": v_diffusion,
    "discrete": discrete,
}
