"""Predicts a chunk of actions at once: an encoder, then an action head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from embodied.encoders.base import Encoder
from embodied.heads.base import ActionHead
from embodied.noise import Noise
from embodied.normalize import MinMax
from embodied.policies.base import Policy, by_source
from embodied.structs import Batch, Condition, Metrics, Observation, Spec


class ChunkPolicy(Policy):
    """Action chunking (Zhao et al. 2023, arXiv:2304.13705) with any encoder and head.

    Args:
        encoder: factory called with (spec=, obs_horizon=, dim=).
        head: factory called with (action_dim=, pred_horizon=, num_tokens=, dim=).
        dim: width D of context tokens.
    """

    def __init__(
        self,
        *,
        spec: Spec,
        encoder: Callable[..., Encoder],
        head: Callable[..., ActionHead],
        obs_horizon: int = 1,
        pred_horizon: int = 4,
        dim: int = 128,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.obs_horizon = obs_horizon
        self.pred_horizon = pred_horizon
        self.encoder = encoder(spec=spec, obs_horizon=obs_horizon, dim=dim)
        self.head = head(
            action_dim=spec.action_dim,
            pred_horizon=pred_horizon,
            num_tokens=self.encoder.num_tokens,
            dim=dim,
        )
        self.action_normalizer = MinMax(spec.action_dim)
        self.register_buffer("action_low", torch.tensor(spec.action_low), persistent=False)
        self.register_buffer("action_high", torch.tensor(spec.action_high), persistent=False)

    action_low: Tensor
    action_high: Tensor

    def fit_normalizers(
        self, observation: Observation, condition: Condition, action: Tensor
    ) -> None:
        self.encoder.fit_normalizers(observation, condition)
        self.action_normalizer.fit(action)

    def loss(self, batch: Batch, *, noise: Noise) -> tuple[Tensor, Metrics]:
        context = self.encoder(batch.observation, batch.condition, noise=noise)
        action = self.action_normalizer(batch.action)
        errors = self.head.loss(context, action, noise=noise)  # (B, H)
        mask = batch.mask.float()
        loss = (errors * mask).sum() / mask.sum().clamp(min=1)
        return loss, {"loss": loss.detach(), **by_source(errors.detach(), batch)}

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        context = self.encoder(observation, condition)
        action = self.action_normalizer.inverse(self.head.sample(context, noise=noise))
        return action.clamp(self.action_low, self.action_high)
