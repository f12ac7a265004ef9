"""Pairs of answers that are weighed by other policies, or whose labels are doubted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from embodied.objectives.answers import Answers, PairLoss


def tgdpo(chosen: Answers, rejected: Answers, *, beta: float = 0.1, alpha: float = 0.5) -> Tensor:
    """-log sigmoid(sum_t beta (1 + alpha beta g_t) Delta_t^w - sum_t beta (1 - alpha beta g_t)
    Delta_t^l), (B,), where g_t are `guide`, a step's log-ratios of an aligned policy.

    Token-guided DPO (TGDPO, Zhu et al. 2025, arXiv:2506.14574). Steps count for more in the chosen
    answer where the guide prefers them, and for less in the rejected one.
    """
    weighted = [
        answers.total(
            (1 + sign * alpha * beta * answers.need("guide", "tgdpo"))
            * (answers.log_prob - answers.need("reference", "tgdpo"))
        )
        for answers, sign in ((chosen, 1), (rejected, -1))
    ]
    return -functional.logsigmoid(beta * (weighted[0] - weighted[1]))


def mnpo(
    chosen: Answers,
    rejected: Answers,
    *,
    eta: float = 0.0075,
    reference_share: float = 1 / 3,
    history_weights: Sequence[float] = (0.5, 0.5),
) -> Tensor:
    """(M(pi) - c M(pi_ref) - (1 - c) sum_j lambda_j M(pi_j) - 1 / (2 eta))^2, (B,), where M(p) =
    log p(y_w) - log p(y_l) and pi_j are the policies of earlier rounds.

    Multiplayer Nash preference optimisation (Wu et al. 2025, arXiv:2509.23102). With c = 1 it is
    IPO.

    Args:
        reference_share: c in [0, 1].
        history_weights: lambda, one for each policy in `history`; they should sum to 1.
    """
    if not 0 <= reference_share <= 1:
        raise ValueError(f"reference_share must lie in [0, 1], got {reference_share}")
    totals = []
    for answers in (chosen, rejected):
        total = answers.log_likelihood()
        if reference_share > 0:
            total = total - reference_share * answers.total(answers.need("reference", "mnpo"))
        if reference_share < 1:
            total = total - (1 - reference_share) * _opponents(answers, history_weights)
        totals.append(total)
    return (totals[0] - totals[1] - 1 / (2 * eta)).square()


def _opponents(answers: Answers, weights: Sequence[float]) -> Tensor:
    history = answers.need("history", "mnpo")
    if history.shape[-2] != len(weights):
        raise ValueError(
            f"history_weights has {len(weights)} entries, history {history.shape[-2]} policies; "
            "give one weight for each"
        )
    return answers.total((history * history.new_tensor(list(weights))[:, None]).sum(-2))


def accelerated(
    chosen: Answers, rejected: Answers, *, loss: PairLoss, momentum: float = 0.5
) -> Tensor:
    """A pairwise loss, (B,), whose reference is ahead: log pi_t + momentum (log pi_t - log pi_t-1).

    Accelerated preference optimisation (He et al. 2024, "Accelerated Preference Optimization for
    Large Language Model Alignment", arXiv:2410.06293; from memory), for rounds of a loss such as
    DPO: `reference` is the last round's policy, `history` the one before.
    """
    return loss(*(_ahead(answers, momentum) for answers in (chosen, rejected)))


def _ahead(answers: Answers, momentum: float) -> Answers:
    last, before = answers.need("reference", "accelerated"), answers.need("history", "accelerated")
    if before.shape[-2] != 1:
        raise ValueError(f"accelerated needs a history of 1 policy, got {before.shape[-2]}")
    return dataclasses.replace(answers, reference=last + momentum * (last - before[..., 0, :]))


class LCPO(nn.Module):
    """Weighs a pairwise loss L by how far its label is trusted, in turns with how often labels err.

    Expectation: w = (1 - e) exp(-L) / ((1 - e) exp(-L) + e exp(-L~)), L~ with the label flipped;
    the loss is w L + (1 - w) L~. Maximisation: e = 1 - mean w, here a moving average over batches.
    Latent collective preference optimisation (Cao et al. 2025, arXiv:2509.24159; the form from
    memory).

    Args:
        loss: whose exp(-loss) is a likelihood, such as DPO.
        flip_rate: where e begins, in (0, 0.5): labels are better than chance.
        momentum: of the moving average.
    """

    def __init__(self, loss: PairLoss, *, flip_rate: float = 0.1, momentum: float = 0.99) -> None:
        super().__init__()
        if not 0 < flip_rate < 0.5:
            raise ValueError(f"flip_rate must lie in (0, 0.5), got {flip_rate}")
        self.loss, self.momentum = loss, momentum
        self.flip_rate: Tensor
        self.register_buffer("flip_rate", torch.tensor(flip_rate))

    def trust(self, loss: Tensor, flipped: Tensor) -> Tensor:
        """(B,), how probable it is that a label is right."""
        odds = torch.log1p(-self.flip_rate) - self.flip_rate.log() + flipped - loss
        return torch.sigmoid(odds).detach()

    def forward(self, chosen: Answers, rejected: Answers) -> Tensor:
        loss, flipped = self.loss(chosen, rejected), self.loss(rejected, chosen)
        trust = self.trust(loss, flipped)
        if self.training:
            # Away from 0, from where it could not return, and from a coin's, past which labels lie.
            target = (1 - trust.mean()).clamp(1e-4, 0.49)
            self.flip_rate.lerp_(target.to(self.flip_rate.dtype), 1 - self.momentum)
        return trust * loss + (1 - trust) * flipped
