"""A policy that only acts, as tests need to watch what acts with policies."""

from __future__ import annotations

from typing import Any

import torch

from embodied.noise import Noise
from embodied.policies.base import Policy
from embodied.structs import Batch, Metrics, Spec


class Acting(Policy):
    """What acts it leaves to those built on it; nothing can be learned."""

    def __init__(self, spec: Spec, *, obs_horizon: int = 1, pred_horizon: int = 4) -> None:
        super().__init__()
        self.spec, self.obs_horizon, self.pred_horizon = spec, obs_horizon, pred_horizon
        self.weight = torch.nn.Parameter(torch.zeros(1))  # which tells where it is

    def loss(self, batch: Batch, *, noise: Noise) -> tuple[torch.Tensor, Metrics]:
        raise NotImplementedError

    def fit_normalizers(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError
