"""What the adapters to gymnasium-robotics share: the library, and tasks with a goal vector."""

from __future__ import annotations

import contextlib
import functools
import io
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied_envs.gymnasium_simulator import GymnasiumSimulator, aim_overview
from embodied_envs.options import check_choice
from embodied_envs.simulated import SimulatedSuite
from embodied_envs.simulated_env import OVERVIEW

Reward = Literal["sparse", "dense"]


@dataclass(frozen=True)
class RoboticsSuite(SimulatedSuite):
    """Tasks of gymnasium-robotics, by the names that it registers.

    Attributes:
        reward: the library's "sparse" or "dense" reward.
    """

    cameras: tuple[int, ...] = (OVERVIEW,)
    reward: Reward = "sparse"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("reward", self.reward, ("sparse", "dense"))


@dataclass(frozen=True)
class GoalSuite(RoboticsSuite):
    """Tasks that are to reach a goal, drawn for each episode; it ends the state.

    Attributes:
        goal_visible: whether the state and the images show the goal; else its numbers are 0.
            Experts, and success, go by the real one.
    """

    goal_visible: bool = True

    @property
    def goal_dim(self) -> int:
        """How many numbers at the end of the state are the goal; 0 where there are only images."""
        return 0 if self.observation == "pixels" else self.catalogue()[self.tasks[0]].goal_dim


class GoalSimulator(GymnasiumSimulator):
    """A `Simulator` of a goal environment: (observation, goal), then the goal for experts alone.

    What marks the goal in the scene stands where the goal is from the reset on, and the simulation
    does not feel it. The library moves it when it draws, which changes the simulation's course.
    """

    def __init__(self, env: Any, goal_visible: bool) -> None:
        super().__init__(env)
        self._goal_visible = goal_visible

    def reset(self, seed: int) -> NDArray[np.float64]:
        observation = self._env.reset(seed=seed)[0]
        self._mark_goal(np.asarray(observation["desired_goal"], np.float64))
        return self._state(observation)

    def _state(self, observation: Any) -> NDArray[np.float64]:
        goal = observation["desired_goal"]
        if self._goal_visible:
            return np.concatenate([observation["observation"], goal])
        return np.concatenate([observation["observation"], np.zeros_like(goal), goal])

    def _mark_goal(self, goal: NDArray[np.float64]) -> None:
        """Shows a goal in the scene; nothing to do where the library does."""

    def _move_site(self, name: str, point: NDArray[np.float64]) -> None:
        """Puts a site of the model at a point of the world (3,) in m."""
        import mujoco  # type: ignore[import-untyped]

        site = self.model.site(name)
        body = self.data.body(int(site.bodyid[0]))
        site.pos[:] = body.xmat.reshape(3, 3).T @ (point - body.xpos)
        mujoco.mj_kinematics(self.model, self.data)

    def _hide(self, kind: str, *names: str) -> None:
        """Makes sites or geoms of the model invisible."""
        for name in names:
            part = getattr(self.model, kind)(name)
            part.rgba[3] = 0.0
            if kind == "geom":
                part.matid[:] = -1  # a material's colour would count


def open_env(task: str, **options: Any) -> Any:
    """The library's environment, its free camera where the library would look from."""
    _import_library()
    env: Any = gymnasium.make(task, disable_env_checker=True, **options)
    inner = env.unwrapped
    renderer = getattr(getattr(inner, "robot_env", inner), "mujoco_renderer", None)
    if renderer is not None:
        aim_overview(inner.model, renderer.default_cam_config)
    return env


def registered(task: str) -> Any:
    """What the library registers for a task (a `gymnasium.envs.registration.EnvSpec`)."""
    _import_library()
    return gymnasium.spec(task)


@functools.cache
def _import_library() -> None:
    """Imports gymnasium-robotics, or says how to install it."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # prints advice to use another version
            import gymnasium_robotics  # type: ignore[import-untyped]  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "these tasks need the package gymnasium-robotics: `pip install "
            "'embodied-policies[robotics]'`",
            name="gymnasium_robotics",
        ) from error
