"""Preference losses of heads that denoise: errors, or the steps of a sampler, give log-ratios."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from embodied.objectives.answers import Answers
from embodied.objectives.evidence import error_log_ratio


def answers_of_errors(
    errors: Tensor,
    reference: Tensor,
    *,
    weight: float | Tensor = 0.5,
    mask: Tensor | None = None,
) -> Answers:
    """Answers whose log-ratios are those of `error_log_ratio`; then `dpo` is Diffusion-DPO.

    Both answers of a pair must be denoised from the same levels with the same noise (Wallace et al.
    2023, arXiv:2311.12908, Eq. 14). All losses of log-ratios can follow, no others: an error is no
    likelihood. The paper's beta of 5000 goes with means over 16,384 numbers, 0.3 for each: with
    `ErrorHead.errors`, means over the A numbers of an action, take weight A / 2 and a beta of
    about 0.3.

    Args:
        errors, reference, weight, mask: as of `error_log_ratio`, (B, H).
    """
    ratio = error_log_ratio(errors, reference, weight=weight, mask=mask)[:, None]
    return Answers(ratio, reference=torch.zeros_like(ratio))


def step_aware(
    chosen: Answers, rejected: Answers, *, beta: float = 10.0, clip: float = 0.1
) -> Tensor:
    """-log sigmoid(beta log r_w - beta log r_l), (B,), r = p/p_ref clipped to [1 - clip, 1 + clip].

    Step-aware preference optimisation (SPO, Liang et al. 2024, arXiv:2406.04314): an answer is one
    step of the sampler, p(x_t-1 | x_t), and the pair are two draws from the same x_t, the best and
    the worst by a preference model that judges noisy samples. A ratio that has gone past the clip
    learns no more.
    """
    low, high = math.log1p(-clip), math.log1p(clip)
    better, worse = (each.delta().clamp(low, high) for each in (chosen, rejected))
    return -functional.logsigmoid(beta * (better - worse))
