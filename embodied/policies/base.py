"""What a policy is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from embodied.noise import Noise
from embodied.structs import Batch, Condition, Metrics, Observation, Spec


class Policy(nn.Module, ABC):
    """Maps observations and a condition to action chunks. Holds no per-episode state.

    `forward` is the loss, so that DDP and FSDP see every training pass.

    Attributes:
        trains_in_stages: whether some parameters take no part in some training steps.
    """

    spec: Spec
    obs_horizon: int
    pred_horizon: int
    trains_in_stages: bool = False

    @abstractmethod
    def loss(self, batch: Batch, *, noise: Noise) -> tuple[Tensor, Metrics]:
        """The mean loss over valid steps, and detached metrics."""

    @abstractmethod
    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        """Action chunks (B, H, A), environment units, within the spec's bounds."""

    @abstractmethod
    def fit_normalizers(
        self, observation: Observation, condition: Condition, action: Tensor
    ) -> None:
        """Takes statistics of training data: N observations with T = 1, the distinct conditions
        and (N, A) actions."""

    def begin_step(self, step: int) -> None:
        """Called before each training step, from 0, for those that train in stages; what it
        changes must follow from the step alone, so that a resumed run goes on alike."""

    def forward(self, batch: Batch, noise: Noise) -> tuple[Tensor, Metrics]:
        return self.loss(batch, noise=noise)


def by_source(errors: Tensor, batch: Batch) -> Metrics:
    """The mean of (B, H) errors over the valid steps of each data set that rows are of."""
    metrics: Metrics = {}
    for name in sorted(set(batch.source or ())):
        mine = torch.tensor([each == name for each in batch.source or ()])
        mask = batch.mask * mine.to(batch.mask.device, non_blocking=True)[:, None]
        metrics[f"loss/{name}"] = (errors * mask).sum() / mask.sum().clamp(min=1)
    return metrics
