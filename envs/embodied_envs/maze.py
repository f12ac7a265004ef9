"""Mazes of gymnasium-robotics, for a ball moved by forces and for a four-legged ant.

Observations, rewards and success are the library's own: success is a distance of at most 0.45 m to
the goal at a step. Episodes never terminate, and the goal stays where it is. Start and goal are
drawn from all cells; in "Diverse_GR" mazes both are from a few marked cells, in "Diverse_G" mazes
the goal is, and the start is a single one.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from embodied.suites import Expert
from embodied_envs.catalogue import TaskFacts, read_catalogue
from embodied_envs.gymnasium_simulator import aim_overview
from embodied_envs.maze_expert import MazeExpert
from embodied_envs.options import check_choice
from embodied_envs.robotics import GoalSimulator, GoalSuite, open_env
from embodied_envs.simulated_env import Simulator

_FROM_ABOVE = {"elevation": -90.0}  # no wall hides anything


@dataclass(frozen=True)
class Maze(GoalSuite):
    """Mazes by the library's names, such as "PointMaze_UMaze-v3" or "AntMaze_Large-v5".

    The state is the agent's xy in m, the rest of the library's observation, and the goal xy: (6,)
    for the ball, whose velocity xy stands at 2:4, and (109,) for the ant. Actions lie in [-1, 1]:
    forces xy in units of 100 N on 4.2 kg, and torques of eight joints. Only the ball has an expert.
    See `GoalSuite` for the other fields.
    """

    library: ClassVar[str] = "maze"

    tasks: tuple[str, ...] = ("PointMaze_UMaze-v3",)

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """All mazes, those of the ball first."""
        return read_catalogue("maze")

    def open_simulator(self, task: str) -> Simulator:
        """A simulator of a task."""
        with _private_folder():
            env = open_env(task, reward_type=self.reward)
        kind = _Ant if _has_legs(task) else _Simulator
        return kind(env, self.goal_visible)

    def expert(self, task: str, *, seed: int = 0) -> Expert:
        """Follows the shortest way through the cells: full observations to actions (2,).

        Raises NoExpertError for the ant.
        """
        check_choice("task", task, self.tasks)
        return super().expert(task) if _has_legs(task) else MazeExpert(task)


class _Simulator(GoalSimulator):
    """The goal is a red ball, which the library puts in place."""

    def __init__(self, env: Any, goal_visible: bool) -> None:
        super().__init__(env, goal_visible)
        aim_overview(self.model, _FROM_ABOVE)
        if not goal_visible:
            self._hide("site", "target")


class _Ant(_Simulator):
    """The library's observation of the ant leaves out where it is."""

    def _state(self, observation: Any) -> NDArray[np.float64]:
        return np.concatenate([observation["achieved_goal"], super()._state(observation)])


def _has_legs(task: str) -> bool:
    return task.startswith("Ant")


@contextlib.contextmanager
def _private_folder() -> Iterator[None]:
    """Where temporary files go meanwhile.

    The library writes a maze's model to a file named by the time, which another process may
    overwrite before it is read, and never deletes it.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
