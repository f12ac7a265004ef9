"""Encodes proprioception and low-dimensional state."""

from __future__ import annotations

from torch import Tensor, nn

from embodied.encoders.base import Encoder
from embodied.normalize import ZScore
from embodied.structs import Condition, Observation, Spec


class StateEncoder(Encoder):
    """One token for each of the T states: normalised, through a two-layer MLP."""

    def __init__(self, *, spec: Spec, obs_horizon: int, dim: int) -> None:
        super().__init__()
        self.num_tokens = obs_horizon
        self.normalizer = ZScore(spec.state_dim)
        self.mlp = nn.Sequential(
            nn.Linear(spec.state_dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def fit_normalizers(self, observation: Observation, condition: Condition) -> None:
        self.normalizer.fit(observation.state.flatten(0, 1))

    def forward(self, observation: Observation, condition: Condition) -> Tensor:
        tokens: Tensor = self.mlp(self.normalizer(observation.state))
        return tokens
