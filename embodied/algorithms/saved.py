"""What checkpoints hold of learners from rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from embodied.algorithms.base import Algorithm


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Each parameter's state, as "<number>.<name>"."""
    return {
        f"{number}.{name}": x
        for number, state in optimizer.state_dict()["state"].items()
        for name, x in state.items()
    }


def restore(optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Takes up what `moments` gave; settings such as rates stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, x in saved.items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = x
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


class Saved(Algorithm):
    """A policy that is evaluated as it is, further parts, and one optimiser for all of them.

    Attributes:
        parts: what is trained or kept besides the policy.
    """

    parts: nn.ModuleDict
    optimizer: torch.optim.Optimizer

    def inference_state(self) -> dict[str, Tensor]:
        return {name: x.detach().cpu().clone() for name, x in self.policy.state_dict().items()}

    def state_dict(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        parts = {name: x.detach() for name, x in self.parts.state_dict().items()}
        return {"parts": parts, "optimizer": moments(self.optimizer)}, {}

    def load_state_dict(
        self, tensors: dict[str, dict[str, Tensor]], document: dict[str, Any]
    ) -> None:
        self.policy.load_state_dict(tensors["policy"])
        self.parts.load_state_dict(tensors["parts"])
        restore(self.optimizer, tensors["optimizer"])
