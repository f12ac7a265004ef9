"""The upper of two levels: which phrase describes what to do next."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.encoders.base import Encoder
from embodied.heads.phrases import PhraseHead
from embodied.noise import Noise
from embodied.policies.codes import Codes
from embodied.policies.told import latest
from embodied.structs import Batch, Condition, Metrics, Observation, Spec


class PhraseLevel(nn.Module):
    """p(phrase | observation, condition) over the candidates.

    Args:
        codes: factory called with (action_dim=).
        head: factory called with (dim=, vector_dim=).
        encoder: factory called with (spec=, obs_horizon=, dim=); None reads the action level's
            tokens (RT-H: one trunk for both), otherwise the levels share nothing (YAY Robot).
        obs_horizon, spacing: of an encoder of its own: so many observations, so many steps apart,
            the last one of the present (YAY: 4, 1 s apart).
    """

    def __init__(
        self,
        *,
        spec: Spec,
        dim: int,
        codes: Callable[..., Codes],
        head: Callable[..., PhraseHead] = PhraseHead,
        encoder: Callable[..., Encoder] | None = None,
        obs_horizon: int = 1,
        spacing: int = 1,
    ) -> None:
        super().__init__()
        if encoder is None and obs_horizon != 1:
            raise ValueError("phrase_level.obs_horizon needs an encoder of its own; give one")
        self.spacing, self.obs_horizon = spacing, obs_horizon
        self.codes = codes(action_dim=spec.action_dim)
        self.head = head(dim=dim, vector_dim=self.codes.dim)
        self.encoder = (
            None if encoder is None else encoder(spec=spec, obs_horizon=obs_horizon, dim=dim)
        )

    @property
    def history(self) -> int:
        """How many of the latest observations it needs."""
        return 1 + (self.obs_horizon - 1) * self.spacing

    def forward(
        self,
        observation: Observation,
        condition: Condition,
        shared: Tensor,
        *,
        noise: Noise | None = None,
    ) -> Tensor:
        """Logits (B, K); `shared` (B, L, D) are the action level's tokens."""
        if self.encoder is not None:
            recent = latest(observation, self.obs_horizon, self.spacing)
            shared = self.encoder(recent, condition, noise=noise)
        logits: Tensor = self.head(shared, self.vectors(shared.device))
        return logits

    def vectors(self, device: torch.device) -> Tensor:
        """Of the candidates, (K, E)."""
        return self.codes.vectors(self.codes.candidates, device)

    def choose(self, scores: Tensor) -> tuple[str, ...]:
        """The candidate with the largest score in each row of (B, K)."""
        names = self.codes.candidates
        return tuple(names[i] for i in scores.argmax(-1).tolist())

    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """Cross-entropy of each row, (B,), 0 where `batch.phrase` is empty; and the share of the
        others whose phrase is chosen."""
        phrases = batch.phrase or ("",) * len(logits)
        first = self.codes.candidates[0]  # stands for what is not known
        index = self.codes.vocabulary.index([each or first for each in phrases])
        target = torch.tensor(index).to(logits.device, non_blocking=True)
        known = torch.tensor([bool(each) for each in phrases]).to(logits.device, non_blocking=True)
        entropy = F.cross_entropy(logits, target, reduction="none") * known
        counted = known & batch.mask.any(1)
        right = (logits.argmax(-1) == target) & counted
        return entropy, {"motion_accuracy": right.sum() / counted.sum().clamp(min=1)}
