"""Normalisers whose statistics are buffers: they travel in the policy's state dict.

They start unfitted. Using an unfitted one is an error, and so is loading a checkpoint that lacks
the statistics (strict loading); nothing here ever returns its input unchanged by default.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_MIN_STD = 1e-4
"""Dimensions that vary less than this (environment units) count as constant."""


class Statistics(nn.Module):
    """Buffers that are NaN until fitted or loaded."""

    def __init__(self, *names: str, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.names = names
        self.fitted = False
        for name in names:
            self.register_buffer(name, torch.full((dim,), torch.nan))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._check_finite()

    def _check_finite(self) -> None:
        # Runs when statistics change, never per step: it would make the GPU wait.
        self.fitted = all(bool(torch.isfinite(getattr(self, name)).all()) for name in self.names)

    def _set(self, **values: Tensor) -> None:
        for name, value in values.items():
            if value.shape != (self.dim,):
                raise ValueError(
                    f"statistic {name!r} must have shape ({self.dim},), got {tuple(value.shape)}"
                )
            getattr(self, name).copy_(value)
        self._check_finite()
        if not self.fitted:
            raise ValueError(f"statistics {sorted(values)} hold non-finite values; check the data")

    def _require(self, x: Tensor) -> None:
        if not self.fitted:
            raise RuntimeError(
                f"{type(self).__name__} has no statistics ({', '.join(self.names)}): call "
                "policy.fit_normalizers(...) on the training data, or load a checkpoint with them"
            )
        if x.shape[-1] != self.dim:
            raise ValueError(
                f"{type(self).__name__} expects a last dimension of {self.dim}, "
                f"got shape {tuple(x.shape)}"
            )


class ZScore(Statistics):
    """(x - mean) / std; constant dimensions map to 0 at their mean and are not scaled up."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__("mean", "std", dim=dim)

    def fit(self, x: Tensor) -> None:
        """Takes the statistics of x, shape (N, dim)."""
        x = x.double()
        std, mean = torch.std_mean(x, dim=0, correction=0)
        self._set(
            mean=mean.float(), std=torch.where(std < _MIN_STD, torch.ones_like(std), std).float()
        )

    def take(self, mean: Tensor, std: Tensor) -> None:
        """Takes statistics (dim,) that were found elsewhere."""
        self._set(mean=mean.float(), std=torch.where(std < _MIN_STD, 1.0, std).float())

    def change_nothing(self) -> None:
        """Takes mean 0 and standard deviation 1, by choice and not by default."""
        self._set(mean=torch.zeros_like(self.mean), std=torch.ones_like(self.std))

    def forward(self, x: Tensor) -> Tensor:
        self._require(x)
        return (x - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        self._require(x)
        return x * self.std + self.mean


class MinMax(Statistics):
    """Maps [low, high] to [-1, 1]; constant dimensions map to 0."""

    low: Tensor
    high: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__("low", "high", dim=dim)

    def fit(self, x: Tensor) -> None:
        """Takes the range of x, shape (N, dim)."""
        self._set(low=x.amin(0).float(), high=x.amax(0).float())

    @property
    def _half_range(self) -> Tensor:
        half = (self.high - self.low) / 2
        return torch.where(half < _MIN_STD, torch.ones_like(half), half)

    def forward(self, x: Tensor) -> Tensor:
        self._require(x)
        return (x - (self.low + self.high) / 2) / self._half_range

    def inverse(self, x: Tensor) -> Tensor:
        self._require(x)
        return x * self._half_range + (self.low + self.high) / 2
