"""Encodes proprioception and low-dimensional state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from embodied.encoders.base import Encoder, start_of
from embodied.noise import Noise
from embodied.normalize import ZScore
from embodied.structs import Condition, Observation, Spec


class StateEncoder(Encoder):
    """Tokens for each of the T states: normalised, through two-layer MLPs.

    Args:
        pieces: sizes of successive pieces of the state, each of which becomes a token, so that
            attention can choose among objects; None makes the whole state one token.
        changes: whether it also sees what has changed since the task was given, without which
            nobody who remembers nothing knows how much of "a little to the left" is done.
        noise: standard deviation of what training adds to normalised states, so that they are not
            known by heart with the episode that they are of.
    """

    def __init__(
        self,
        *,
        spec: Spec,
        obs_horizon: int,
        dim: int,
        pieces: Sequence[int] | None = None,
        changes: bool = False,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        if noise < 0:
            raise ValueError(f"noise must be at least 0, got {noise}")
        self.changes, self.noise = changes, noise
        self.pieces = tuple(pieces or (spec.state_dim,))
        if sum(self.pieces) != spec.state_dim or min(self.pieces) < 1:
            raise ValueError(
                f"pieces must be positive and add up to the state's {spec.state_dim} numbers, "
                f"got {list(self.pieces)}"
            )
        self.num_tokens = obs_horizon * len(self.pieces)
        self.normalizer = ZScore(spec.state_dim)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(size * (1 + changes), 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
            )
            for size in self.pieces
        )

    def fit_normalizers(self, observation: Observation, condition: Condition) -> None:
        self.normalizer.fit(observation.state.flatten(0, 1))

    def forward(
        self, observation: Observation, condition: Condition, *, noise: Noise | None = None
    ) -> Tensor:
        state: Tensor = self.normalizer(observation.state)
        if noise is not None and self.noise:
            state = state + self.noise * noise.normal(*state.shape, device=state.device)
        sizes = list(self.pieces)
        pieces = torch.split(state, sizes, dim=-1)
        if self.changes:
            change = state - self.normalizer(start_of(condition).state)
            moved = torch.split(change, sizes, dim=-1)
            pieces = tuple(torch.cat(each, dim=-1) for each in zip(pieces, moved, strict=True))
        return torch.cat([mlp(x) for mlp, x in zip(self.mlps, pieces, strict=True)], dim=1)
