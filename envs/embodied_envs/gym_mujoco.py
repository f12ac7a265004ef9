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
from typing import ClassVar

import gymnasium

from embodied_envs.catalogue import TaskFacts, read_catalogue
from embodied_envs.gymnasium_simulator import GymnasiumSimulator
from embodied_envs.simulated import SimulatedSuite
from embodied_envs.simulated_env import Simulator


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
        return GymnasiumSimulator(gymnasium.make(task, disable_env_checker=True))
