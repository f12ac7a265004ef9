"""An optimiser's moments as named tensors, which is what checkpoints hold."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


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
