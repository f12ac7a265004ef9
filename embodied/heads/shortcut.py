"""Shortcut models: a flow that is told how far to jump, down to one step.

Frans et al. 2024, "One Step Diffusion via Shortcut Models", arXiv:2410.12557. Departures: targets
come from the weights as they are, not from an average; whether a row learns the flow or a jump is
drawn for each row, so that rows stay independent, where the paper splits the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from embodied.heads.base import ActionHead
from embodied.heads.trunk import ActionTransformer, TrunkOptions
from embodied.networks.timestep import TimeEmbedding
from embodied.networks.transformer import Memory
from embodied.noise import Noise


def _log2(name: str, value: int) -> int:
    if value < 1 or value & (value - 1):
        raise ValueError(f"{name} must be a power of two, got {value}")
    return value.bit_length() - 1


class ShortcutHead(ActionHead):
    """Predicts the mean velocity of an action chunk over a jump of length d, after the context.

    Args:
        max_steps: 1 / the shortest jump, a power of two; so short a jump is taken to be the flow.
        num_steps: of sampling, a power of two up to `max_steps`.
        consistency: share of rows that learn a jump from two of half its length; the others learn
            the flow.
        trunk: num_layers, num_heads, dropout and patch of the `ActionTransformer`.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        pred_horizon: int,
        num_tokens: int,
        dim: int,
        max_steps: int = 128,
        num_steps: int = 1,
        consistency: float = 0.25,
        **trunk: Unpack[TrunkOptions],
    ) -> None:
        super().__init__()
        if not 0 < consistency < 1:
            raise ValueError(f"consistency must lie in (0, 1), got {consistency}")
        if max_steps < 2 or num_steps > max_steps:
            raise ValueError(
                f"max_steps must be at least 2 and num_steps, got {max_steps} and {num_steps}"
            )
        self.shape = (pred_horizon, action_dim)
        self.doublings, self.num_steps = _log2("max_steps", max_steps), num_steps
        self.jump = self.doublings - _log2("num_steps", num_steps)
        self.consistency = consistency
        self.embed_time = TimeEmbedding(dim)
        self.embed_jump = nn.Embedding(self.doublings + 1, dim)
        self.trunk = ActionTransformer(
            in_dim=action_dim, out_dim=action_dim, pred_horizon=pred_horizon, dim=dim, **trunk
        )

    def velocity(self, x: Tensor, t: Tensor, jump: Tensor, memories: Sequence[Memory]) -> Tensor:
        """s(x, t, d): x (B, H, A) at times t (B,) in [0, 1] -> (B, H, A).

        Args:
            jump: (B,) int, how often the shortest d was doubled.
            memories: the trunk's, of the context.
        """
        level = self.embed_time(t) + self.embed_jump(jump)
        out: Tensor = self.trunk(memories, x, level)
        return out.float()

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        """||s(x_t, t, d) - target||^2 of a flow or a jump (Frans et al. 2024, Eq. 5)."""
        jump, t = self._draw(noise.uniform(len(action), 3, device=action.device))
        n = noise.normal(*action.shape, device=action.device)
        x = t[:, None, None] * action + (1 - t[:, None, None]) * n
        memories = self.trunk.remember(context)
        target = torch.where(
            (jump > 0)[:, None, None], self.jump_target(x, t, jump, memories), action - n
        )
        return (self.velocity(x, t, jump, memories) - target).square().mean(-1)

    def _draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Uniform u (B, 3) -> the jumps, 0 for the flow, and times, both (B,).

        All jumps are as likely, and start at multiples of their length.
        """
        longer = 1 + (u[:, 1] * self.doublings).long().clamp(max=self.doublings - 1)
        jump = torch.where(u[:, 0] < self.consistency, longer, 0)
        count = 2.0 ** (self.doublings - longer)  # of such jumps from 0 to 1
        start = (u[:, 2] * count).floor().clamp(max=count - 1) / count
        return jump, torch.where(jump > 0, start, u[:, 2])

    @torch.no_grad()
    def jump_target(self, x: Tensor, t: Tensor, jump: Tensor, memories: Sequence[Memory]) -> Tensor:
        """The mean of two velocities, each over half the jump (Eq. 4); (B, H, A), no gradient."""
        half = (jump - 1).clamp(min=0)
        length = 2.0 ** (half - self.doublings)
        first = self.velocity(x, t, half, memories)
        middle = x + length[:, None, None] * first
        second = self.velocity(middle, t + length, half, memories)
        return (first + second) / 2

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        rows, device = len(context), context.device
        memories = self.trunk.remember(context)
        jump = torch.full((rows,), self.jump, device=device)
        x = noise.normal(rows, *self.shape, device=device)
        for i in range(self.num_steps):
            t = x.new_full((rows,), i / self.num_steps)
            x = x + self.velocity(x, t, jump, memories) / self.num_steps
        return x
