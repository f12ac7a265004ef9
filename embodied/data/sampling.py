"""Which episodes and frames of mixed data sets are drawn.

E episodes with `lengths`, in `source` (E,) the number of the data set that each is of, of
`num_sources`.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = (5**0.5 - 1) / 2


def by_weight(
    weights: Tensor, source: Tensor, num_sources: int, size: int, generator: torch.Generator
) -> Tensor:
    """(size,) episodes, each as often as its weight (E,) among the others.

    Any run of n rows holds each data set in its share to within about one row.
    """
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    place = torch.rand(size, generator=generator, dtype=torch.float64)
    shares = torch.zeros(num_sources, dtype=torch.float64)
    ends = shares.index_add(0, source, weights).cumsum(0)
    # The golden ratio's multiples fill the circle more evenly than any others.
    turn = ((start + _GOLDEN * torch.arange(size)) % 1) * ends[-1]
    chosen = torch.searchsorted(ends, turn, right=True).clamp(max=len(ends) - 1)
    low = torch.cat([ends.new_zeros(1), ends])[chosen]
    aim = low + place * (ends[chosen] - low)
    episode = torch.searchsorted(weights.cumsum(0), aim, right=True)
    return episode.clamp(max=len(weights) - 1)


def any_frame(
    lengths: Tensor, source: Tensor, num_sources: int, among: Tensor, place: Tensor
) -> tuple[Tensor, Tensor]:
    """Of each of the data sets `among` (B,) a frame, all equally likely: its episode, and its step
    in that episode.

    Args:
        place: (B,) in [0, 1).
    """
    ends = lengths.cumsum(0)
    counts = torch.zeros(num_sources, dtype=torch.int64).index_add(0, source, lengths)
    rank = (counts.cumsum(0) - counts)[among] + (place * counts[among]).long()
    episode = torch.searchsorted(ends, rank, right=True)
    return episode, rank - (ends - lengths)[episode]


def keep_shares(weights: Tensor, source: Tensor, num_sources: int, chosen: Tensor) -> Tensor:
    """The weights of the chosen episodes, scaled so that each data set keeps its share."""
    zeros = torch.zeros(num_sources, dtype=torch.float64)
    before = zeros.index_add(0, source, weights)
    after = zeros.index_add(0, source[chosen], weights[chosen])
    return weights[chosen] * (before / after)[source[chosen]]
