"""BESO's decoder to the letter: one causal sequence of noise level, goals, states and actions.

Reuss et al. 2023, "Goal-Conditioned Imitation Learning using Score-based Diffusion Policies",
arXiv:2304.02532, Sec. IV and App. B. The rest of it is `EDMHead`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from embodied.heads.edm import EDMHead
from embodied.networks.transformer import Transformer


class InterleavedTransformer(nn.Module):
    """[sigma, g_1 .. g_G, o_1, a_1 .. o_T, a_T], of which each sees itself and what is before it.

    o_t and a_t share a learned position, and the noise level has none. What comes out is read at
    the actions. Unlike an `ActionTransformer` it encodes the context anew for each noise level,
    because that comes first.

    Args:
        num_tokens: G + T, of the context.
        pred_horizon: T.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        pred_horizon: int,
        num_tokens: int,
        dim: int,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_goals = num_tokens - pred_horizon
        if self.num_goals < 0:
            raise ValueError(
                f"the context must hold a state for each of the {pred_horizon} actions, got "
                f"{num_tokens} tokens; BESO's head is for policy=beso"
            )
        self.embed = nn.Linear(action_dim, dim)
        self.position = nn.Parameter(torch.zeros(num_tokens, dim))
        self.transformer = Transformer(
            dim,
            num_layers=num_layers,
            num_heads=num_heads,
            dropout=dropout,
            attention_dropout=attention_dropout,
        )
        self.out = nn.Linear(dim, action_dim)
        self.apply(_draw)

    def remember(self, context: Tensor) -> list[Tensor]:
        """The context (B, G + T, D) with its positions."""
        return [context + self.position]

    def forward(self, memories: Sequence[Tensor], x: Tensor, level: Tensor) -> Tensor:
        """Noisy actions x (B, T, A) at a level (B, D) -> (B, T, A)."""
        (context,) = memories
        goals, states = context[:, : self.num_goals], context[:, self.num_goals :]
        actions = self.embed(x) + self.position[self.num_goals :]
        steps = rearrange([states, actions], "two b t d -> b (t two) d")
        tokens = torch.cat([level[:, None], goals, steps], dim=1)
        found = self.transformer(tokens, causal=True)[:, 1 + self.num_goals :]
        out: Tensor = self.out(found[:, 1::2])
        return out


class BESOHead(EDMHead):
    """`EDMHead` over a window whose T actions belong to the context's last T tokens.

    Args:
        trunk: num_layers, num_heads, dropout and attention_dropout of the transformer.
    """

    def make_trunk(self, *, num_tokens: int, **sizes: Any) -> nn.Module:
        return InterleavedTransformer(num_tokens=num_tokens, **sizes)


def _draw(module: nn.Module) -> None:
    """minGPT's weights, N(0, 0.02)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
