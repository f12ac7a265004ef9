"""Teaching an action head a little, in a second or two."""

from __future__ import annotations

import torch
from torch import Tensor

from embodied.heads.base import ActionHead
from embodied.noise import BatchNoise


def teach(
    head: ActionHead, context: Tensor, action: Tensor, *, steps: int, learning_rate: float
) -> None:
    """Steps of Adam on the same context (B, L, D) and action (B, H, A)."""
    parameters = [x for x in head.parameters() if x.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    noise = BatchNoise(torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.zero_grad()
        head.loss(context, action, noise=noise).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def teach_two(
    head: ActionHead, pred_horizon: int, *, steps: int, learning_rate: float = 5e-3, rows: int = 64
) -> None:
    """Two actions of one number after a context that tells nothing: all 0.6, and all -0.6."""
    action = torch.full((rows, pred_horizon, 1), 0.6)
    action[rows // 2 :] *= -1
    context = torch.zeros(rows, 2, 16)
    teach(head, context, action, steps=steps, learning_rate=learning_rate)
