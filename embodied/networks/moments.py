"""Means and variances of numbers that come in batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningMoments(nn.Module):
    """Mean and standard deviation (dim,) of all rows so far, as buffers, which checkpoints hold.

    Batches are joined by the parallel formula (Chan et al. 1979), in double precision.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(dim, dtype=torch.float64))

    def add(self, x: Tensor) -> None:
        """Takes in rows (n, dim)."""
        x = x.detach().double()
        mean, count = x.mean(0), self.count + len(x)
        gap = mean - self.mean
        self.squares += (x - mean).square().sum(0) + gap.square() * self.count * len(x) / count
        self.mean += gap * len(x) / count
        self.count.copy_(count)

    @property
    def std(self) -> Tensor:
        """Biased; 1 before the first row."""
        if not self.count:
            return torch.ones_like(self.mean)
        return (self.squares / self.count).sqrt()
