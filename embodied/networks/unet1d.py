"""A U-Net along the steps of an action chunk, as in Diffusion Policy.

Chi et al. 2023, "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion",
arXiv:2303.04137, Section III-A: temporal convolutions, each told of the context and of the
diffusion step by FiLM (Perez et al. 2018, arXiv:1709.07871). Departures: the context is not one
vector but tokens, which a small transformer pools; FiLM scales by 1 + s, so that it starts near
leaving features as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from embodied.networks.transformer import Transformer


class ConvBlock(nn.Sequential):
    """Convolution, group normalisation, Mish; (B, C, H) -> (B, out_dim, H)."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int, num_groups: int) -> None:
        super().__init__(
            nn.Conv1d(in_dim, out_dim, kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(num_groups, out_dim),
            nn.Mish(),
        )


class FiLMBlock(nn.Module):
    """Two convolutions with a scale and a shift of each channel between, added to the input."""

    def __init__(
        self, in_dim: int, out_dim: int, condition_dim: int, kernel_size: int, num_groups: int
    ) -> None:
        super().__init__()
        self.first = ConvBlock(in_dim, out_dim, kernel_size, num_groups)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition_dim, 2 * out_dim))
        self.second = ConvBlock(out_dim, out_dim, kernel_size, num_groups)
        self.skip = nn.Conv1d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, in_dim, H) and condition (B, condition_dim) -> (B, out_dim, H)."""
        scale, shift = self.film(condition)[..., None].chunk(2, dim=1)
        out: Tensor = self.second((1 + scale) * self.first(x) + shift) + self.skip(x)
        return out


class UNet1d(nn.Module):
    """Stands where an `ActionTransformer` may: H steps of numbers out of a context and H others.

    A chunk is padded with its last step to a length that can be halved as often as needed, and
    cropped again, so that any horizon will do.

    Args:
        in_dim, out_dim: numbers of each step that come in and go out.
        dim: width of the context and, times `widths`, of the convolutions.
        num_layers, num_heads, dropout: of the transformer that pools the context.
        patch: successive steps in one position of the convolutions.
        widths: of each resolution, in multiples of `dim`; the length halves from one to the next.
        kernel_size: odd.
        num_groups: of the group normalisation.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        pred_horizon: int,
        dim: int,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
        patch: int = 1,
        widths: Sequence[int] = (1, 2, 4),
        kernel_size: int = 5,
        num_groups: int = 8,
    ) -> None:
        super().__init__()
        if pred_horizon % patch:
            raise ValueError(
                f"pred_horizon must be a multiple of patch, got {pred_horizon} and {patch}"
            )
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.patch = patch
        self.multiple = 2 ** (len(widths) - 1)
        self.pooled = nn.Parameter(0.02 * torch.randn(1, dim))
        self.transformer = Transformer(
            dim, num_layers=num_layers, num_heads=num_heads, dropout=dropout
        )

        def block(before: int, after: int) -> FiLMBlock:
            return FiLMBlock(before, after, 2 * dim, kernel_size, num_groups)

        sizes = [width * dim for width in widths]
        befores = [patch * in_dim, *sizes[:-1]]
        self.down = nn.ModuleList(
            nn.ModuleList([block(before, size), block(size, size)])
            for before, size in zip(befores, sizes, strict=True)
        )
        self.downsample = nn.ModuleList(
            nn.Conv1d(size, size, 3, stride=2, padding=1) for size in sizes[:-1]
        )
        self.middle = nn.ModuleList(block(sizes[-1], sizes[-1]) for _ in range(2))
        self.upsample = nn.ModuleList(
            nn.ConvTranspose1d(size, size, 4, stride=2, padding=1) for size in sizes[:0:-1]
        )
        self.up = nn.ModuleList(
            nn.ModuleList([block(below + size, size), block(size, size)])
            for below, size in zip(sizes[:0:-1], sizes[-2::-1], strict=True)
        )
        self.out = nn.Sequential(
            ConvBlock(sizes[0], sizes[0], kernel_size, num_groups),
            nn.Conv1d(sizes[0], patch * out_dim, 1),
        )

    def remember(self, context: Tensor) -> Tensor:
        """Pools a context (B, L, D) to one vector, (B, D)."""
        tokens = torch.cat([self.pooled.expand(len(context), 1, -1), context], dim=1)
        out: Tensor = self.transformer(tokens)
        return out[:, 0]

    def forward(self, memory: Tensor, x: Tensor, level: Tensor) -> Tensor:
        """(B, H, out_dim).

        Args:
            memory: (B, D), the pooled context.
            x: (B, H, in_dim).
            level: (B, dim), what tells a noise level.
        """
        condition = torch.cat([memory, level], dim=-1)
        h = rearrange(x, "b (l p) a -> b (p a) l", p=self.patch)
        length = h.shape[-1]
        h = torch.cat([h, h[..., -1:].expand(-1, -1, -length % self.multiple)], dim=-1)
        h = self._convolve(h, condition)[..., :length]
        return rearrange(h, "b (p a) l -> b (l p) a", p=self.patch)

    def _convolve(self, h: Tensor, condition: Tensor) -> Tensor:
        """(B, C, L) -> (B, C', L), L a multiple of `self.multiple`."""
        kept = []
        for i, blocks in enumerate(self.down):
            if i:
                kept.append(h)
                h = self.downsample[i - 1](h)
            h = _chain(blocks, h, condition)
        h = _chain(self.middle, h, condition)
        for upsample, blocks in zip(self.upsample, self.up, strict=True):
            h = torch.cat([upsample(h), kept.pop()], dim=1)
            h = _chain(blocks, h, condition)
        out: Tensor = self.out(h)
        return out


def _chain(blocks: nn.Module, h: Tensor, condition: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        h = block(h, condition)
    return h
