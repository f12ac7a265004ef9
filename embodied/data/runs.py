"""Numbers stored so that every window is one piece of memory, and no window crosses an episode."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embodied.data.pieces import Column, take


@dataclass(frozen=True)
class Spans:
    """Where E episodes lie among frames: (E,) starts and lengths."""

    starts: Tensor
    lengths: Tensor

    def lay_out(self, column: Column, *, before: int = 0, after: int = 0) -> Tensor:
        """Windows of W = 1 + before + after rows, as rows that overlap in memory.

        Each episode's first row is repeated `before` times ahead of it, or its last one `after`
        times behind it. The window of frame i of episode e (both from 0, i among all frames) is
        row i + e (W - 1), with W times the column's numbers.
        """
        extra = before + after
        sizes = self.lengths + extra
        begin = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        place = torch.arange(int(sizes.sum())) - begin - before
        longest = (self.lengths - 1).repeat_interleave(sizes)
        place = torch.minimum(place.clamp(min=0), longest)
        frames = self.starts.repeat_interleave(sizes) + place
        rows = take(column, frames.to(column.device))
        width = rows.shape[1]
        return rows.as_strided((len(rows) - extra, (1 + extra) * width), (width, 1))
