"""What a sequence is worth beside its raw reward: the R that group advantages compare."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from embodied.objectives.rollouts import Rollouts, group_mean


class Outcome(Protocol):
    """(B,) of rollouts."""

    def __call__(self, rollouts: Rollouts) -> Tensor: ...


class Plain:
    """The reward as it is."""

    def __call__(self, rollouts: Rollouts) -> Tensor:
        return rollouts.reward


class Unlikeliness:
    """R (1 - c rank / G): of G sequences the likelier ones earn less for the same success.

    Ranks, from 0 for the least likely, are those of the acting policy's log-probability, so that
    rare ways to succeed are learned and not only common ones (He et al. 2025, "Rewarding the
    Unlikely: Lifting GRPO Beyond Distribution Sharpening", arXiv:2506.02355).
    """

    def __init__(self, *, coefficient: float = 0.25) -> None:
        if not 0 <= coefficient <= 1:
            raise ValueError(f"coefficient must lie in [0, 1], got {coefficient}")
        self.coefficient = coefficient

    def __call__(self, rollouts: Rollouts) -> Tensor:
        old = rollouts.need("old", "outcomes.Unlikeliness")
        likelihood = (old * rollouts.mask).sum(-1)
        group = rollouts.groups()
        alike = group[:, None] == group[None, :]
        rank = (alike & (likelihood[None, :] < likelihood[:, None])).sum(1)
        return rollouts.reward * (1 - self.coefficient * rank / alike.sum(1))


class FirstHit:
    """1 / sqrt(N k) where the k-th of N candidates is the first that is right, -1 / N where none.

    Adaptive exploration reward (AEPO in InfiGUI-G1, Liu et al. 2025, arXiv:2508.05731): a policy
    that offers several actions at once should be right early.
    """

    def __init__(self, *, num_candidates: int) -> None:
        self.num_candidates = num_candidates

    def __call__(self, rollouts: Rollouts) -> Tensor:
        k = rollouts.need("first_hit", "outcomes.FirstHit")
        n = self.num_candidates
        if bool((k > n).any()) or bool((k < 0).any()):
            raise ValueError(f"first_hit must lie in [0, num_candidates={n}], got {k.tolist()}")
        hit = (n * k.clamp(min=1)).to(rollouts.reward.dtype).rsqrt()
        return torch.where(k > 0, hit, -1 / n)


class Bundled:
    """The sum of the rewards of a bundle, for each of its rows.

    RiskPO bundles 5 tasks, since quantiles of rewards that are 0 or 1 say nothing (Ren et al. 2025,
    arXiv:2510.00911).
    """

    def __call__(self, rollouts: Rollouts) -> Tensor:
        bundle = rollouts.need("bundle", "outcomes.Bundled")
        size = (bundle[:, None] == bundle[None, :]).sum(1)
        return group_mean(rollouts.reward, bundle) * size
