"""Scenes of our own: objects from a file in `assets/scenes/` and a finger that moves among them.

A world is a `Scene` that says how its objects are placed, what is observed and what is judged; the
finger, the clock and the determinism lie here.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from embodied_envs.simulated_env import Transition
from embodied_envs.vitals import log_warnings

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]

RATE_HZ = 10.0
REACH = 0.03  # m that the finger moves in a control step at full speed, along each axis
AXES = ("x", "y", "z")


class Scene(ABC):
    """One task in a scene with a finger; a `Simulator`.

    Actions are (3,): the displacement of the finger's target along x, y and z, in units of `REACH`,
    each in [-1, 1]. The target stays within `bounds` and within `LEASH` of the finger, so that a
    finger that pushes against a wall comes back as soon as it is told to.

    Attributes:
        file: the scene's name in `assets/scenes/`; it includes `effector.xml`.
        bounds: least and greatest position of the fingertip, (2, 3) in m.
        start: where the fingertip is when an episode begins, (3,) in m.
        model: shared by nobody, so that an arrangement may change it.
    """

    LEASH: ClassVar[float] = 0.06
    file: ClassVar[str]
    bounds: ClassVar[tuple[tuple[float, float, float], tuple[float, float, float]]]
    start: ClassVar[tuple[float, float, float]]

    low = np.full(3, -1.0, np.float32)
    high = np.full(3, 1.0, np.float32)

    def __init__(self) -> None:
        import mujoco

        self.model: mujoco.MjModel = copy.copy(compiled_scene(self.file))
        self.data: mujoco.MjData = mujoco.MjData(self.model)
        self._substeps = round(1 / (RATE_HZ * self.model.opt.timestep))
        self._rails = np.array([self.model.joint(f"rail-{axis}").qposadr[0] for axis in AXES])
        self._motors = np.array([self.model.actuator(f"motor-{axis}").id for axis in AXES])
        self._target = np.array(self.start)

    @abstractmethod
    def arrange(self, random: np.random.Generator) -> None:
        """Places the objects in `data` (and `model`, all that an earlier arrangement changed)."""

    @abstractmethod
    def observe(self) -> NDArray[np.float64]:
        """What the policy sees of the scene, followed by what only experts see."""

    @abstractmethod
    def judge(self) -> tuple[float, Mapping[str, Any]]:
        """The reward of the step that was just made, and its info; called once for each step."""

    @property
    def scene(self) -> mujoco.MjData:
        return self.data

    @property
    def finger(self) -> NDArray[np.float64]:
        """Where the fingertip is, (3,) in m."""
        return np.array(self.data.qpos[self._rails])

    def reset(self, seed: int) -> NDArray[np.float64]:
        """Starts the episode that the seed alone decides; returns the observation."""
        import mujoco

        mujoco.mj_resetData(self.model, self.data)
        self._target = np.array(self.start)
        self.data.qpos[self._rails] = self._target
        self.data.ctrl[self._motors] = self._target
        self.arrange(np.random.default_rng(seed))
        mujoco.mj_forward(self.model, self.data)
        return self.observe()

    def step(self, action: NDArray[np.float64]) -> Transition:
        """Moves the finger's target, then lets a tenth of a second pass."""
        import mujoco

        finger = self.data.qpos[self._rails]
        target = np.clip(self._target + REACH * action, finger - self.LEASH, finger + self.LEASH)
        self._target = np.clip(target, *self.bounds)
        self.data.ctrl[self._motors] = self._target
        mujoco.mj_step(self.model, self.data, self._substeps)
        reward, info = self.judge()
        return Transition(self.observe(), reward, False, info)

    def close(self) -> None:  # noqa: B027  a world may hold nothing to free
        """Frees what a world holds beside memory."""


@functools.cache
def compiled_scene(file: str) -> mujoco.MjModel:
    """The model of a scene, shared by the whole process: copy it before any change."""
    import mujoco

    log_warnings()
    folder = files("embodied_envs") / "assets" / "scenes"
    return mujoco.MjModel.from_xml_path(str(folder / file))
