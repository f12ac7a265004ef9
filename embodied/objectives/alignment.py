"""Aligning two ways of asking: points of the task space that mean the same should lie together."""

from __future__ import annotations

import torch
from torch import Tensor


def multi_positive_info_nce(similarity: Tensor, same: Tensor, valid: Tensor) -> Tensor:
    """Symmetric InfoNCE whose positives are all pairs that mean the same, a scalar.

    Each row i asks for -log of the share of its positives in all: logsumexp_j S_ij -
    logsumexp_{j: same} S_ij; and so does each column (GRIF, Myers et al. 2023, arXiv:2307.00117,
    Eq. 1, with the positives of its published code). 0 where no row is valid.

    Args:
        similarity: (B, B) cosines over the temperature, one modality along the rows, another
            along the columns.
        same: (B, B) bool, which pairs mean the same, True on the diagonal.
        valid: (B,) bool, rows that have both modalities; the others take no part.
    """
    pairs = valid[:, None] & valid[None, :]
    floor = torch.finfo(similarity.dtype).min
    everything = similarity.masked_fill(~pairs, floor)
    positives = similarity.masked_fill(~(pairs & same), floor)
    loss = sum(everything.logsumexp(i) - positives.logsumexp(i) for i in (0, 1))
    assert isinstance(loss, Tensor)
    return (loss * valid).sum() / (2 * valid.sum().clamp(min=1))


def hits(similarity: Tensor, correct: Tensor, k: int) -> Tensor:
    """(Q,) bool, whether one of the `k` candidates most similar to a query is correct.

    Args:
        similarity: (Q, C) of each query with each candidate.
        correct: (Q, C) bool.
        k: in [1, C].
    """
    if not 1 <= k <= similarity.shape[1]:
        raise ValueError(f"k must lie in [1, {similarity.shape[1]}] (candidates), got {k}")
    best = similarity.topk(k, dim=1).indices
    return correct.gather(1, best).any(1)
