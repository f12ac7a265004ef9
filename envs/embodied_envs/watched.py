"""A suite whose environments also show what only an expert may see, for people who watch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied_envs.wrapped import Action, Env, Observations, WrappedSuite

FULL = "full"
"""The observation that is added."""


@dataclass(frozen=True)
class Watched(WrappedSuite):
    """A suite with the further observation `FULL`: the environment's `full_observation` where it
    has one, else the state. Policies do not look at it; nothing else changes."""

    def make_env(self, *, render_size: tuple[int, int] | None = None) -> Env:
        """The environment of the suite within, with the further observation."""
        return WatchedEnv(self.suite.make_env(render_size=render_size))


class WatchedEnv(gymnasium.Wrapper[Observations, Action, Observations, Action]):
    """An environment that shows everything. It is reset once to see how much that is."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gymnasium.spaces.Dict)
        size = len(self._full(env.reset(seed=0)[0]))
        full = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.observation_space = gymnasium.spaces.Dict({**space.spaces, FULL: full})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return {**observation, FULL: self._full(observation)}, info

    def step(self, action: Action) -> tuple[Observations, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        shown = {**observation, FULL: self._full(observation)}
        return shown, reward, terminated, truncated, info

    def _full(self, observation: Observations) -> NDArray[np.float64]:
        seen = getattr(self.env.unwrapped, "full_observation", observation["state"])
        return np.array(seen, np.float64)
