"""A point that is to come to a mark and stay, where half of the demonstrators do not care.

The smallest world in which how far a policy should trust its data depends on where it is: the
miniature on which FamO2O (Wang et al. 2023, arXiv:2310.17966) is tried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied.suites import Expert, Texts

TASK = "reach"
STEP = 0.1  # distance per axis and control step at full speed; the table is [-1, 1] x [-1, 1]
NEAR = 0.1  # distance from the mark that counts as being there
Observations = dict[str, Any]


@dataclass(frozen=True)
class Reach:
    """Go to the mark; the reward is minus the distance to it, and nothing ends an episode early.

    Actions are (2,) velocities in [-1, 1]; the state is (4,), the point's xy and the mark's.

    Attributes:
        skill: how often the expert does what is right, left (x < 0) and right of the middle;
            otherwise it acts at random.
    """

    skill: tuple[float, float] = (1.0, 1.0)
    num_goals: int = 200
    max_steps: int = 40
    rate_hz: float = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "skill", tuple(self.skill))  # a configuration file gives lists
        if not all(0 <= share <= 1 for share in self.skill) or len(self.skill) != 2:
            raise ValueError(f"skill must be two shares in [0, 1], got {self.skill}")

    @property
    def name(self) -> str:
        return "reach"

    @property
    def tasks(self) -> tuple[str, ...]:
        return (TASK,)

    def texts(self, task: str) -> Texts:
        """The wordings of the only task."""
        return Texts("go to the mark", ("move to the mark",), ("find the mark",))

    def make_env(self, *, render_size: tuple[int, int] | None = None) -> ReachEnv:
        """An environment; `render_size` is (h, w) in pixels."""
        return ReachEnv(self, render_size)

    def expert(self, task: str, *, seed: int = 0) -> Expert:
        """A proportional controller with lapses, which it draws with the seed."""
        generator = np.random.default_rng(seed)

        def act(state: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
            right = np.clip((state[2:4] - state[:2]) / STEP, -1, 1)
            lapse = generator.uniform(-1, 1, 2)
            careful = generator.random() < self.skill[int(state[0] >= 0)]
            return np.asarray(right if careful else lapse, np.float32)

        return act


class ReachEnv(gymnasium.Env[Observations, NDArray[np.float32]]):
    """The world of `Reach`, one episode at a time."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  gymnasium's type

    def __init__(self, suite: Reach, render_size: tuple[int, int] | None = None) -> None:
        self._suite, self._render_size = suite, render_size
        self.render_mode = None if render_size is None else "rgb_array"
        self.observation_space = gymnasium.spaces.Dict(
            {"state": gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)}
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._state = np.zeros(4)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Starts an episode; the goal and its benchmark seed say where, both default to 0."""
        super().reset(seed=seed)
        chosen = {"task": TASK, "goal": 0, "benchmark_seed": 0, **(options or {})}
        places = np.random.default_rng([int(chosen["benchmark_seed"]), int(chosen["goal"])])
        self._state = places.uniform(-1, 1, 4)
        self._steps = 0
        return self._observation(), chosen

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """Moves for one control step; an action that is not finite moves nothing and ends it."""
        self._steps += 1
        stable = bool(np.isfinite(action).all())
        if stable:
            moved = self._state[:2] + STEP * np.clip(np.asarray(action, np.float64), -1, 1)
            self._state[:2] = np.clip(moved, -1, 1)
        distance = math.dist(self._state[:2], self._state[2:])
        info: dict[str, Any] = {"success": stable and distance <= NEAR, "unstable": not stable}
        if not stable:
            info["reason"] = f"the action is not finite: {np.asarray(action).tolist()}"
        truncated = not stable or self._steps >= self._suite.max_steps
        return self._observation(), -distance, False, truncated, info

    def render(self) -> NDArray[np.uint8]:
        """The table from above, (h, w, 3): the mark green, the point black."""
        if self._render_size is None:
            raise ValueError("render_size is None: give make_env(render_size=(h, w)) to render")
        size = np.array(self._render_size)
        image = np.full((*self._render_size, 3), 236, np.uint8)
        marks = ((self._state[2:], NEAR, (62, 160, 75)), (self._state[:2], NEAR / 2, (20, 20, 20)))
        for (x, y), half, colour in marks:
            low, high = ((np.array([1 - y, x + 1]) / 2 + d) * size for d in (-half / 2, half / 2))
            rows, columns = (
                slice(max(0, int(a)), int(b) + 1) for a, b in zip(low, high, strict=True)
            )
            image[rows, columns] = colour
        return image

    def _observation(self) -> Observations:
        return {"state": self._state.astype(np.float32)}
