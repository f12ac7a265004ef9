"""Contrastive preference learning: policies from compared segments, without a reward model.

Segments are compared by regret, not by reward: a segment's optimal advantages sum to the log-
probability of its actions (Hejna et al. 2023, arXiv:2310.13639). For a head without a density,
`log_prob` may be -||a - mu(s)||^2, as in the published code.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from embodied.objectives.answers import Answers


def cpl(chosen: Answers, rejected: Answers, *, alpha: float = 0.1, bias: float = 0.5) -> Tensor:
    """-log sigmoid(alpha log pi_w - bias alpha log pi_l), (B,), sums over segments.

    Args:
        bias: lambda in (0, 1]: below 1, both becoming unlikely costs something, which holds the
            policy near the data. It matters: with 1 actions saturate.
    """
    margin = chosen.log_likelihood() - bias * rejected.log_likelihood()
    return -functional.logsigmoid(alpha * margin)


def cpl_kl(chosen: Answers, rejected: Answers, *, alpha: float = 0.2, bias: float = 0.75) -> Tensor:
    """`cpl` of log-ratios to a cloned policy, (B,) (CPL-KL). With `bias` 1 it is DPO."""
    return -functional.logsigmoid(alpha * (chosen.delta() - bias * rejected.delta()))


def preferred(chosen: Answers, rejected: Answers) -> Tensor:
    """-log pi_w, (B,), a mean over the steps: imitation of what was preferred (SFT)."""
    return -chosen.log_likelihood() / chosen.lengths()
