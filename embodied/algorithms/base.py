"""What an algorithm is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from embodied.policies.base import Policy
from embodied.structs import Batch, Metrics


class Algorithm(ABC):
    """Improves a policy, one batch at a time.

    Attributes:
        policy: what is trained, and, for evaluation, what acts.
    """

    policy: Policy

    @abstractmethod
    def update(self, batch: Batch, step: int) -> Metrics:
        """One optimiser step on this process's rows of the global batch. Never waits for a GPU."""

    @abstractmethod
    def inference_state(self) -> dict[str, Tensor]:
        """The policy's state dict as it should be evaluated (averaged weights), unsharded."""

    def take_metrics(self) -> Metrics:
        """What is worth knowing at a logged step but too dear at each; mostly nothing."""
        return {}

    @contextmanager
    def inference(self) -> Iterator[Policy]:
        """The policy as it should be evaluated, inside the block."""
        kept = {name: x.clone() for name, x in self.policy.state_dict().items()}
        self.policy.load_state_dict(self.inference_state())
        try:
            yield self.policy.eval()
        finally:
            self.policy.load_state_dict(kept)

    @abstractmethod
    def state_dict(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Everything an exact resume needs: groups of tensors, and a JSON-able document."""

    @abstractmethod
    def load_state_dict(
        self, tensors: dict[str, dict[str, Tensor]], document: dict[str, Any]
    ) -> None: ...
