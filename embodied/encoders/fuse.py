"""Lays the tokens of several encoders side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from embodied.encoders.base import Encoder
from embodied.noise import Noise
from embodied.structs import Condition, Observation, Spec

MakeEncoder = Callable[..., Encoder]


class TokenEncoder(Encoder):
    """Concatenates the tokens of its parts; each token has a learned position.

    Args:
        parts: name -> factory called with (spec=, obs_horizon=, dim=); None leaves a part out, so
            that a recipe can do without one of those that it builds on.
    """

    def __init__(
        self, parts: Mapping[str, MakeEncoder | None], *, spec: Spec, obs_horizon: int, dim: int
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {
                name: make(spec=spec, obs_horizon=obs_horizon, dim=dim)
                for name, make in parts.items()
                if make is not None
            }
        )
        self.num_tokens = sum(part.num_tokens for part in self._encoders())
        self.position = nn.Parameter(0.02 * torch.randn(self.num_tokens, dim))

    def _encoders(self) -> list[Encoder]:
        return [part for part in self.parts.values() if isinstance(part, Encoder)]

    def fit_normalizers(self, observation: Observation, condition: Condition) -> None:
        for part in self._encoders():
            part.fit_normalizers(observation, condition)

    def forward(
        self, observation: Observation, condition: Condition, *, noise: Noise | None = None
    ) -> Tensor:
        tokens = [part(observation, condition, noise=noise) for part in self._encoders()]
        return torch.cat(tokens, dim=1) + self.position
