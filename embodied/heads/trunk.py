"""The transformer that most heads share: tokens for the steps of a chunk, after the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from einops import rearrange
from torch import Tensor, nn

from embodied.networks.transformer import Memory, Transformer


class TrunkOptions(TypedDict, total=False):
    """What a head lets its `ActionTransformer` be configured with."""

    num_layers: int
    num_heads: int
    dropout: float
    patch: int


class ActionTransformer(nn.Module):
    """H steps of numbers out of the context, and of H steps of actions where there are some.

    The tokens see each other and the whole context, which does not see them and so is encoded once
    (`remember`), however often a sampler asks.

    Args:
        in_dim: numbers of each step that come in, such as a noisy action's; 0 for none.
        out_dim: numbers of each step that go out.
        dim: width of the context and of the tokens.
        patch: successive steps in one token; more is faster, and enough for short chunks.
        num_layers, num_heads, dropout: of the transformer.
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
    ) -> None:
        super().__init__()
        if pred_horizon % patch:
            raise ValueError(
                f"pred_horizon must be a multiple of patch, got {pred_horizon} and {patch}"
            )
        self.patch = patch
        self.embed = nn.Linear(patch * in_dim, dim) if in_dim else None
        self.position = nn.Parameter(0.02 * torch.randn(pred_horizon // patch, dim))
        self.transformer = Transformer(
            dim, num_layers=num_layers, num_heads=num_heads, dropout=dropout
        )
        self.out = nn.Linear(dim, patch * out_dim)

    def remember(self, context: Tensor) -> list[Memory]:
        """What each layer keeps of a context (B, L, D)."""
        return self.transformer.remember(context)

    def forward(
        self, memories: Sequence[Memory], x: Tensor | None = None, level: Tensor | None = None
    ) -> Tensor:
        """After a context with these memories, (B, H, out_dim).

        Args:
            x: (B, H, in_dim), where `in_dim` is not 0.
            level: (B, dim), added to all tokens, such as what tells a noise level; or
                (B, H, dim), of each step, of which a token is told the mean.
        """
        tokens = self.position.expand(len(memories[0][0]), -1, -1)
        if self.embed is not None:
            assert x is not None
            tokens = tokens + self.embed(rearrange(x, "b (l p) a -> b l (p a)", p=self.patch))
        if level is not None and level.ndim == 3:
            tokens = tokens + rearrange(level, "b (l p) d -> b l p d", p=self.patch).mean(2)
        elif level is not None:
            tokens = tokens + level[:, None]
        out: Tensor = self.out(self.transformer(tokens, memories))
        return rearrange(out, "b l (p a) -> b (l p) a", p=self.patch)
