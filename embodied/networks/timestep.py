"""Telling a network how far along a diffusion or a flow is."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Sines and cosines of a time in [0, 1], then an MLP with one hidden layer.

    Periods are spaced evenly in their logarithm between 0.004 and 4, as in pi0 (Black et al. 2024,
    arXiv:2410.24164), which spans the steps of a diffusion of a hundred.
    """

    def __init__(self, dim: int, *, shortest: float = 4e-3, longest: float = 4.0) -> None:
        super().__init__()
        periods = torch.linspace(math.log(shortest), math.log(longest), (dim + 1) // 2).exp()
        self.register_buffer("frequency", 2 * math.pi / periods, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * len(periods), 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim)
        )

    frequency: Tensor

    def forward(self, t: Tensor) -> Tensor:
        """Times (...) in [0, 1] -> (..., dim)."""
        angle = t[..., None] * self.frequency
        out: Tensor = self.mlp(torch.cat([angle.sin(), angle.cos()], dim=-1))
        return out
