"""Learning rewards from comparisons of segments, and how far to believe what was learned.

Bradley & Terry (1952), for segments by Christiano et al. (2017, arXiv:1706.03741): the second of
two segments is preferred with the probability sigmoid(sum of its rewards - sum of the first's).
Throughout, `second_better` is that probability as people say it: 1, 0, or 0.5 for a tie.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from embodied.structs import Metrics


def preference_logits(rewards: Tensor) -> Tensor:
    """(..., 2, T) rewards of both segments' steps -> (...), log-odds of the second."""
    returns = rewards.sum(-1)
    return returns[..., 1] - returns[..., 0]


def bradley_terry(logits: Tensor, second_better: Tensor) -> Tensor:
    """Cross-entropy of soft labels, of the shape of `logits`, such as (E, B) of an ensemble.

    Args:
        second_better: broadcasts to `logits`, (B,).
    """
    target = second_better.to(logits.dtype).expand_as(logits)
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


def label_entropy(second_better: Tensor) -> Tensor:
    """What a cross-entropy cannot fall below, of the same shape: 0 of sure labels, ln 2 of ties."""
    entropy: Tensor = torch.special.entr(second_better) + torch.special.entr(1 - second_better)
    return entropy


def excess(logits: Tensor, second_better: Tensor) -> Tensor:
    """Cross-entropy less the entropy of the label, at least 0: the divergence of the two.

    A policy that is to lower the cross-entropy itself seeks pairs that are easy to label.
    """
    return bradley_terry(logits, second_better) - label_entropy(second_better.to(logits.dtype))


def reward_loss(rewards: Tensor, second_better: Tensor) -> tuple[Tensor, Metrics]:
    """Of an ensemble whose members learn apart: the sum of their mean cross-entropies.

    Args:
        rewards: (E, B, 2, T).
        second_better: (B,), or (E, B) where members see pairs of their own.
    """
    logits = preference_logits(rewards)
    loss = bradley_terry(logits, second_better)
    metrics: Metrics = {
        "reward/loss": loss.detach().mean(),
        "reward/accuracy": accuracy(logits.detach(), second_better),
    }
    return loss.mean(-1).sum(), metrics


def accuracy(logits: Tensor, second_better: Tensor) -> Tensor:
    """The share of pairs, ties aside, whose preferred segment has the higher return; 0-d.

    NaN where all are ties: then nothing can be right.
    """
    label = second_better.expand_as(logits) - 0.5
    decided = label != 0
    return ((logits * label) > 0)[decided].float().mean()


def calibration_error(probability: Tensor, second_better: Tensor, *, num_bins: int = 10) -> Tensor:
    """Mean distance of what is predicted from what is said, over bins of what is predicted; 0-d.

    The expected calibration error (Guo et al. 2017, arXiv:1706.04599, Eq. 3), for the probability
    that the second is better; ties count as half.

    Args:
        probability: (B,) in [0, 1].
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    index = (probability * num_bins).long().clamp(max=num_bins - 1)
    gap = probability - second_better.to(probability.dtype)
    sums = torch.zeros(num_bins, dtype=gap.dtype, device=gap.device).index_add(0, index, gap)
    return sums.abs().sum() / len(gap)
