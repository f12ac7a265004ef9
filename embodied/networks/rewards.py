"""Ensembles that say how good it is to act so in a state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from embodied.networks.ensemble import EnsembleMLP


class RewardEnsemble(nn.Module):
    """E bounded rewards of states and actions, as PEBBLE has them (Lee et al. 2021,
    arXiv:2106.05091): perceptrons with leaky ReLUs and tanh at the end.

    The bound keeps returns of segments comparable, so that no step can decide a comparison alone.

    Args:
        num_members: E.
        hidden: widths of the hidden layers.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        *,
        num_members: int = 3,
        hidden: Sequence[int] = (256, 256, 256),
    ) -> None:
        super().__init__()
        in_dim = state_dim + action_dim
        self.members = EnsembleMLP(num_members, in_dim, hidden, 1, activation="leaky_relu")
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(in_dim))
        self.register_buffer("std", torch.ones(in_dim))

    @property
    def num_members(self) -> int:
        return self.members.num_members

    def fit_normalizer(self, state: Tensor, action: Tensor) -> None:
        """Scales inputs to zero mean and unit deviation over states (N, S) and actions (N, A).

        Numbers that do not vary are left at zero.
        """
        inputs = torch.cat([state, action], -1)
        std = inputs.std(0, correction=0)
        self.mean.copy_(inputs.mean(0))
        self.std.copy_(torch.where(std > 1e-6, std, torch.inf))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """State (..., S) and action (..., A) -> rewards (E, ...) in (-1, 1)."""
        inputs = self._inputs(state, action)
        rewards: Tensor = self.members(inputs.flatten(0, -2))
        return torch.tanh(rewards).reshape(self.num_members, *inputs.shape[:-1])

    def each(self, state: Tensor, action: Tensor) -> Tensor:
        """States (E, ..., S) and actions (E, ..., A) of its own for each member -> (E, ...)."""
        inputs = self._inputs(state, action)
        rewards: Tensor = self.members(inputs.flatten(1, -2))
        return torch.tanh(rewards).reshape(inputs.shape[:-1])

    def _inputs(self, state: Tensor, action: Tensor) -> Tensor:
        return (torch.cat([state, action], -1) - self.mean) / self.std
