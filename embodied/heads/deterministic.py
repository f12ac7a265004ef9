"""Behavioural cloning by regression: one action chunk for each context."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from embodied.heads.base import ActionHead
from embodied.heads.trunk import ActionTransformer, TrunkOptions
from embodied.noise import Noise

_ERRORS = ("l1", "l2")


class DeterministicHead(ActionHead):
    """The action chunk itself, which no noise changes.

    Where several actions are right, `l2` learns their mean and `l1` their median, which may both be
    wrong: the baseline that multimodal heads are measured against. ACT found `l1` more precise than
    `l2` (Zhao et al. 2023, arXiv:2304.13705, Sec. IV-C).

    Args:
        error: "l1" | "l2", mean absolute or mean squared error of a step's numbers.
        trunk: num_layers, num_heads, dropout and patch of the `ActionTransformer`.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        pred_horizon: int,
        num_tokens: int,
        dim: int,
        error: str = "l2",
        **trunk: Unpack[TrunkOptions],
    ) -> None:
        super().__init__()
        if error not in _ERRORS:
            raise ValueError(f"error must be one of {list(_ERRORS)}, got {error!r}")
        self.error = error
        self.trunk = ActionTransformer(
            in_dim=0, out_dim=action_dim, pred_horizon=pred_horizon, dim=dim, **trunk
        )

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        difference = self.sample(context, noise=noise) - action
        error = difference.abs() if self.error == "l1" else difference.square()
        return error.mean(-1)

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        action: Tensor = self.trunk(self.trunk.remember(context)).float()
        return action
