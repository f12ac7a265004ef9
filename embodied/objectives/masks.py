"""What of a decision's gradient is let through: M of `policy_gradient`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from embodied.objectives.policy_gradient import Mask
from embodied.objectives.rollouts import Rollouts, group_any


class Clip:
    """0 where a ratio has left [1 - low, 1 + high] in the direction that it is pushed, else 1.

    The gradient of min(ratio A, clip(ratio) A) (PPO, Schulman et al. 2017, arXiv:1707.06347,
    Eq. 7). DAPO's clip-higher has high > low (arXiv:2503.14476).
    """

    def __init__(self, *, low: float = 0.2, high: float = 0.2) -> None:
        if not (0 <= low < 1 and high >= 0):
            raise ValueError(f"low must lie in [0, 1) and high be at least 0, got {low}, {high}")
        self.low, self.high = math.log1p(-low), math.log1p(high)

    def __call__(self, rollouts: Rollouts, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        above = (advantage > 0) & (log_ratio > self.high)
        below = (advantage < 0) & (log_ratio < self.low)
        return (~(above | below)).to(log_ratio.dtype)


class ClipWeight:
    """Caps the ratio that a decision counts with, but drops none: M ratio = clip(ratio).

    CISPO (MiniMax 2025, arXiv:2506.13585), in which `low` is 1: no lower cap.
    """

    def __init__(self, *, low: float = 1.0, high: float = 0.2) -> None:
        if not (0 <= low <= 1 and high >= 0):
            raise ValueError(f"low must lie in [0, 1] and high be at least 0, got {low}, {high}")
        self.low, self.high = 1 - low, 1 + high

    def __call__(self, rollouts: Rollouts, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        ratio = log_ratio.exp()
        return ratio.clamp(self.low, self.high) / ratio


class SoftGate:
    """4 s (1 - s) with s = sigmoid(tau (ratio - 1)), which fades smoothly where `Clip` cuts.

    The derivative of 4 / tau sigmoid(tau (ratio - 1)), 1 where the ratio is 1 (SAPO, Gao et al.
    2025, "Soft Adaptive Policy Optimization", arXiv:2511.20347).

    Args:
        positive, negative: tau for advantages above 0, and for the others, which fade faster.
    """

    def __init__(self, *, positive: float = 1.0, negative: float = 1.05) -> None:
        self.positive, self.negative = positive, negative

    def __call__(self, rollouts: Rollouts, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        tau = torch.where(advantage > 0, self.positive, self.negative)
        s = torch.sigmoid(tau * (log_ratio.exp() - 1))
        return 4 * s * (1 - s)


class Shaped:
    """gamma / (pi + gamma)^2, the derivative of pi / (pi + gamma): unlikely decisions count for
    more.

    LUFFY's policy shaping for demonstrations (Yan et al. 2025, arXiv:2504.14945), to be
    used with the denominator `One`.
    """

    def __init__(self, *, gamma: float = 0.1) -> None:
        self.gamma = gamma

    def __call__(self, rollouts: Rollouts, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        return self.gamma / (log_ratio.exp() + self.gamma).square()


class LowEntropy:
    """0 for all of a sequence whose mean entropy is above a threshold, else 1.

    GTPO (Simoni et al. 2025, arXiv:2508.03772), ln 2: the policy that made it had lost its mind.
    """

    def __init__(self, *, threshold: float = math.log(2)) -> None:
        self.threshold = threshold

    def __call__(self, rollouts: Rollouts, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        mean = rollouts.row_mean(rollouts.need("entropy", "masks.LowEntropy"))
        return rollouts.per_step((mean <= self.threshold).to(log_ratio.dtype))


class Conflicts:
    """Spares decisions that good and bad sequences of a group share at the same place.

    GTPO (Simoni et al. 2025, arXiv:2508.03772; factors from memory): such a code counts `negative`
    times in a bad sequence and `positive` times in a good one; good and bad by the sign of A.
    """

    def __init__(self, *, positive: float = 2.0, negative: float = 0.0) -> None:
        self.positive, self.negative = positive, negative

    def __call__(self, rollouts: Rollouts, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        code = rollouts.need("code", "masks.Conflicts")
        key = _places(rollouts.groups(), code)
        good, bad = advantage > 0, advantage < 0
        flat = key.flatten()
        both = torch.ones_like(rollouts.mask)
        for side in (good, bad):
            found = group_any((side & rollouts.mask).flatten(), flat)
            both = both & found.view_as(both)
        factor = torch.where(good, self.positive, self.negative)
        return torch.where(both, factor, 1.0)


def _places(group: Tensor, code: Tensor) -> Tensor:
    """(B, H) int64, equal where group, place and code are."""
    place = torch.arange(code.shape[1], device=code.device).expand_as(code)
    rows = torch.stack([group[:, None].expand_as(code), place, code], -1).flatten(0, 1)
    index: Tensor = torch.unique(rows, dim=0, return_inverse=True)[1]
    return index.view_as(code)


class Unlikely:
    """1 for decisions that the acting policy gave at most this probability, else 0.

    Segment policy optimisation (Guo et al. 2025, arXiv:2505.23564): credit goes to the decisions
    that were open. Of codes, whose probabilities have no units.
    """

    def __init__(self, *, max_prob: float = 0.9) -> None:
        if not 0 < max_prob <= 1:
            raise ValueError(f"max_prob must lie in (0, 1], got {max_prob}")
        self.max_log_prob = math.log(max_prob)

    def __call__(self, rollouts: Rollouts, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        old = rollouts.need("old", "masks.Unlikely")
        return (old <= self.max_log_prob).to(log_ratio.dtype)


class ByOrigin:
    """One mask for what the policy did itself, another for demonstrations; None is 1."""

    def __init__(self, *, own: Mask | None = None, demonstrated: Mask | None = None) -> None:
        self.own, self.demonstrated = own, demonstrated

    def __call__(self, rollouts: Rollouts, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        own, shown = (
            torch.ones_like(log_ratio) if part is None else part(rollouts, log_ratio, advantage)
            for part in (self.own, self.demonstrated)
        )
        return torch.where(rollouts.demonstrations()[:, None], shown, own)
