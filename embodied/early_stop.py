"""Keeping the best policy by what it does, when what it is trained on says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from embodied.learning_curve import RETURN, SUCCESS
from embodied.structs import Metrics


class EarlyStop:
    """The weights with the highest measure so far, and whether to go on.

    Args:
        measure: "eval/success" or "eval/return", of the short evaluations (`eval.every`).
        patience: how many of them in a row may be no better before training ends.
        after: training steps before the first that counts, such as those of imitation.
    """

    def __init__(self, *, measure: str = SUCCESS, patience: int = 3, after: int = 0) -> None:
        if measure not in (SUCCESS, RETURN) or patience < 1:
            raise ValueError(
                f"train.early_stop.measure must be {SUCCESS!r} or {RETURN!r} and patience at least "
                f"1, got {measure!r} and {patience}"
            )
        self.measure, self.patience, self.after = measure, patience, after
        self.step, self.value, self.misses = -1, float("-inf"), 0
        self.weights: dict[str, Tensor] = {}

    @property
    def is_over(self) -> bool:
        return self.misses >= self.patience

    def see(self, found: Metrics, step: int, weights: Mapping[str, Tensor]) -> None:
        """Takes note of an evaluation of these weights; of equal ones the first is kept."""
        if step < self.after or self.measure not in found:
            return
        value = float(found[self.measure])
        if value > self.value:
            self.step, self.value, self.misses = step, value, 0
            self.weights = {name: x.detach().cpu().clone() for name, x in weights.items()}
        else:
            self.misses += 1

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and a JSON-able document."""
        value = self.value if self.weights else None
        return self.weights, {"step": self.step, "value": value, "misses": self.misses}

    def load_state_dict(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        self.weights = dict(tensors)
        self.step, self.misses = document["step"], document["misses"]
        self.value = float("-inf") if document["value"] is None else document["value"]
