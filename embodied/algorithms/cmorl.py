"""Policies for several objectives: one is raised, the others are held (C-MORL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from embodied.algorithms.on_policy import Examined, standardised
from embodied.algorithms.ppo import PPO
from embodied.noise import Noise
from embodied.structs import Batch, Metrics


@dataclass(frozen=True)
class Barrier:
    """-1 / (t (K - 1)) sum_j!=i log(max(mean(clip(rho)) G_j - beta G_j, 0.001)).

    The extension stage's penalty (Liu et al. 2024, "C-MORL: Multi-Objective Reinforcement Learning
    through Efficient Discovery of Pareto Front"): the other objectives' returns, as far as the
    clipped ratios tell, are to stay above a share beta of what they were. A return below 0 would
    have to be higher than at the start, where the floor already is flat; so returns are shifted to
    be positive first, by `shifted`, which the published code does not.

    Attributes:
        beta: share that must be kept, in (0, 1).
        sharpness: t; the larger the harder is the wall and the less it is felt far from it.
    """

    beta: float = 0.9
    sharpness: float = 20.0
    clip: float = 0.2
    floor: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1 or self.sharpness <= 0:
            raise ValueError(
                "algorithm.beta must lie in (0, 1) and algorithm.sharpness be > 0, got "
                f"{self.beta} and {self.sharpness}"
            )

    def __call__(self, ratio: Tensor, returns: Tensor) -> Tensor:
        """The loss of ratios (B,) with a gradient and positive returns (J,) of what is held."""
        kept = ratio.clamp(1 - self.clip, 1 + self.clip).mean() * returns
        margin = (kept - self.beta * returns).clamp(min=self.floor)
        return -margin.log().mean() / self.sharpness


def shifted(returns: Tensor, lowest: Tensor) -> Tensor:
    """Returns (K,) counted from the lowest (K,) that can be; at least 0.001."""
    return (returns - lowest).clamp(min=1e-3)


class ConstrainedPPO(PPO):
    """PPO that raises one objective and holds the others: one extension from a point of the front.

    The stage before it is `PPO` with fixed `weights`. A run that goes on from such a one by
    `init_from` has its policy, and learns its values anew.

    Args:
        raised: which objective, in [0, K).
        barrier: of the others.
        lowest: (K,) the least that an iteration's mean return can be, from which returns are
            counted; as many as `weights`, whose values do not matter here.
    """

    def __init__(
        self,
        *args: Any,
        raised: int,
        lowest: Sequence[float],
        beta: float = 0.9,
        sharpness: float = 20.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        count = len(self.weights)
        if not self.multiple or count < 2 or not 0 <= raised < count or len(lowest) != count:
            raise ValueError(
                "algorithm.weights and algorithm.lowest must have a number for each of at least 2 "
                f"objectives, and algorithm.raised be one of them, got {count}, {len(lowest)} and "
                f"{raised}"
            )
        self.raised, self.held = raised, [k for k in range(count) if k != raised]
        self.barrier = Barrier(beta=beta, sharpness=sharpness)
        self.lowest = torch.tensor(list(lowest)).to(self.weights)
        self.reached = self.lowest

    @torch.no_grad()
    def examine(self, batch: Batch) -> Examined:
        x = super().examine(batch)
        assert batch.objectives is not None
        assert batch.continues is not None
        self.reached = shifted(mean_returns(batch.objectives, batch.continues), self.lowest)
        return replace(x, advantage=standardised(x.parts[:, self.raised]))

    def policy_loss(self, x: Examined, noise: Noise | None = None) -> tuple[Tensor, Metrics]:
        """PPO's in the raised objective, and the barrier of the others."""
        loss, metrics = super().policy_loss(x, noise)
        log_ratio = self.policy.log_prob(x.s, x.a) - x.old
        wall = self.barrier(log_ratio.exp(), self.reached[self.held])
        return loss + wall, {**metrics, "barrier": wall.detach()}


def mean_returns(objectives: Tensor, continues: Tensor) -> Tensor:
    """(B, K) of steps -> (K,) mean sums of the segments that lie end to end."""
    segments = int((~continues).sum())
    return objectives.sum(0) / max(segments, 1)
