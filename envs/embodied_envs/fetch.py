"""The Fetch arm's four tasks, from gymnasium-robotics: reach, push, slide, and pick and place.

Observations, rewards and success are the library's own, version 4 (it refuses version 3, in which
the robot stands apart from its table). Success is a distance of less than 5 cm to the goal at a
step; episodes never terminate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from embodied_envs.catalogue import TaskFacts, read_catalogue
from embodied_envs.robotics import GoalSimulator, GoalSuite, open_env
from embodied_envs.simulated_env import Simulator


@dataclass(frozen=True)
class Fetch(GoalSuite):
    """Tasks of the Fetch arm, such as "FetchPush-v4".

    The state is the library's observation, (10,) for reaching and (25,) with an object, then the
    goal xyz in m; the object stands at 3:6 of it, the gripper at 0:3. Actions lie in [-1, 1]: the
    gripper's displacement in units of 5 cm, and the opening of its fingers. Pixels come with the
    position (3) of the gripper, that of its fingers (2), and their velocities (5). See `GoalSuite`
    for the other fields.
    """

    library: ClassVar[str] = "fetch"

    tasks: tuple[str, ...] = ("FetchPush-v4",)

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """All tasks of the arm."""
        return read_catalogue("fetch")

    def open_simulator(self, task: str) -> Simulator:
        """A simulator of a task."""
        return _Simulator(open_env(task, reward_type=self.reward), self.goal_visible)


class _Simulator(GoalSimulator):
    """The goal is a red ball."""

    def _mark_goal(self, goal: NDArray[np.float64]) -> None:
        if not self._goal_visible:
            return self._hide("site", "target0")
        return self._move_site("target0", goal)
