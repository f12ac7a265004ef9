"""What plans for a robot beside a policy: a simulated world's expert, and a recorded episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.deploy.approach import Approach
from embodied.deploy.clock import SECOND, to_ns
from embodied.deploy.limits import Array, Limits
from embodied.structs import Episode
from embodied.suites import Expert


class Demonstrator:
    """An environment's scripted expert, for robots that are commanded its actions.

    Args:
        steps: for how many an action lasts, until the next plan is there.
    """

    def __init__(self, expert: Expert, *, steps: int = 15) -> None:
        self._expert, self._steps = expert, steps

    def infer(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """(steps, A), the same action throughout."""
        return np.repeat(self._expert(observation["state"])[None], self._steps, axis=0)


class Replay:
    """A recorded episode's actions, at the times at which they were sent.

    First it goes slowly to where they begin (axes that are commanded positions), and waits there
    for `lead_s`.

    Args:
        dt_s: from one step to the next.
        plan_s: how far each plan reaches.

    Attributes:
        drift: (n, S) what was sensed less what was recorded, at steps that were sensed.
        steps: (n,) which they are.
    """

    def __init__(
        self,
        episode: Episode,
        limits: Limits,
        *,
        dt_s: float,
        lead_s: float = 0.3,
        plan_s: float = 0.4,
    ) -> None:
        if episode.action.shape[1] != len(limits.names):
            raise ValueError(
                f"E_ROBOT_CONFIG: the episode has {episode.action.shape[1]} actions, and the robot "
                f"{len(limits.names)} axes ({', '.join(limits.names)}); replay it on its own robot"
            )
        self.episode, self.limits = episode, limits
        self._dt, self._lead, self._count = to_ns(dt_s), to_ns(lead_s), round(plan_s / dt_s)
        self._approach: Approach | None = None
        self._begin: int | None = None
        self._drift: dict[int, Array] = {}

    @property
    def steps(self) -> NDArray[np.int64]:
        return np.array(sorted(self._drift), np.int64)

    @property
    def drift(self) -> Array:
        return np.array([self._drift[step] for step in self.steps.tolist()])

    @property
    def is_over(self) -> bool:
        """Whether all actions were planned and their time has passed."""
        return bool(self._drift) and max(self._drift) >= len(self.episode) - 1

    def infer(self, observation: Mapping[str, Any]) -> Array:
        """(H, A) of the time at which the observation was sensed, and after it."""
        now = int(observation["time_ns"])
        times = now + self._dt * np.arange(self._count)
        if self._begin is None:
            plan = self._approaching(now, np.asarray(observation["previous_action"], np.float64))
            if self._begin is None:
                return plan
        self._compare(now, observation["state"])
        steps = np.floor((times - self._begin) / self._dt + 1e-6).astype(int)
        actions = self.episode.action[np.clip(steps, 0, len(self.episode) - 1)].astype(np.float64)
        waits = (steps < 0) | (steps >= len(self.episode))
        return np.where(waits[:, None], self._rest(actions), actions)

    def _approaching(self, now: int, command: Array) -> Array:
        start = self._rest(np.asarray(self.episode.action[0], np.float64))
        if self._approach is None:
            here = np.where(self.limits.has_rates, self.limits.standstill, command)
            self._approach = Approach(here, start, self.limits, time=now)
        if (now - self._approach.time) / SECOND >= self._approach.duration_s:
            self._begin = now + self._lead
        return self._approach.plan(now, dt=self._dt, horizon=self._count, request_id=0).actions

    def _rest(self, actions: Array) -> Array:
        """The same, but that rates stand still."""
        return np.where(self.limits.has_rates, self.limits.standstill, actions)

    def _compare(self, now: int, state: Any) -> None:
        assert self._begin is not None
        step = round((now - self._begin) / self._dt)
        if 0 <= step < len(self.episode):
            self._drift[step] = np.asarray(state, np.float64) - self.episode.state[step]
