"""A policy that acts as the best of what it has seen done: told by a point, which is learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from embodied.feedback import SegmentBatch
from embodied.networks.ensemble import EnsembleMLP
from embodied.noise import Noise
from embodied.normalize import ZScore
from embodied.policies.base import Policy
from embodied.structs import Batch, Condition, Metrics, Observation, Spec


class HindsightPolicy(Policy):
    """a = pi(s, z), where z says how to act: of a segment in hindsight, z = I(segment); when it
    acts, the optimal point z* (OPPO, Kang et al. 2023, arXiv:2305.16217).

    Perceptrons stand in for the paper's transformers: the encoder sees steps one by one and takes
    the mean of those that count, the decoder sees the present state alone.

    Args:
        latent_dim: numbers in z; the paper has 8.
        hidden: widths of the hidden layers of decoder and encoder.
    """

    action_mean: Tensor
    action_scale: Tensor

    def __init__(
        self, *, spec: Spec, latent_dim: int = 8, hidden: Sequence[int] = (256, 256)
    ) -> None:
        super().__init__()
        self.spec, self.obs_horizon, self.pred_horizon = spec, 1, 1
        self.normalizer = ZScore(spec.state_dim)
        low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
        self.register_buffer("action_mean", (low + high) / 2, persistent=False)
        self.register_buffer("action_scale", (high - low) / 2, persistent=False)
        widths = list(hidden)
        self.encoder = EnsembleMLP(1, spec.state_dim + spec.action_dim, widths[:-1], widths[-1])
        self.pooled = nn.Linear(widths[-1], latent_dim)
        self.decoder = EnsembleMLP(1, spec.state_dim + latent_dim, widths, spec.action_dim)
        # Within the ball that points are kept near, where the paper's code begins far outside.
        self.optimal = nn.Parameter(torch.randn(latent_dim) / latent_dim**0.5)

    def encode(self, segments: SegmentBatch) -> Tensor:
        """How each segment was acted, (B, latent_dim); steps past its end have no say."""
        inputs = torch.cat(
            [self.normalizer(segments.state), self.normalized(segments.action)], dim=-1
        )
        rows, length = segments.mask.shape
        steps = self.encoder(inputs.flatten(0, 1))[0].relu().reshape(rows, length, -1)
        weight = segments.mask[..., None].to(steps.dtype)
        mean = (steps * weight).sum(1) / weight.sum(1).clamp(min=1)
        found: Tensor = self.pooled(mean)
        return found

    def decode(self, state: Tensor, z: Tensor) -> Tensor:
        """States (N, S), environment units, and points (N, latent_dim) -> actions in (-1, 1)."""
        inputs = torch.cat([self.normalizer(state), z], -1)
        found: Tensor = self.decoder(inputs)[0]
        return found.tanh()

    def normalized(self, action: Tensor) -> Tensor:
        """Actions (..., A) in environment units -> in [-1, 1]."""
        return (action - self.action_mean) / self.action_scale

    def loss(self, batch: Batch, *, noise: Noise) -> tuple[Tensor, Metrics]:
        """The squared error of what it does at the optimal point."""
        found = self._optimal(batch.observation)
        wrong = (found - self.normalized(batch.action[:, 0])).square().sum(-1)
        valid = batch.mask[:, 0]
        loss = (wrong * valid).sum() / valid.sum().clamp(min=1)
        return loss, {"loss": loss.detach()}

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        action = self._optimal(observation)
        return (action * self.action_scale + self.action_mean)[:, None]

    def _optimal(self, observation: Observation) -> Tensor:
        state = observation.state[:, -1]
        return self.decode(state, self.optimal.expand(len(state), -1))

    def fit_normalizers(
        self,
        observation: Observation,
        condition: Condition,
        action: Tensor,
        *,
        lengths: Tensor | None = None,
    ) -> None:
        self.normalizer.fit(observation.state[:, -1])
