"""A pre-norm transformer over short token sequences, after a prefix that is encoded once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

_SHORT = 32**2
"""Up to this many pairs of a query and a key written-out attention is at least as fast as fused
kernels."""

_SHORT_ON_CPU = 128**2
"""The same in bfloat16 on CPUs, where the fused kernel's gradient takes four to seven times as long
(64 rows, 4 heads of 32, 32 to 100 tokens)."""


Memory = tuple[Tensor, Tensor]
"""Keys and values of tokens that later ones may attend to, each (B, heads, L, dim / heads)."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, seen: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention of queries (B, heads, L, d) to keys and values (B, heads, M, d),
    in the way that is fastest at their sizes.

    Args:
        seen: (L, M) bool, which keys each query sees; None: all.
        dropout: of the weights.
    """
    short = _SHORT_ON_CPU if q.dtype == torch.bfloat16 and not q.is_cuda else _SHORT
    if q.shape[2] * k.shape[2] > short:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return F.dropout(torch.softmax(scores, dim=-1), dropout) @ v


class Attention(nn.Module):
    """Multi-head attention of x to itself and to `memory`.

    Attributes:
        dropout: of the weights with which it looks, in training.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} and {num_heads}")
        self.num_heads, self.dropout = num_heads, 0.0
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (B, L, D), each (B, heads, L, D / heads)."""
        q, k, v = rearrange(self.qkv(x), "b l (n h d) -> n b h l d", n=3, h=self.num_heads)
        return q, k, v

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
        """Queries may be the last of the keys; if `causal`, each sees the keys up to its own."""
        seen = None
        if causal:
            whole = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
            seen = whole.tril(k.shape[2] - q.shape[2])
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, seen=seen, dropout=dropout)
        out: Tensor = self.out(rearrange(y, "b h l d -> b l (h d)"))
        return out


class Block(nn.Module):
    """Attention and a 4x GELU MLP, each after LayerNorm and added to its input."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: Memory | None = None,
        *,
        output: bool = True,
        causal: bool = False,
    ) -> tuple[Tensor, Memory]:
        """x (B, L, D), which also sees `memory` -> (the same shape, x's own memory).

        Without `output` x is returned as it came, where only its memory is wanted.
        """
        q, k, v = self.attention.heads(self.attention_norm(x))
        own = k, v
        if not output:
            return x, own
        if memory is not None:
            k, v = torch.cat([memory[0], k], dim=2), torch.cat([memory[1], v], dim=2)
        x = x + self.dropout(self.attention(q, k, v, causal=causal))
        return x + self.dropout(self.mlp(self.mlp_norm(x))), own


class Transformer(nn.Module):
    """A prefix, encoded once, and tokens that see it and each other; both carry their positions.

    The prefix does not see the tokens, so that what is asked of them again and again, such as to
    denoise an action, does not encode it again.

    Weights start as torch's layers draw them. With N(0, 0.02) (minGPT, as in BESO,
    arXiv:2304.02532) a narrow trunk hardly moves at first: words were not bound to objects for a
    thousand steps.
    """

    def __init__(
        self, dim: int, *, num_layers: int = 4, num_heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def remember(self, prefix: Tensor) -> list[Memory]:
        """What each block keeps of a prefix (B, L, D)."""
        memories = []
        for block in self.blocks:
            prefix, memory = block(prefix, output=block is not self.blocks[-1])
            memories.append(memory)
        return memories

    def forward(
        self, x: Tensor, memories: Sequence[Memory] | None = None, *, causal: bool = False
    ) -> Tensor:
        """(B, L, dim), after a prefix with these memories -> (B, L, dim).

        If `causal`, a token sees the prefix and the tokens up to itself.
        """
        for i, block in enumerate(self.blocks):
            x, _ = block(x, None if memories is None else memories[i], causal=causal)
        out: Tensor = self.norm(x)
        return out

    def extend(self, x: Tensor, memories: Sequence[Memory]) -> tuple[Tensor, list[Memory]]:
        """One more token (B, 1, dim) after these memories -> what `forward` would give for it with
        `causal`, and the memories with its own at their end."""
        longer = []
        for block, memory in zip(self.blocks, memories, strict=True):
            x, own = block(x, memory)
            longer.append((torch.cat([memory[0], own[0]], 2), torch.cat([memory[1], own[1]], 2)))
        return self.norm(x), longer
