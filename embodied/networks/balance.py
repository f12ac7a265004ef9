"""A family of policies, steered by one number that is chosen for each state (FamO2O).

Wang et al. 2023, "Train Once, Get a Family: State-Adaptive Balances for Offline-to-Online
Reinforcement Learning", arXiv:2310.17966, Section 4; sizes as in the published code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embodied.networks.ensemble import EnsembleMLP
from embodied.networks.gaussians import normal_log_prob, tanh_log_slope
from embodied.noise import Noise

EMBEDDING_DIM = 6


def embed_coefficient(coefficient: Tensor) -> Tensor:
    """Coefficients (B,) in raw units -> (B, 6), sines and cosines at falling frequencies.

    e_2i = sin(c / 10000^(2i/6)), e_2i+1 = cos(c / 10000^(2i/6)) for i = 0, 1, 2, so that nearly all
    that varies lies in the first pair.
    """
    exponents = torch.arange(0, EMBEDDING_DIM, 2, device=coefficient.device) / EMBEDDING_DIM
    angles = coefficient[:, None] / 10_000.0**exponents
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class BalanceModel(nn.Module):
    """pi_b(coefficient | s): x = tanh of a Gaussian, mapped from (-1, 1) to (low, high).

    Args:
        net: (B, F) -> (1, B, 1), the Gaussian's mean; its standard deviation is one for all states.
    """

    def __init__(self, net: EnsembleMLP, *, low: float, high: float) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"policy.coefficient_range must rise, got ({low}, {high})")
        self.net, self.low, self.high = net, low, high
        self.log_std = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor, *, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Features (B, F) -> coefficients (B,) and log-probabilities of their x, (B,).

        Args:
            noise: None gives the Gaussian's mean.
        """
        mean = self.net(features)[0, :, 0]
        log_std = self.log_std.clamp(-10, 2)
        z = mean * 0 if noise is None else noise.normal(len(mean), device=mean.device)
        u = mean + log_std.exp() * z
        coefficient = self.low + (u.tanh() + 1) / 2 * (self.high - self.low)
        return coefficient, normal_log_prob(z, log_std) - tanh_log_slope(u)
