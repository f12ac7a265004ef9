"""Gymnasium's MuJoCo tasks, version 5: locomotion, pendulums and two arms.

Observations, rewards and terminations are the library's own. Success is a return so far at the
`reward_threshold` that Gymnasium registers, where it registers one. For Walker2d, Humanoid and
HumanoidStandup it registers none, and for Reacher and Pusher, whose rewards are negative, a return
tells nothing before the end: their standards are ours. The arms succeed at a step that ends with
the distance to the goal below 2 cm (Reacher) or 5 cm (Pusher).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied_envs.catalogue import TaskFacts, read_catalogue
from embodied_envs.simulated import SimulatedSuite
from embodied_envs.simulated_env import Simulator, Transition
from embodied_envs.vitals import log_warnings

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]


@dataclass(frozen=True)
class GymMujoco(SimulatedSuite):
    """Gymnasium's MuJoCo tasks by the names that it registers, such as "HalfCheetah-v5".

    Actions lie in the bounds of the motors, at most [-3, 3]. See `SimulatedSuite` for the other
    fields.
    """

    library: ClassVar[str] = "gym_mujoco"

    tasks: tuple[str, ...] = ("HalfCheetah-v5",)

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """All tasks of the library."""
        return read_catalogue("gym_mujoco")

    def open_simulator(self, task: str) -> Simulator:
        """A simulator of a task."""
        return _Simulator(task)


class _Simulator:
    """One of Gymnasium's environments without its wrappers, so without a limit on time."""

    def __init__(self, task: str) -> None:
        log_warnings()
        env: Any = gymnasium.make(task, disable_env_checker=True)
        self._env = env.unwrapped
        self.low: NDArray[np.float32] = self._env.action_space.low
        self.high: NDArray[np.float32] = self._env.action_space.high

    @property
    def model(self) -> mujoco.MjModel:
        return self._env.model

    @property
    def data(self) -> mujoco.MjData:
        return self._env.data

    def reset(self, seed: int) -> NDArray[np.float64]:
        return np.asarray(self._env.reset(seed=seed)[0], np.float64)

    def step(self, action: NDArray[np.float64]) -> Transition:
        observation, reward, terminated, _, info = self._env.step(action)
        state = np.asarray(observation, np.float64)
        return Transition(state, float(reward), bool(terminated), info)

    def close(self) -> None:
        self._env.close()
