"""Losses of K answers to one question, ordered or rewarded: `Answers` of (B, K, H) -> (B,)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from embodied.objectives.answers import Answers


def lipo(answers: Answers, *, beta: float = 0.05) -> Tensor:
    """sum over r_i > r_j of |2^r_i - 2^r_j| |1/log2(1 + k_i) - 1/log2(1 + k_j)| log(1 + exp(s_j -
    s_i)), (B,), with scores s = beta log pi/pi_ref and k the ranks that they give, from 1.

    LiPO-lambda (Liu et al. 2024, "LiPO: Listwise Preference Optimization through Learning-to-Rank",
    arXiv:2402.01878; from memory): pairs count by what exchanging them would cost in discounted
    cumulative gain. Rewards should lie in [0, 1].
    """
    reward = answers.need("reward", "lipo")
    scores = beta * answers.delta()
    ranks = scores.argsort(-1, descending=True).argsort(-1) + 1
    discount = 1 / torch.log2(1 + ranks.to(scores.dtype))
    weight = _differences(2**reward).abs() * _differences(discount).abs()
    costs = functional.softplus(-_differences(scores))
    return (weight * costs * (_differences(reward) > 0)).sum((-2, -1))


def _differences(x: Tensor) -> Tensor:
    """(..., K) -> (..., K, K), x_i - x_j."""
    return x[..., :, None] - x[..., None, :]


def pro(answers: Answers, *, nll_weight: float = 0.05) -> Tensor:
    """-sum_k log(e^(p_k / T_kk) / sum_(i >= k) e^(p_i / T_ki)) - weight p_1, (B,), answers ordered
    by falling reward, p their mean log-probabilities of a step.

    Preference ranking optimisation (Song et al. 2023, "Preference Ranking Optimization for Human
    Alignment", arXiv:2306.17492; from memory): 1 / T_ki = r_k - r_i, and 1 / T_kk is the largest of
    them, so that what is much worse is pushed further. No reference. Equal rewards do not compete.
    """
    reward = answers.need("reward", "pro")
    order = reward.argsort(-1, descending=True)
    reward = reward.gather(-1, order)
    p = (answers.log_likelihood() / answers.lengths()).gather(-1, order)
    loss = -nll_weight * p[..., 0]
    for k in range(reward.shape[-1] - 1):
        gaps = reward[..., k, None] - reward[..., k + 1 :]
        scaled = torch.cat([gaps.amax(-1, keepdim=True), gaps], -1) * p[..., k:]
        competes = functional.pad(gaps > 0, (1, 0), value=True)
        everything = scaled.masked_fill(~competes, -torch.inf).logsumexp(-1)
        loss = loss + everything - scaled[..., 0]
    return loss


def brain(answers: Answers, *, beta: float = 0.1) -> Tensor:
    """-sum_i a_i log b_i, (B,), with a = softmax(log pi_ref + r / beta - log q) and b = softmax(log
    pi - log q) over the K answers, which q drew.

    BRAIn (Pandey et al. 2024, "BRAIn: Bayesian Reward-conditioned Amortized Inference for natural
    language generation from feedback", arXiv:2402.02479; from memory), with g(r) = e^(r / beta).
    Its gradient is -sum_i (a_i - b_i) grad log pi(y_i): the posterior less what the policy already
    gives, a baseline of its own.
    """
    drawn = answers.total(answers.need("old", "brain"))
    prior = answers.total(answers.need("reference", "brain"))
    wanted = (prior + answers.need("reward", "brain") / beta - drawn).softmax(-1)
    return -(wanted * (answers.log_likelihood() - drawn).log_softmax(-1)).sum(-1)
