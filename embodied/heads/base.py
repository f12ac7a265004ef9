"""What an action head is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from embodied.noise import Noise


class ActionHead(nn.Module, ABC):
    """Models p(action chunk | context). Actions are normalised to [-1, 1].

    Attributes:
        samplers: what its option `sampler` may be, where it has one; what does not change its
            parameters, so that a trained head can be given another.
    """

    samplers: tuple[str, ...] = ()

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


@runtime_checkable
class WarmHead(Protocol):
    """A head that can sample from near a chunk, in fewer steps than from noise alone.

    Attributes:
        noise_range: the least and the most noise that it was trained to remove.
    """

    @property
    def noise_range(self) -> tuple[float, float]: ...

    def resample(
        self, context: Tensor, previous: Tensor, *, sigma: float, num_steps: int, noise: Noise
    ) -> Tensor:
        """From `previous` (B, H, A) under Gaussian noise -> action (B, H, A).

        Args:
            sigma: standard deviation of the noise, where `previous` has unit scale. Heads that
                count noise otherwise begin where noise over signal is this.
            num_steps: of the sampler, from there to no noise.
        """
        ...
