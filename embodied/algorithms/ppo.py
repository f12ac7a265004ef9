"""Proximal policy optimisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from embodied.algorithms.on_policy import Examined, OnPolicy
from embodied.noise import BatchNoise, Noise
from embodied.objectives.advantages import Given
from embodied.objectives.denominators import Old
from embodied.objectives.likelihoods import Pooled
from embodied.objectives.masks import Clip
from embodied.objectives.penalties import EntropyBonus
from embodied.objectives.policy_gradient import PolicyGradient
from embodied.structs import Metrics


class PPO(OnPolicy):
    """PPO with a clipped ratio (Schulman et al. 2017, arXiv:1707.06347, Eq. 7 and 9).

    At the first gradient step all ratios are 1, and the gradient is the plain policy gradient.
    Advantages are normalised over an iteration's rows, not over each minibatch.

    Args:
        epochs: times that each row is learned from.
        clip: epsilon.
        value_weight, entropy_weight: c1 and c2 of Eq. 9.
    """

    def __init__(
        self,
        *args: Any,
        epochs: int = 10,
        clip: float = 0.2,
        value_weight: float = 0.5,
        entropy_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.epochs, self.value_weight = epochs, value_weight
        self.objective = PolicyGradient(
            denominator=Old(),
            advantage=Given(),
            likelihood=Pooled(),
            masks=[Clip(low=clip, high=clip)],
            penalties=[EntropyBonus(weight=entropy_weight)] if entropy_weight else [],
        )

    def improve(self, x: Examined, step: int, generator: torch.Generator) -> Metrics:
        noise = BatchNoise(generator) if self.objective.penalties else None
        metrics: Metrics = {}
        for _ in range(self.epochs):
            for part in self.minibatches(x, generator):
                loss, metrics = self.policy_loss(part, noise)
                value = self.value_loss(part)
                self.descend(loss + self.value_weight * value)
                metrics = {**metrics, "value_loss": value.detach()}
        return metrics

    def policy_loss(self, x: Examined, noise: Noise | None = None) -> tuple[Tensor, Metrics]:
        """Of some rows; its value is no figure of merit (see `objectives.policy_gradient`)."""
        return self.objective(self.rollouts(x, noise))
