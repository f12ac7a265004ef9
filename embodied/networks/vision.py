"""Convolutional networks for camera images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

_GROUP = 8  # channels that are normalised together
_STEM = 5  # pixels, sides of the first layer's filters


class Backbone(nn.Module, ABC):
    """What images go through first. Rows must not see each other, and only `Noise` is random.

    Attributes:
        channels: C, of the features.
    """

    channels: int

    @abstractmethod
    def forward(
        self, x: Tensor, extra: Tensor | None = None, words: Tensor | None = None
    ) -> Tensor:
        """Images to features (B, C, h', w').

        Args:
            x: (B, 3, h, w) in [-1, 1].
            extra: (B, extra_channels, h, w) with zeros for nothing; None is all zeros.
            words: (B, film_dim); needed where the backbone has a `film_dim`.
        """


MakeBackbone = Callable[..., Backbone]
"""Called with (extra_channels=, film_dim=), both 0 for nothing."""


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


class ResNet(Backbone):
    """A residual network normalised by groups, so that no row sees the batch (Wu & He 2018).

    Further channels, such as a sketch or a goal image, may enter beside the image in the first
    layer (early fusion), and words may modulate each stage (FiLM). Weights of both begin at zero,
    so that a network begins as the one without them (RT-Trajectory, Gu et al. 2024,
    arXiv:2311.01977, Sec. 3.3), and take nothing from the stream of random numbers.

    Args:
        channels: width of the stem and of each stage; each halves the sides.
        extra_channels: of what enters beside the image; 0 for nothing.
        film_dim: width of what modulates the stages; 0 for nothing.
    """

    def __init__(
        self,
        channels: Sequence[int],
        in_channels: int = 3,
        *,
        extra_channels: int = 0,
        film_dim: int = 0,
    ) -> None:
        super().__init__()
        wrong = [width for width in channels if width % _GROUP or width < 1]
        if wrong or not channels:
            raise ValueError(f"channels must be multiples of {_GROUP}, got {list(channels)}")
        stem, *stages = channels
        blocks = [
            ResidualBlock(before, width, stride=2)
            for before, width in zip(channels, stages, strict=False)
        ]
        self.layers = nn.Sequential(_conv(in_channels, stem, 2, size=_STEM), nn.ReLU(), *blocks)
        self.channels = channels[-1]
        self.extra: nn.Parameter | None = None
        if extra_channels:
            self.extra = nn.Parameter(torch.zeros(stem, extra_channels, _STEM, _STEM))
        self.films = nn.ModuleList(FiLM(film_dim, width) for width in stages if film_dim)

    def forward(
        self, x: Tensor, extra: Tensor | None = None, words: Tensor | None = None
    ) -> Tensor:
        """Images to features (B, C, h', w').

        Args:
            x: (B, in_channels, h, w) in [-1, 1].
            extra: (B, extra_channels, h, w) with zeros for nothing; None is all zeros.
            words: (B, film_dim); needed where the network has a `film_dim`.
        """
        stem, activation, *blocks = self.layers
        convolution, norm = stem.children()
        features: Tensor = convolution(_channels_last(x))
        if self.extra is not None:
            # A sum of two convolutions is one over all channels; apart, they round as one alone.
            beside = x.new_zeros(len(x), self.extra.shape[1], *x.shape[2:])
            beside = _channels_last(beside if extra is None else extra)
            features = features + nn.functional.conv2d(
                beside, self.extra, stride=2, padding=_STEM // 2
            )
        features = activation(norm(features))
        for i, block in enumerate(blocks):
            features = block(features)
            if self.films:
                features = self.films[i](features, words)
        return features


class FiLM(nn.Module):
    """Scales and shifts each channel by what the words say (Perez et al. 2018, arXiv:1709.07871,
    Eq. 2): (1 + scale) x + shift, both linear in the words and zero at first."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2 * channels, dim))
        self.bias = nn.Parameter(torch.zeros(2 * channels))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """(B, channels, h, w), modulated by (B, dim)."""
        scale, shift = nn.functional.linear(words, self.weight, self.bias).chunk(2, dim=1)
        return (1 + scale[..., None, None]) * x + shift[..., None, None]


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


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) as (B, C, *size), without aliasing; as they are where they have that size."""
    images = images.contiguous()  # the order in memory decides how sums are rounded
    if tuple(images.shape[-2:]) == size:
        return images
    return nn.functional.interpolate(images, size, mode="bilinear", antialias=True)


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


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _conv(in_channels: int, channels: int, stride: int = 1, size: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, size, stride, size // 2, bias=False),
        nn.GroupNorm(channels // _GROUP, channels),
    )
