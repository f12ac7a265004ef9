"""Convolutional networks for camera images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

_GROUP = 8  # channels that are normalised together


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016, arXiv:1512.03385, Fig. 2)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(in_channels, channels, stride),
            nn.ReLU(),
            _conv(channels, channels),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == channels
            else nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network normalised by groups, so that no row sees the batch (Wu & He 2018).

    Args:
        channels: width of the stem and of each stage; each halves the sides.
    """

    def __init__(self, channels: Sequence[int], in_channels: int = 3) -> None:
        super().__init__()
        wrong = [width for width in channels if width % _GROUP or width < 1]
        if wrong or not channels:
            raise ValueError(f"channels must be multiples of {_GROUP}, got {list(channels)}")
        stem, *stages = channels
        blocks = [
            ResidualBlock(before, width, stride=2)
            for before, width in zip(channels, stages, strict=False)
        ]
        self.layers = nn.Sequential(_conv(in_channels, stem, 2, size=5), nn.ReLU(), *blocks)
        self.channels = channels[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) in [-1, 1] to (B, C, h', w')."""
        features: Tensor = self.layers(x.contiguous(memory_format=torch.channels_last))
        return features


class SpatialSoftmax(nn.Module):
    """Where each channel is active: its expected position (Levine et al. 2016, arXiv:1504.00702,
    Sec. 5.1). (B, C, h, w) to (B, 2 C): all x, then all y, in [-1, 1]."""

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[-2:]
        attention = rearrange(features, "b c h w -> b c (h w)").softmax(-1)
        attention = rearrange(attention, "b c (h w) -> b c h w", h=height)
        x = torch.linspace(-1, 1, width, device=features.device)
        y = torch.linspace(-1, 1, height, device=features.device)
        return torch.cat([attention.sum(2) @ x, attention.sum(3) @ y], dim=-1)


def shift(images: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Each row's images moved by whole pixels; the edge's pixels fill what comes into view.

    Args:
        images: (B, ..., h, w).
        right, down: (B,) integers.
    """
    height, width = images.shape[-2:]
    device = images.device
    rows = (torch.arange(height, device=device) - down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width, device=device) - right[:, None]).clamp(0, width - 1)
    flat = images.flatten(1, -3)  # (B, channels, h, w)
    batch = torch.arange(len(images), device=device)[:, None, None]
    moved = flat[batch, :, rows[:, :, None], columns[:, None, :]]  # (B, h, w, channels)
    return rearrange(moved, "b h w c -> b c h w").reshape(images.shape)


def _conv(in_channels: int, channels: int, stride: int = 1, size: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, size, stride, size // 2, bias=False),
        nn.GroupNorm(channels // _GROUP, channels),
    )
