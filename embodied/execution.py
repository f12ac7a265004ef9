"""How the chunks that an episode was planned become the actions that are executed in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.policies.base import Policy

Chunk = NDArray[np.float32]


class Past:
    """The chunks of an episode that still speak of its present step, oldest first."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []  # each begins at the present step

    def add(self, chunk: Chunk) -> None:
        """Takes an (H, A) chunk that was planned now."""
        self._chunks.append(np.array(chunk))

    def step(self) -> None:
        """A step was executed."""
        self._chunks = [chunk[1:] for chunk in self._chunks if len(chunk) > 1]

    def forget(self) -> None:
        """What was planned no longer counts."""
        self._chunks = []

    @property
    def newest(self) -> Chunk | None:
        """(at most H, A), what is left of the chunk that was planned last; None if nothing is."""
        return self._chunks[-1] if self._chunks else None

    @property
    def now(self) -> Chunk:
        """(n, A), what each of the chunks has for the present step."""
        return np.stack([chunk[0] for chunk in self._chunks])


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

    def start(self, past: Past, pred_horizon: int) -> Chunk | None:
        """(H, A) that the next chunk is sampled from; None samples it from noise alone."""
        return None


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


class WarmStart(Receding):
    """Receding horizon, where a chunk is sampled from the rest of the last one under some noise,
    in fewer steps than from noise alone. Its last action stands for the steps beyond its end.

    This is SDEdit (Meng et al. 2022, Algorithm 1; arXiv:2108.01073) with the last plan for a guide.
    What it does not change much it keeps: a plan that has become wrong by more than the noise
    stays so. The first chunk of an episode is sampled as ever.

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

    def start(self, past: Past, pred_horizon: int) -> Chunk | None:
        rest = past.newest
        if rest is None:
            return None
        return np.concatenate([rest, np.repeat(rest[-1:], pred_horizon - len(rest), axis=0)])


_NAMES = ("receding", "ensemble", "warm")


def execution_of(settings: Mapping[str, Any]) -> Receding:
    """What the keys `execution`, `ensemble_decay`, `warm_noise` and `warm_steps` describe.

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
        case other:
            raise ValueError(f"execution must be one of {', '.join(_NAMES)}, got {other!r}")
