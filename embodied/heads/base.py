"""What an action head is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from embodied.noise import Noise


class ActionHead(nn.Module, ABC):
    """Models p(action chunk | context). Actions are normalised to [-1, 1]."""

    @abstractmethod
    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        """Context (B, L, D) and action (B, H, A) -> loss of each row and step, (B, H)."""

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


class ErrorHead(ActionHead):
    """A head that learns to undo noise; its errors bound log p(action | context) from below.

    Levels and noise are arguments, so that a policy, its reference, a chosen and a rejected action
    can be compared at the same draws, as preference losses need (`objectives.evidence`).
    """

    @abstractmethod
    def levels(self, u: Tensor) -> Tensor:
        """Uniform u (B,) in [0, 1] -> noise levels (B,), distributed as in training."""

    @abstractmethod
    def errors(self, context: Tensor, action: Tensor, *, levels: Tensor, noise: Tensor) -> Tensor:
        """What is to be small, of each row and step, (B, H), a mean over the action's numbers.

        Args:
            context, action: as of `loss`.
            levels: (B,).
            noise: (B, H, A), standard normal.
        """

    @abstractmethod
    def evidence(self, context: Tensor, action: Tensor, *, u: Tensor, noise: Tensor) -> Tensor:
        """One draw of a lower bound on log p(action | context), split over the steps, (B, H).

        The bound is the mean over uniform u (B,) and standard normal noise (B, H, A), with respect
        to the volume element of [-1, 1]^A. It is that of sampling with many steps, not few.
        """

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        levels = self.levels(noise.uniform(len(action), device=action.device))
        drawn = noise.normal(*action.shape, device=action.device)
        return self.errors(context, action, levels=levels, noise=drawn)


class StudentHead(ActionHead):
    """A head that learns from a trained one, which it starts from (`init_from` of a run)."""

    @abstractmethod
    def inherit(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of a trained head -> this head's."""
