"""From the errors of a denoiser to the log-ratio that preference losses need."""

from __future__ import annotations

from torch import Tensor


def error_log_ratio(
    errors: Tensor,
    reference: Tensor,
    *,
    weight: float | Tensor = 0.5,
    mask: Tensor | None = None,
) -> Tensor:
    """-weight (error - reference's error), summed over the steps, in place of log p / p_ref, (B,).

    Both errors must be of the same levels and noise, in a pair of actions those of the other one
    too: then what the draws have in common cancels. With the weight 1/2 and beta as in DPO this is
    Diffusion-DPO's log-ratio (Wallace et al. 2023, arXiv:2311.12908, Eq. 14).

    Args:
        errors, reference: (B, H), such as `ErrorHead.errors`, which are means over the A numbers of
            an action: multiply the weight by A for their sum.
        weight: a number, or one for each row, (B, 1).
        mask: (B, H) bool, the steps that count; None is all.
    """
    difference = weight * (errors - reference)
    if mask is not None:
        difference = difference * mask
    return -difference.sum(-1)
