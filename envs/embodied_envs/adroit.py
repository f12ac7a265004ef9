"""Adroit: four tasks of a 24-jointed hand on an arm, from gymnasium-robotics.

Observations, rewards and success are the library's own; episodes never terminate. The "sparse"
reward is 10 at a step that ends in success and -0.1 at any other. The "dense" one of version 1 pays
for the distance of the palm from what it should grasp (doors, hammers and balls), instead of
charging for it; the library's authors advise against it, and have mended it in a later version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from embodied_envs.catalogue import TaskFacts, read_catalogue
from embodied_envs.gymnasium_simulator import GymnasiumSimulator
from embodied_envs.robotics import RoboticsSuite, open_env
from embodied_envs.simulated_env import Simulator


@dataclass(frozen=True)
class Adroit(RoboticsSuite):
    """Open a door, hammer a nail, turn a pen, or carry a ball, such as "AdroitHandDoor-v1".

    Actions lie in [-1, 1], each scaled to the range of its actuator: joint angles (rad) of the hand
    and, but for the pen, positions (m) and angles of the arm. See `RoboticsSuite` for the fields.
    """

    library: ClassVar[str] = "adroit"

    tasks: tuple[str, ...] = ("AdroitHandDoor-v1",)
    cameras: tuple[int, ...] = (1,)  # shows all of the table

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """All tasks of the hand."""
        return read_catalogue("adroit")

    def open_simulator(self, task: str) -> Simulator:
        """A simulator of a task."""
        return GymnasiumSimulator(open_env(task, reward_type=self.reward))
