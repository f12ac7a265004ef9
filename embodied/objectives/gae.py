"""Generalised advantage estimation (Schulman et al. 2015, arXiv:1506.02438)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def generalised_advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    discount: Tensor,
    continues: Tensor,
    *,
    decay: float = 0.95,
) -> Tensor:
    """A_b = delta_b + discount_b decay A_b+1 while the next row continues this one (Eq. 16), with
    delta_b = r_b + discount_b V(s'_b) - V(s_b).

    An episode that was cut off by a time limit, or a segment's end, bootstraps from V(s') there and
    takes no advantage from the row that happens to come next.

    Args:
        reward, value, next_value: (B, K), of each of K objectives; rows of segments end to end.
        discount: (B,) what V(s') counts, 0 where the step terminated the episode.
        continues: (B,) bool, whether row b + 1 is the step after row b.
        decay: lambda, in [0, 1].
    """
    if bool(continues[-1]):
        raise ValueError("continues must end with False: no row comes after the last")
    delta = reward + discount[:, None] * next_value - value
    factor = discount * decay * continues
    return _scan(delta.cpu(), factor.cpu()).to(delta.device)


def _scan(terms: Tensor, factor: Tensor) -> Tensor:
    """y_b = terms_b + factor_b y_b+1, backwards; on a CPU, one row after another."""
    rows, keep = terms.numpy(), factor.tolist()
    found = np.empty_like(rows)
    carried = np.zeros_like(rows[0])
    for b in reversed(range(len(rows))):
        carried = found[b] = rows[b] + keep[b] * carried
    return torch.from_numpy(found)


def running_returns(reward: Tensor, discount: float, continues: Tensor) -> Tensor:
    """R_b = r_b + discount R_b-1 since each segment began, (B, K); their deviation is what rewards
    are divided by, as in the published code of PPO (where sums go on from segment to segment)."""
    before = torch.zeros(len(reward), device=reward.device)
    before[1:] = discount * continues[:-1]
    return _scan(reward.cpu().flip(0), before.cpu().flip(0)).flip(0).to(reward.device)
