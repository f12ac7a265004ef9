"""Pairs of answers whose rewards are known, not only their order.

Notation as in `pairwise`; r_w, r_l are the rewards.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from embodied.objectives.answers import Answers, limited


def modpo(
    chosen: Answers,
    rejected: Answers,
    *,
    beta: float = 0.1,
    weight: float = 1.0,
    other_weights: Sequence[float] = (),
) -> Tensor:
    """-log sigmoid((1 / w_0) [beta m - w_-0 . (r_w - r_l) of the other objectives]), (B,).

    Multi-objective DPO (Zhou et al. 2023, arXiv:2310.03708): labels are of one objective, the
    rewards of the others are subtracted, and the policy maximises the weighted sum of all.

    Args:
        weight: w_0 in (0, 1], of the objective that the labels are of.
        other_weights: w_-0, one for each of `other_rewards`.
    """
    if not 0 < weight <= 1:
        raise ValueError(f"weight must lie in (0, 1], got {weight}")
    margin = beta * (chosen.delta() - rejected.delta())
    if other_weights:
        rewards = [each.need("other_rewards", "modpo") for each in (chosen, rejected)]
        if rewards[0].shape[-1] != len(other_weights):
            raise ValueError(
                f"other_weights has {len(other_weights)} entries, other_rewards "
                f"{rewards[0].shape[-1]}; give one weight for each objective"
            )
        margin = margin - (rewards[0] - rewards[1]) @ rewards[0].new_tensor(list(other_weights))
    return -functional.logsigmoid(margin / weight)


def copg(chosen: Answers, rejected: Answers, *, beta: float = 0.1) -> Tensor:
    """1/2 (r_w - r_l - beta m)^2, (B,), on any two answers, drawn by any policy.

    Contrastive policy gradient (Flet-Berliac et al. 2024, arXiv:2406.19185; from memory). It is
    beta^2 / 2 times IPO where r_w - r_l = 1/2.
    """
    gap = _gap(chosen, rejected, "copg")
    return 0.5 * (gap - beta * (chosen.delta() - rejected.delta())).square()


def p3o(chosen: Answers, rejected: Answers, *, clip: float = 0.2, joint: bool = True) -> Tensor:
    """A clipped -1/2 (r_w - r_l) (log pi_w - log pi_l), (B,), of two answers of the old policy.

    Pairwise proximal policy optimisation (Wu et al. 2023, arXiv:2310.00212; from memory): rewards
    that differ by a constant of the question give the same gradient. The first step's is that of
    the line above.

    Args:
        joint: clips the ratio of the ratios pi / pi_old of the two, else each of them.
    """
    half = 0.5 * _gap(chosen, rejected, "p3o")
    ratios = [each.ratio_to_old() for each in (chosen, rejected)]
    if joint:
        return -_clipped(ratios[0] - ratios[1], half, clip)
    return -_clipped(ratios[0], half, clip) - _clipped(ratios[1], -half, clip)


def _gap(chosen: Answers, rejected: Answers, purpose: str) -> Tensor:
    return chosen.need("reward", purpose) - rejected.need("reward", purpose)


def _clipped(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    ratio = limited(log_ratio).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def goal_preference(goal: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """(B,), the label `second_better` of a policy that is asked for a reward of `goal`.

    Reward-augmented preferences (Zhang et al. 2024, "Reward-Augmented Data Enhances Direct
    Preference Alignment of LLMs"; from memory): the answer is better whose reward is nearer to the
    goal, by -(goal - r)^2. Each pair enters twice, with the goal r_w, which keeps its order, and
    with r_l, which reverses it; both answers are then learned from, and the policy is asked for the
    highest reward when it acts.
    """
    return 0.5 * (1 + torch.sign((goal - first).abs() - (goal - second).abs()))


def rso_accepts(reward: Tensor, u: Tensor, *, beta: float = 0.5) -> Tensor:
    """(..., K) bool, which of K answers of the reference count as drawn from the optimal policy.

    Rejection sampling with exp((r - r_max) / beta) (RSO, Liu et al. 2023, arXiv:2309.06657).

    Args:
        reward: (..., K), of answers to the same question.
        u: (..., K), uniform in [0, 1).
    """
    best = reward.amax(-1, keepdim=True)
    return u < ((reward - best) / beta).exp()
