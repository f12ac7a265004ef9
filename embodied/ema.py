"""Exponential moving average of a policy's parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def local(x: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; any other tensor as it is."""
    return x.to_local() if isinstance(x, DTensor) else x


class EMA:
    """ema <- d ema + (1 - d) parameter, d = min(decay, (1 + n) / (10 + n)) at update n.

    The warm-up is BESO's. Buffers are not averaged: they are statistics that do not train.
    """

    def __init__(self, module: nn.Module, *, decay: float = 0.999) -> None:
        self.decay = decay
        self.live = dict(module.named_parameters())
        self.shadow = {name: p.detach().clone() for name, p in self.live.items()}
        self.num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(
            [local(x) for x in self.shadow.values()],
            [local(x.detach()) for x in self.live.values()],
            1 - decay,
        )
        self.num_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module computes with the averages inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.live.items():
            mine, shadow = local(parameter.detach()), local(self.shadow[name])
            kept = mine.clone()
            mine.copy_(shadow)
            shadow.copy_(kept)
