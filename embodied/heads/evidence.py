"""From the errors of a denoiser to a lower bound on the log-likelihood.

Kingma et al. 2021, "Variational Diffusion Models", arXiv:2107.00630, Section 4. An action is seen
as z = alpha a + sigma n, and its log signal-to-noise ratio is l = ln(alpha^2 / sigma^2). Then
-log p(a) is at most

    KL(q(z_noisy | a) || prior) + E[-log p(a | z_clean)] + 1/2 integral ||n - n_hat||^2 dl

between the noisiest and the cleanest level (Eqs. 11 and 17). All is summed over an action's numbers
and returned per step, (B, H).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def prior_gap(action: Tensor, *, alpha: float, sigma: float, prior_std: float = 1.0) -> Tensor:
    """KL(N(alpha a, sigma^2) || N(0, prior_std^2)), what sampling from pure noise costs, (B, H)."""
    ratio = (sigma / prior_std) ** 2
    gap = (alpha * action / prior_std).square() + ratio - 1 - math.log(ratio)
    return 0.5 * gap.sum(-1)


def decoder_cost(action: Tensor, log_snr: float) -> Tensor:
    """E[-log N(a; z / alpha, exp(-l))], what the cleanest level leaves open, (B, H)."""
    each = 0.5 * (math.log(2 * math.pi) - log_snr + 1)
    return torch.full_like(action[..., 0], each * action.shape[-1])
