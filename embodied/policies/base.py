"""What a policy is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from embodied.heads.inpainting import Settled
from embodied.noise import Noise
from embodied.structs import Batch, Condition, Metrics, Observation, Spec


class Policy(nn.Module, ABC):
    """Maps observations and a condition to action chunks. Holds no per-episode state.

    `forward` is the loss, so that DDP and FSDP see every training pass.

    Attributes:
        trains_in_stages: whether some parameters take no part in some training steps.
        sees_past_actions: whether it needs `Observation.action` and `steps`.
    """

    spec: Spec
    obs_horizon: int
    pred_horizon: int
    trains_in_stages: bool = False
    sees_past_actions: bool = False

    @abstractmethod
    def loss(self, batch: Batch, *, noise: Noise) -> tuple[Tensor, Metrics]:
        """The mean loss over valid steps, and detached metrics."""

    @abstractmethod
    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        """Action chunks (B, H, A), environment units, within the spec's bounds."""

    def base(self) -> Policy:
        """What a run that starts from another's weights (`init_from`) gives them to: itself, or the
        policy that it is built upon."""
        return self

    def explore(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        """As `act`, while it learns from what it does; most policies draw their actions anyway."""
        return self.act(observation, condition, noise=noise)

    @abstractmethod
    def fit_normalizers(
        self,
        observation: Observation,
        condition: Condition,
        action: Tensor,
        *,
        lengths: Tensor | None = None,
    ) -> None:
        """Takes statistics of training data: N observations with T = 1, the distinct conditions,
        (N, A) actions and, for policies that look at whole chunks, the lengths (E,) of the episodes
        that these N steps are, end to end."""

    def extend(self, phrases: Sequence[str]) -> None:
        """Learns of the phrases in data that it has not been fitted to; no weight changes."""

    def as_planner(self) -> Planner | None:
        """Itself, where it acts by phrases of its own and keeps to them; None for any other."""
        return None

    def as_warm(self) -> WarmPolicy | None:
        """Itself, where it can begin a chunk from another; None for any other."""
        return None

    def as_completing(self) -> CompletingPolicy | None:
        """Itself, where it can go on from steps that are settled; None for any other."""
        return None

    def begin_step(self, step: int) -> None:
        """Called before each training step, from 0, for those that train in stages; what it
        changes must follow from the step alone, so that a resumed run goes on alike."""

    def forward(self, batch: Batch, noise: Noise) -> tuple[Tensor, Metrics]:
        return self.loss(batch, noise=noise)


class WarmPolicy(Protocol):
    """A policy that can begin a chunk from one that is nearly right; `Policy.as_warm` says which
    are.

    Attributes:
        noise_range: as of `embodied.heads.base.WarmHead`.
    """

    @property
    def noise_range(self) -> tuple[float, float]: ...

    def act_from(
        self,
        previous: Tensor,
        observation: Observation,
        condition: Condition,
        *,
        sigma: float,
        num_steps: int,
        noise: Noise,
    ) -> Tensor:
        """As `Policy.act`, sampled from near `previous` (B, H, A), in environment units.

        Args:
            sigma, num_steps: as of `embodied.heads.base.WarmHead.resample`.
        """
        ...


class CompletingPolicy(Protocol):
    """A policy that can plan a chunk of which the beginning is settled; `Policy.as_completing` says
    which are.

    Attributes:
        trained_delay: for how many settled steps it was trained so; 0 if for none.
    """

    @property
    def trained_delay(self) -> int: ...

    def act_on(
        self,
        settled: Settled,
        observation: Observation,
        condition: Condition,
        *,
        clip: float | None,
        noise: Noise,
    ) -> Tensor:
        """As `Policy.act`, going on from what is settled, in environment units.

        Args:
            clip: as of `embodied.heads.inpainting.complete`; None for a policy that was trained so.
        """
        ...


@dataclass(frozen=True)
class Plan:
    """What a policy with two levels does and says at one planning.

    Attributes:
        action: (B, H, A), as of `Policy.act`.
        phrases: what each row's actions obey.
        proposed: what the phrase level would choose for each row from what is seen now.
        carried: what to give as `previous` at the row's next planning; None asks anew.
    """

    action: Tensor
    phrases: tuple[str, ...]
    proposed: tuple[str, ...]
    carried: tuple[str | None, ...]


class Planner(Protocol):
    """A policy that keeps to a phrase from one planning to the next; `Policy.as_planner` says which
    are. Who runs it remembers the phrase of each episode, for the policy holds no state.

    Attributes:
        hold_steps: how many environment steps after a planning without a previous phrase the next
            one has none either, so that the phrase level is asked anew.
    """

    hold_steps: int

    @property
    def candidates(self) -> tuple[str, ...]:
        """The phrases that it can choose among."""
        ...

    def understands(self, phrase: str) -> bool:
        """Whether it can be given this phrase in place of its own."""
        ...

    def plan(
        self,
        observation: Observation,
        condition: Condition,
        previous: Sequence[str | None],
        *,
        noise: Noise,
    ) -> Plan: ...


def by_source(errors: Tensor, batch: Batch) -> Metrics:
    """The mean of (B, H) errors over the valid steps of each data set that rows are of."""
    metrics: Metrics = {}
    for name in sorted(set(batch.source or ())):
        mine = torch.tensor([each == name for each in batch.source or ()])
        mask = batch.mask * mine.to(batch.mask.device, non_blocking=True)[:, None]
        metrics[f"loss/{name}"] = (errors * mask).sum() / mask.sum().clamp(min=1)
    return metrics
