"""Advantages that tell the decisions of a sequence apart, without a critic."""

from __future__ import annotations

import torch
from torch import Tensor

from embodied.objectives.policy_gradient import Advantage
from embodied.objectives.rollouts import Rollouts, group_mean, group_std

_EPSILON = 1e-6


class Anchored:
    """An advantage of the episode and weight times one among all visits to the same state.

    GiGPO (Feng et al. 2025, arXiv:2505.10978; from memory): rollouts of a group that came through
    the same state (`anchor`) are compared by what each earned from there on (`step_return`).
    A simulator that begins a group in one state makes such states.

    Args:
        episode: of whole sequences, such as `advantages.Group`.
        weight: the paper's omega.
        std: whether differences at a state are divided by their deviation.
    """

    def __init__(self, *, episode: Advantage, weight: float = 1.0, std: bool = True) -> None:
        self.episode, self.weight, self.std = episode, weight, std

    def __call__(self, rollouts: Rollouts) -> Tensor:
        returns = rollouts.need("step_return", "step_advantages.Anchored").flatten()
        anchor = rollouts.need("anchor", "step_advantages.Anchored")
        group = rollouts.groups()[:, None].expand_as(anchor)
        pairs = torch.stack([group, anchor], -1).flatten(0, 1)
        _, place = torch.unique(pairs, dim=0, return_inverse=True)
        made = rollouts.mask.flatten()
        step = returns - group_mean(returns, place, made)
        if self.std:
            step = step / (group_std(returns, place, made) + _EPSILON)
        return self.episode(rollouts) + self.weight * step.view_as(rollouts.log_prob)


class SegmentGain:
    """What a segment gained: the value at its end less that at its start, for its decisions.

    Segment policy optimisation (Guo et al. 2025, arXiv:2505.23564): values are means over rollouts
    from the boundaries (`boundary_value`), so that none is learned.
    """

    def __call__(self, rollouts: Rollouts) -> Tensor:
        segment = rollouts.need("segment", "step_advantages.SegmentGain")
        value = rollouts.need("boundary_value", "step_advantages.SegmentGain")
        if int(segment.max()) + 1 >= value.shape[1]:
            raise ValueError(
                f"boundary_value has {value.shape[1]} columns, but segment goes to "
                f"{int(segment.max())}; K segments have K + 1 boundaries"
            )
        return value.gather(1, segment + 1) - value.gather(1, segment)


class EntropyPenalised:
    """An advantage less weight times the mean entropy of the sequence.

    GTPO (Simoni et al. 2025, arXiv:2508.03772), which needs no reference thereby.
    """

    def __init__(self, *, advantage: Advantage, weight: float = 0.1) -> None:
        self.advantage, self.weight = advantage, weight

    def __call__(self, rollouts: Rollouts) -> Tensor:
        entropy = rollouts.need("entropy", "step_advantages.EntropyPenalised")
        mean = rollouts.row_mean(entropy)
        return self.advantage(rollouts) - self.weight * rollouts.per_step(mean)


class EntropyModulated:
    """Confident decisions count for more, and are worth more if they lead to confident ones.

    A e^(-k H_t) / mean e^(-k H) + bonus e^(-k' H_t+1), H the entropies scaled to [0, 1] over the
    batch; the last decision has no bonus (EMPG, Wang et al. 2025, "Harnessing Uncertainty:
    Entropy-Modulated Policy Gradients for Long-Horizon LLM Agents", arXiv:2509.09265).

    Args:
        sharpness, next_sharpness: k and k'.
        bonus: zeta.
    """

    def __init__(
        self,
        *,
        advantage: Advantage,
        sharpness: float = 1.0,
        next_sharpness: float = 1.0,
        bonus: float = 0.1,
    ) -> None:
        self.advantage, self.bonus = advantage, bonus
        self.sharpness, self.next_sharpness = sharpness, next_sharpness

    def __call__(self, rollouts: Rollouts) -> Tensor:
        mask = rollouts.mask
        entropy = rollouts.need("entropy", "step_advantages.EntropyModulated")
        low, high = entropy[mask].min(), entropy[mask].max()
        scaled = (entropy - low) / (high - low + _EPSILON)
        confidence = (-self.sharpness * scaled).exp()
        modulated = self.advantage(rollouts) * confidence / confidence[mask].mean()
        future = torch.zeros_like(scaled)
        future[:, :-1] = (-self.next_sharpness * scaled[:, 1:]).exp() * mask[:, 1:]
        return modulated + self.bonus * future
