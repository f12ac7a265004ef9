"""How the chunks that an episode was planned become the actions that are executed in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embodied.heads.inpainting import Settled, soft_mask
from embodied.noise import Noise
from embodied.past import Chunk, Past, rests
from embodied.policies.base import Policy
from embodied.structs import Condition, Observation


class Receding:
    """The first `action_horizon` actions of a chunk, then those of a new one (receding horizon;
    Chi et al. 2023, Sec. IV-C; arXiv:2303.04137)."""

    def check(self, policy: Policy, action_horizon: int) -> None:
        """Raises ValueError where the policy cannot be executed so."""
        if type(action_horizon) is not int or not 1 <= action_horizon <= policy.pred_horizon:
            raise ValueError(
                f"action_horizon must lie in [1, {policy.pred_horizon}] (the policy's "
                f"pred_horizon), got {action_horizon!r}"
            )

    def actions(self, past: Past, action_horizon: int) -> Chunk:
        """(action_horizon, A) to execute, once a chunk was planned now."""
        assert past.newest is not None
        return past.newest[:action_horizon]

    def looks_back(self, past: Past) -> bool:
        """Whether the next chunk depends on those before (`act`), and not on noise alone."""
        return False

    def act(
        self,
        policy: Policy,
        pasts: Sequence[Past],
        observation: Observation,
        condition: Condition,
        *,
        noise: Noise,
    ) -> Tensor:
        """The next chunks (B, H, A), of rows that it all looks back in, or in none."""
        return policy.act(observation, condition, noise=noise)


class TemporalEnsemble(Receding):
    """At every step the mean of what all chunks have for it, with weight exp(-decay i) for the
    i-th oldest (Zhao et al. 2023, Sec. IV-B and Algorithm 2; arXiv:2304.13705).

    Plans are averaged as numbers, so two that pass an obstacle on either side lead into it.

    Args:
        decay: the paper's m, which gives none; 0.01 is that of the authors' code. The smaller, the
            sooner new plans count; at 0 all count alike.
    """

    def __init__(self, *, decay: float = 0.01) -> None:
        if decay < 0:
            raise ValueError(f"ensemble_decay must be 0 or more, got {decay}")
        self.decay = decay

    def check(self, policy: Policy, action_horizon: int) -> None:
        super().check(policy, action_horizon)
        if action_horizon != 1:
            raise ValueError(
                "execution=ensemble plans at every step, so that action_horizon must be 1, "
                f"got {action_horizon}"
            )

    def actions(self, past: Past, action_horizon: int) -> Chunk:
        weights = np.exp(-self.decay * np.arange(len(past.now)))
        mean: Chunk = np.average(past.now, axis=0, weights=weights).astype(np.float32)
        return mean[None]


class GoingOn(Receding, ABC):
    """A chunk goes on from the one before, if there is one; the first of an episode is sampled as
    ever."""

    def looks_back(self, past: Past) -> bool:
        return past.newest is not None

    def act(
        self,
        policy: Policy,
        pasts: Sequence[Past],
        observation: Observation,
        condition: Condition,
        *,
        noise: Noise,
    ) -> Tensor:
        act = self.go_on if self.looks_back(pasts[0]) else super().act
        return act(policy, pasts, observation, condition, noise=noise)

    @abstractmethod
    def go_on(
        self,
        policy: Policy,
        pasts: Sequence[Past],
        observation: Observation,
        condition: Condition,
        *,
        noise: Noise,
    ) -> Tensor:
        """As `act`, of rows that all have a chunk."""


class WarmStart(GoingOn):
    """Receding horizon, where a chunk is sampled from the rest of the last one under some noise,
    in fewer steps than from noise alone. Its last action stands for the steps beyond its end.

    This is SDEdit (Meng et al. 2022, Algorithm 1; arXiv:2108.01073) with the last plan for a guide.
    What it does not change much it keeps: a plan that has become wrong by more than the noise
    stays so.

    Args:
        noise: standard deviation of the noise, of normalised actions.
        num_steps: steps of the sampler from there.
    """

    def __init__(self, *, noise: float = 0.3, num_steps: int = 1) -> None:
        if type(num_steps) is not int or num_steps < 1:
            raise ValueError(f"warm_steps must be a whole number >= 1, got {num_steps!r}")
        self.noise, self.num_steps = noise, num_steps

    def check(self, policy: Policy, action_horizon: int) -> None:
        super().check(policy, action_horizon)
        warm = policy.as_warm()
        if warm is None:
            raise ValueError(
                "execution=warm needs a policy whose head denoises actions, such as head=edm, to "
                f"begin from its last chunk; this {type(policy).__name__} cannot"
            )
        if action_horizon == policy.pred_horizon:
            raise ValueError(
                f"execution=warm needs action_horizon < {policy.pred_horizon} (the policy's "
                "pred_horizon), or nothing of the last chunk is left to begin from"
            )
        low, high = warm.noise_range
        if not low <= self.noise <= high:
            raise ValueError(
                f"warm_noise must lie in [{low:g}, {high:g}], the noise that the policy's head "
                f"knows, got {self.noise}"
            )

    def go_on(
        self,
        policy: Policy,
        pasts: Sequence[Past],
        observation: Observation,
        condition: Condition,
        *,
        noise: Noise,
    ) -> Tensor:
        warm = policy.as_warm()
        assert warm is not None, "`check` says so"
        return warm.act_from(
            rests(pasts, policy.pred_horizon).to(observation.state.device),
            observation,
            condition,
            sigma=self.noise,
            num_steps=self.num_steps,
            noise=noise,
        )


class RealTime(GoingOn):
    """Real-time chunking: a chunk goes on from the one before, of which the first steps will have
    been executed by the time that it is there, and the others are wished for (Black et al. 2025,
    arXiv:2506.07339, Algorithm 1; `heads.inpainting`).

    Args:
        delay: d, how many steps after an observation its chunk is there (`scripts/measure_latency`
            says how many).
        clip: beta, the most guidance; the paper's 5.
        trained: shows the policy the d steps, as it was trained to (`simulated_delay` of its head;
            arXiv:2512.05964), in place of guiding it. The steps beyond are not wished for.
    """

    def __init__(self, *, delay: int = 0, clip: float = 5.0, trained: bool = False) -> None:
        if type(delay) is not int or delay < 0:
            raise ValueError(f"delay_steps must be a whole number >= 0, got {delay!r}")
        if not clip >= 0:
            raise ValueError(f"realtime_clip must be 0 or more, got {clip}")
        self.delay, self.clip, self.trained = delay, clip, trained

    def check(self, policy: Policy, action_horizon: int) -> None:
        super().check(policy, action_horizon)
        completing = policy.as_completing()
        if completing is None:
            raise ValueError(
                "execution=realtime needs a policy whose head denoises actions, such as head=edm "
                f"or head=flow, to go on from its last chunk; this {type(policy).__name__} cannot"
            )
        if self.delay >= policy.pred_horizon:
            raise ValueError(
                f"delay_steps must be below {policy.pred_horizon} (the policy's pred_horizon), or "
                f"nothing of a chunk is left when it is there, got {self.delay}"
            )
        if self.trained and self.delay > completing.trained_delay:
            raise ValueError(
                f"realtime_trained needs delay_steps <= {completing.trained_delay}, which the "
                f"policy was trained with, got {self.delay}; train with "
                f"policy.head.simulated_delay={self.delay}, or leave realtime_trained out"
            )

    def go_on(
        self,
        policy: Policy,
        pasts: Sequence[Past],
        observation: Observation,
        condition: Condition,
        *,
        noise: Noise,
    ) -> Tensor:
        completing, device = policy.as_completing(), observation.state.device
        assert completing is not None, "`check` says so"
        weight = np.stack([self.weight(past, policy.pred_horizon) for past in pasts])
        return completing.act_on(
            Settled(
                rests(pasts, policy.pred_horizon).to(device), torch.from_numpy(weight).to(device)
            ),
            observation,
            condition,
            clip=None if self.trained else self.clip,
            noise=noise,
        )

    def weight(self, past: Past, pred_horizon: int) -> NDArray[np.float32]:
        """(H,), how much each step of what is left of the last chunk counts."""
        left = 0 if past.newest is None else len(past.newest)
        return soft_mask(self.delay, left, pred_horizon)


_NAMES = ("receding", "ensemble", "warm", "realtime")


def execution_of(settings: Mapping[str, Any]) -> Receding:
    """What the keys `execution`, `delay_steps`, and those that begin with `ensemble_`, `warm_` and
    `realtime_` describe.

    Keys that are missing, as in configs of older runs, or None have the constructors' values.
    """
    given = {key: value for key, value in settings.items() if value is not None}

    def options(**names: str) -> dict[str, Any]:
        return {name: given[key] for name, key in names.items() if key in given}

    match given.get("execution", _NAMES[0]):
        case "receding":
            return Receding()
        case "ensemble":
            return TemporalEnsemble(**options(decay="ensemble_decay"))
        case "warm":
            return WarmStart(**options(noise="warm_noise", num_steps="warm_steps"))
        case "realtime":
            return RealTime(
                **options(delay="delay_steps", clip="realtime_clip", trained="realtime_trained")
            )
        case other:
            raise ValueError(f"execution must be one of {', '.join(_NAMES)}, got {other!r}")
