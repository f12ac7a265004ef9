"""Densities of diagonal Gaussians and of their tanh."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def normal_log_prob(z: Tensor, log_std: Tensor) -> Tensor:
    """log N(mean + std z; mean, std^2), number by number."""
    return -0.5 * z.square() - log_std - _HALF_LOG_2PI


def normal_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(other_mean, other_std^2)), number by number."""
    gap = log_std - other_log_std
    distance = ((mean - other_mean) * (-other_log_std).exp()).square()
    return 0.5 * ((2 * gap).exp() + distance - 1) - gap


def tanh_log_slope(u: Tensor) -> Tensor:
    """log d tanh(u) / du = log(1 - tanh(u)^2), without cancellation."""
    return 2 * (math.log(2) - u - functional.softplus(-2 * u))


def safe_atanh(a: Tensor, edge: float = 1 - 1e-6) -> Tensor:
    """The u with tanh(u) = a; a beyond +-edge counts as lying there, since at 1 u is infinite."""
    return torch.atanh(a.clamp(-edge, edge))
