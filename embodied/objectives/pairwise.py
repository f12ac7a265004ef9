"""Losses of a preferred and another answer, as functions of their log-ratios to a reference.

d_w, d_l are log pi/pi_ref of the chosen and the rejected answer, m = d_w - d_l, beta the inverse
temperature. Where a docstring says "from memory", the form was not compared with the paper.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from embodied.objectives.answers import Answers, limited


def dpo(chosen: Answers, rejected: Answers, *, beta: float = 0.1) -> Tensor:
    """-log sigmoid(beta m), (B,) (DPO, Rafailov et al. 2023, arXiv:2305.18290, Eq. 7)."""
    return -functional.logsigmoid(beta * (chosen.delta() - rejected.delta()))


def ipo(chosen: Answers, rejected: Answers, *, beta: float = 0.1) -> Tensor:
    """(m - 1 / (2 beta))^2, (B,) (IPO, Azar et al. 2023, arXiv:2310.12036, Eq. 17).

    The target is bounded, unlike DPO's, which separates a pair without end.
    """
    return (chosen.delta() - rejected.delta() - 1 / (2 * beta)).square()


def _alpha_slope(d: Tensor, alpha: float) -> Tensor:
    if alpha == 1:
        return d
    # A constant less than e^((alpha - 1) d) / (alpha - 1), so that alpha -> 1 is d.
    return torch.expm1((alpha - 1) * limited(d)) / (alpha - 1)


_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": lambda d: d,
    "forward_kl": lambda d: -torch.exp(-limited(d)),
    "js": functional.logsigmoid,
}


def f_dpo(
    chosen: Answers, rejected: Answers, *, beta: float = 0.1, divergence: str | float = "js"
) -> Tensor:
    """-log sigmoid(beta [f'(e^d_w) - f'(e^d_l)]), (B,) (f-DPO, Wang et al. 2023, arXiv:2309.16240).

    Args:
        divergence: which f holds the policy to the reference: "reverse_kl" (DPO), "forward_kl",
            "js", or a number alpha of an alpha-divergence with f'(u) = u^(alpha - 1) / (alpha - 1):
            1 is the reverse, 0 the forward KL.
    """
    if isinstance(divergence, str):
        if divergence not in _SLOPES:
            raise ValueError(
                f"divergence must be one of {sorted(_SLOPES)} or a number, got {divergence!r}"
            )
        slopes = [_SLOPES[divergence](each.delta()) for each in (chosen, rejected)]
    else:
        slopes = [_alpha_slope(each.delta(), divergence) for each in (chosen, rejected)]
    return -functional.logsigmoid(beta * (slopes[0] - slopes[1]))


def sppo(chosen: Answers, rejected: Answers, *, beta: float = 0.001) -> Tensor:
    """(d_w - (P_w - 1/2) / beta)^2 + (d_l - (P_l - 1/2) / beta)^2, (B,), P their win rates.

    Self-play preference optimisation (Wu et al. 2024, arXiv:2405.00675), 1 / beta for its
    eta. What wins as often as it loses keeps the reference's probability.
    """
    loss = torch.zeros(())
    for answers in (chosen, rejected):
        target = (answers.need("win_rate", "sppo") - 0.5) / beta
        loss = loss + (answers.delta() - target).square()
    return loss


def sppo_hard(chosen: Answers, rejected: Answers, *, beta: float = 0.001) -> Tensor:
    """`sppo` with the win rates 1 and 0 of a pair: each log-ratio to +-1 / (2 beta), (B,)."""
    target = 1 / (2 * beta)
    return (chosen.delta() - target).square() + (rejected.delta() + target).square()


def hinge(chosen: Answers, rejected: Answers, *, beta: float = 0.1) -> Tensor:
    """max(0, 1 - beta m), (B,).

    The loss of RSO (Liu et al. 2023, arXiv:2309.06657), whose pairs pass `rso_accepts` first.
    """
    return functional.relu(1 - beta * (chosen.delta() - rejected.delta()))


def slic(
    chosen: Answers, rejected: Answers, *, beta: float = 0.1, nll_weight: float = 1.0
) -> Tensor:
    """max(0, 1 - beta (log pi_w - log pi_l)) - weight log pi_w, (B,): no reference.

    SLiC-HF (Zhao et al. 2023, arXiv:2305.10425), whose second term is of an SFT target; here it is
    of the chosen answer.
    """
    better, worse = chosen.log_likelihood(), rejected.log_likelihood()
    return functional.relu(1 - beta * (better - worse)) - nll_weight * better


def rpo(chosen: Answers, rejected: Answers, *, beta: float = 0.1, eta: float = 0.005) -> Tensor:
    """DPO less eta log pi(y_w), (B,), so that the chosen answer itself does not become unlikely.

    Regularised preference optimisation (Liu et al. 2024, "Provably Mitigating Overoptimization in
    RLHF: Your SFT Loss is Implicitly an Adversarial Regularizer"; from memory), with the chosen
    answers as its baseline.
    """
    return dpo(chosen, rejected, beta=beta) - eta * chosen.log_likelihood()


def tpo(chosen: Answers, rejected: Answers, *, beta: float = 0.1, alpha: float = 1.0) -> Tensor:
    """-log sigmoid(beta (log pi_w - log pi_l)) - alpha log pi(gold), (B,): no reference.

    Triple preference optimisation (Saeidi et al. 2024, arXiv:2405.16681); the third answer is
    `chosen.gold`.
    """
    margin = chosen.log_likelihood() - rejected.log_likelihood()
    return -functional.logsigmoid(beta * margin) - alpha * chosen.need("gold", "tpo")


def xpo(chosen: Answers, rejected: Answers, *, beta: float = 0.1, alpha: float = 1e-5) -> Tensor:
    """DPO plus alpha log pi(y') of that answer which the reference drew, (B,).

    Exploratory preference optimisation (Xie et al. 2024, arXiv:2405.21046): the policy is
    pushed off what the reference does, whoever won. Pairs are drawn online, one of the policy and
    one of the reference.
    """
    loss = dpo(chosen, rejected, beta=beta)
    for answers in (chosen, rejected):
        explored = answers.need("from_reference", "xpo")
        loss = loss + alpha * answers.log_likelihood() * explored
    return loss
