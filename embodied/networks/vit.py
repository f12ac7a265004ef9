"""A small vision transformer, trained from scratch."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from embodied.networks.transformer import Block
from embodied.networks.vision import Backbone, FiLM, resize


class ViT(Backbone):
    """Patches as tokens that attend to each other (Dosovitskiy et al. 2020, arXiv:2010.11929).

    There is no class token: where something is seen is what a policy asks for, so that the patches
    themselves are the features. Weights of further channels and of FiLM, which modulates each
    block, begin at zero, as those of `ResNet` do.

    Args:
        image_size: pixels, that both sides are resized to.
        patch: pixels, sides of a patch; must divide `image_size`.
        channels: width of the tokens; `num_heads` must divide it.
        extra_channels: of what enters beside the image; 0 for nothing.
        film_dim: width of what modulates the blocks; 0 for nothing.
    """

    def __init__(
        self,
        *,
        image_size: int = 64,
        patch: int = 8,
        channels: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        extra_channels: int = 0,
        film_dim: int = 0,
    ) -> None:
        super().__init__()
        if patch < 1 or image_size < patch or image_size % patch:
            raise ValueError(
                f"image_size must be a multiple of patch, got {image_size} and {patch}"
            )
        if num_layers < 1:
            raise ValueError(f"num_layers must be 1 or more, got {num_layers}")
        self.channels, self.patch, self.grid = channels, patch, image_size // patch
        self.patches = nn.Conv2d(3, channels, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(self.grid**2, channels))
        self.blocks = nn.ModuleList(Block(channels, num_heads, 0.0) for _ in range(num_layers))
        self.norm = nn.LayerNorm(channels)
        self.extra: nn.Parameter | None = None
        if extra_channels:
            self.extra = nn.Parameter(torch.zeros(channels, extra_channels, patch, patch))
        self.films = nn.ModuleList(FiLM(film_dim, channels) for _ in self.blocks if film_dim)

    def forward(
        self, x: Tensor, extra: Tensor | None = None, words: Tensor | None = None
    ) -> Tensor:
        size = (self.grid * self.patch, self.grid * self.patch)
        features: Tensor = self.patches(resize(x, size))
        if self.extra is not None:
            beside = x.new_zeros(len(x), self.extra.shape[1], *size)
            beside = beside if extra is None else resize(extra, size)
            features = features + nn.functional.conv2d(beside, self.extra, stride=self.patch)
        tokens = self._tokens(features) + self.position
        for i, block in enumerate(self.blocks):
            tokens, _ = block(tokens)
            if self.films:
                tokens = self._tokens(self.films[i](self._map(tokens), words))
        return self._map(self.norm(tokens))

    def _tokens(self, features: Tensor) -> Tensor:
        return rearrange(features, "b c h w -> b (h w) c")

    def _map(self, tokens: Tensor) -> Tensor:
        return rearrange(tokens, "b (h w) c -> b c h w", h=self.grid)
