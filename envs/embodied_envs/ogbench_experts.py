"""OGBench's scripted oracles as experts: they do one sub-task after the other.

The oracles are the library's (`ogbench.manipspace.oracles`); which sub-task they are given is ours.
They draw from NumPy's global generator; here that is seeded for them and restored afterwards.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embodied_envs.ogbench_plans import Subtask
from embodied_envs.ogbench_scene import SLIDES, Scene, World, scene_dim

ACTION_SCALE = np.array([0.05, 0.05, 0.05, 0.3, 1.0])
"""What an action of 1 asks for in a step: metres, radians, and the gripper's whole stroke."""
CONTROL_S = 0.05
_FINAL_HEIGHT = {"window": 0.32}  # m, above what the oracle calls released
_USUAL_HEIGHT = 0.22

Choose = Callable[[Scene, World, np.random.Generator], Subtask | None]


class OracleExpert:
    """Acts as the library's oracle for what `choose` names next; a `Player`.

    "markov" oracles look where things are at every step, and come to rest above what they moved, so
    that their ways are easy to imitate. "plan" oracles follow a noisy plan that they draw when they
    begin, and end anywhere, as in the library's play data.
    """

    def __init__(
        self, world: World, choose: Choose, style: Literal["markov", "plan"], seed: int
    ) -> None:
        self._world, self._choose, self._style = world, choose, style
        self._random = np.random.default_rng(seed)
        self._oracle: Any = None
        self._subtask: Subtask | None = None
        self._steps = 0
        self.pursuits: list[tuple[int, str]] = []

    def __call__(self, observation: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """From an environment's `full_observation` to an action (5,)."""
        vector = np.asarray(observation[-scene_dim(self._world) :], np.float64)
        scene = Scene.from_vector(vector, self._world)
        if self._oracle is None or self._oracle.done:
            self._begin(scene)
        self._steps += 1
        if self._subtask is None:  # nothing is left to do
            return np.zeros(5, np.float32)
        action = self._oracle.select_action(None, _info(scene, self._subtask))
        return np.asarray(np.clip(action, -1.0, 1.0), np.float32)

    def _begin(self, scene: Scene) -> None:
        self._oracle, self._subtask = None, self._choose(scene, self._world, self._random)
        if self._subtask is None:
            return
        self.pursuits.append((self._steps, self._subtask.words))
        self._oracle = _oracle(self._subtask.kind, self._style, self._world)
        with _global_seed(int(self._random.integers(2**32))):
            self._oracle.reset(None, _info(scene, self._subtask))
        if self._style == "markov":
            height = _FINAL_HEIGHT.get(self._subtask.kind, _USUAL_HEIGHT)
            self._oracle._final_pos = np.array([*_place(scene, self._subtask)[:2], height])
            self._oracle._final_yaw = scene.arm[3]


class _Arm:
    """The part of the library's environment that its oracles ask for."""

    def __init__(self, world: World) -> None:
        self._arm_sampling_bounds = np.array(world.arm)
        self._control_timestep = CONTROL_S

    @property
    def unwrapped(self) -> _Arm:
        return self

    def normalize_action(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.clip(action / ACTION_SCALE, -1.0, 1.0))


def _oracle(kind: str, style: str, world: World) -> Any:
    module = importlib.import_module(f"ogbench.manipspace.oracles.{style}.{kind}_{style}")
    make = getattr(module, f"{kind.capitalize()}{style.capitalize()}Oracle")
    closed = {"gripper_always_closed": True} if world.grid != (0, 0) else {}
    return make(env=_Arm(world), **closed)


def _info(scene: Scene, subtask: Subtask) -> dict[str, Any]:
    """A scene in the library's words, as far as the oracle of a sub-task reads them."""
    info: dict[str, Any] = {
        "proprio/effector_pos": scene.arm[:3],
        "proprio/effector_yaw": scene.arm[3:4],
        "proprio/gripper_opening": scene.arm[4:5],
        "proprio/gripper_contact": scene.arm[5:6],
        "time": scene.arm[6:7],
    }
    kind, index, target = subtask.kind, subtask.index, np.array(subtask.target)
    if kind == "cube":
        info["privileged/target_block"] = index
        info[f"privileged/block_{index}_pos"] = scene.cubes[index, :3]
        info[f"privileged/block_{index}_yaw"] = scene.cubes[index, 3:]
        place = scene.cubes[index, :3]
        near = np.linalg.norm(place - target[:3]) < subtask.slack
        info["privileged/target_block_pos"] = place if near else target[:3]
        info["privileged/target_block_yaw"] = target[3:]
    elif kind == "button":
        info["privileged/target_button"] = index
        info["privileged/target_button_top_pos"] = scene.buttons[index, 1:]
        info["privileged/target_button_state"] = target[0]
        info[f"privileged/button_{index}_state"] = scene.buttons[index, 0]
    else:
        info[f"privileged/{kind}_handle_pos"] = _handle(scene, kind)[1:4]
        info[f"privileged/{kind}_handle_yaw"] = _handle(scene, kind)[4:]
        info[f"privileged/target_{kind}_handle_pos"] = _place(scene, subtask)
    return info


def _handle(scene: Scene, kind: str) -> NDArray[np.float64]:
    handle: NDArray[np.float64] = scene.slides[SLIDES.index(kind)]
    return handle


def _place(scene: Scene, subtask: Subtask) -> NDArray[np.float64]:
    """Where a sub-task ends: the position of what was moved or pressed."""
    if subtask.kind == "cube":
        return np.array(subtask.target[:3])
    if subtask.kind == "button":
        return scene.buttons[subtask.index, 1:]
    handle = _handle(scene, subtask.kind)
    axis = [0.0, -1.0, 0.0] if subtask.kind == "drawer" else [1.0, 0.0, 0.0]
    return np.asarray(handle[1:4] + (subtask.target[0] - handle[0]) * np.array(axis))


@contextlib.contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator for a while."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
