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
from embodied.heads.trunk import ActionTransformer
from embodied.networks.transformer import Attention, Memory


class InterleavedTransformer(ActionTransformer):
    """[sigma, g_1 .. g_G, o_1, a_1 .. o_T, a_T], of which each sees itself and what is before it.

    o_t and a_t share a learned position, and the noise level has none. What goes out is read at the
    actions. Other than its base, it encodes the context anew for each noise level, which is first.

    Args:
        num_tokens: G + T, of the context.
        pred_horizon: T.
        dropout: of the attention's weights, not of what is added to the tokens.
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
        patch: int = 1,
    ) -> None:
        if patch != 1:
            raise ValueError(f"patch must be 1, since each action is a token here, got {patch}")
        if num_tokens < pred_horizon:
            raise ValueError(
                f"the context must hold a state for each of the {pred_horizon} actions, got "
                f"{num_tokens} tokens; BESO's head is for policy=beso"
            )
        super().__init__(
            in_dim=action_dim,
            out_dim=action_dim,
            pred_horizon=pred_horizon,
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
        )
        self.num_goals = num_tokens - pred_horizon
        self.position = nn.Parameter(torch.zeros(num_tokens, dim))
        for module in self.modules():
            if isinstance(module, Attention):
                module.dropout = dropout
        self.apply(_draw)

    def remember(self, context: Tensor) -> list[Memory]:
        """Goals (B, G, D) and states (B, T, D) of a context with their positions."""
        placed = context + self.position
        return [(placed[:, : self.num_goals], placed[:, self.num_goals :])]

    def forward(
        self, memories: Sequence[Memory], x: Tensor | None = None, level: Tensor | None = None
    ) -> Tensor:
        """Noisy actions x (B, T, A) at a level (B, D) -> (B, T, A)."""
        assert x is not None
        assert level is not None
        assert self.embed is not None
        ((goals, states),) = memories
        actions = self.embed(x) + self.position[self.num_goals :]
        steps = rearrange([states, actions], "two b t d -> b (t two) d")
        tokens = torch.cat([level[:, None], goals, steps], dim=1)
        found = self.transformer(tokens, causal=True)[:, 1 + self.num_goals :]
        out: Tensor = self.out(found[:, 1::2])
        return out


class BESOHead(EDMHead):
    """`EDMHead` over a window whose T actions belong to the context's last T tokens."""

    def make_trunk(self, **sizes: Any) -> ActionTransformer:
        if self.simulated_delay:
            raise ValueError(
                "simulated_delay must be 0 for BESO's head, whose one token tells the noise level "
                f"of all its actions, got {self.simulated_delay}; use head=edm"
            )
        return InterleavedTransformer(**sizes)


def _draw(module: nn.Module) -> None:
    """minGPT's weights, N(0, 0.02)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
