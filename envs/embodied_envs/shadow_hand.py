"""The Shadow hand's tasks from gymnasium-robotics: fingertips to points, objects into poses.

Observations, rewards and success are the library's own; success is a pose within 1 cm and 0.1 rad
of the goal at a step (position or rotation alone, where the task ignores the other), and for
reaching a distance of all fingertips together below 1 cm. Episodes never terminate. The library's
names that end in "Full" are second names of tasks that are here.

Departure: a reset of the library's manipulation tasks leaves the solver's memory, the counts of
warnings and the motors' commands as they were, so that a simulation that broke down stays broken;
here all is cleared before.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from embodied_envs.catalogue import TaskFacts, read_catalogue
from embodied_envs.robotics import GoalSimulator, GoalSuite, open_env
from embodied_envs.simulated_env import Simulator

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]

_REACH = "HandReach-v3"
_NUM_TIPS = 5
_BESIDE = 0.15  # m, where the library shows a goal whose position does not count


@dataclass(frozen=True)
class ShadowHand(GoalSuite):
    """Tasks of the Shadow hand, such as "HandManipulateBlock-v1".

    The state is the library's observation, then the goal. Where an object is held they are (61,),
    with the object's position in m and its quaternion at 54:61, and such a pose (7,). For
    "HandReach-v3" they are (63,), with the tips' xyz at 48:63, and such points (15,). Actions (20,)
    lie in [-1, 1], each scaled to the range of its joint. See `GoalSuite` for the other fields.
    """

    library: ClassVar[str] = "shadow_hand"

    tasks: tuple[str, ...] = ("HandManipulateBlock-v1",)

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """All tasks of the hand."""
        return read_catalogue("shadow_hand")

    def open_simulator(self, task: str) -> Simulator:
        """A simulator of a task."""
        env = open_env(task, reward_type=self.reward)
        kind = _Reach if task == _REACH else _Manipulate
        return kind(env, self.goal_visible)


class _Reach(GoalSimulator):
    """The goal is a dot for each fingertip."""

    def __init__(self, env: Any, goal_visible: bool) -> None:
        super().__init__(env, goal_visible)
        # They would show where the tips are, but only while the library draws.
        self._hide("site", *(f"finger{tip}" for tip in range(_NUM_TIPS)))

    def _mark_goal(self, goal: NDArray[np.float64]) -> None:
        for tip, point in enumerate(goal.reshape(_NUM_TIPS, 3)):
            if self._goal_visible:
                self._move_site(f"target{tip}", point)
            else:
                self._hide("site", f"target{tip}")


class _Manipulate(GoalSimulator):
    """The goal is a second, translucent object that nothing touches."""

    def __init__(self, env: Any, goal_visible: bool) -> None:
        super().__init__(env, goal_visible)
        if not goal_visible:
            sites = [self.model.site(index).name for index in range(self.model.nsite)]
            self._hide("geom", "target")
            self._hide("site", *(name for name in sites if name.startswith("target:")))

    @property
    def scene(self) -> mujoco.MjData:
        """A copy, because the second object is a part of the simulation, and falls."""
        import mujoco

        scene = copy.copy(self.data)
        joint = scene.joint("target:joint")
        joint.qpos[:] = self._env.goal
        if self._env.target_position == "ignore":
            joint.qpos[0] += _BESIDE
        mujoco.mj_kinematics(self.model, scene)
        return scene

    def reset(self, seed: int) -> NDArray[np.float64]:
        import mujoco

        mujoco.mj_resetData(self.model, self.data)
        return super().reset(seed)
