"""What an action head is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from embodied.noise import Noise


class ActionHead(nn.Module, ABC):
    """Models p(action chunk | context). Actions are normalised to [-1, 1]."""

    @abstractmethod
    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        """Context (B, L, D) and action (B, H, A) -> loss of each row and step, (B, H)."""

    def fit(self, action: Tensor) -> None:
        """Learns from chunks (N, H, A) of the training data, normalised, what no gradient of `loss`
        will teach, such as a tokeniser; most heads learn nothing.

        Called once, before training. Every process must come to the same, so that what is drawn is
        drawn with a seed of its own; the result belongs in buffers, which weights' averages, data
        parallelism and a resumed run leave alone. A head that is not fitted must work all the same.
        """

    @abstractmethod
    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        """Context (B, L, D) -> action (B, H, A)."""


class DensityHead(ActionHead):
    """A head that knows how likely an action is."""

    @abstractmethod
    def log_prob(self, context: Tensor, action: Tensor) -> Tensor:
        """Context (B, L, D) and action (B, H, A) -> (B, H), log p(a_h | a_1..h-1, context).

        Of normalised actions, with respect to the volume element of [-1, 1]^A; of heads whose
        actions are codes, the log-probability of the code.
        """
