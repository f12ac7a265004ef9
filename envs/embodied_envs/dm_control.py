"""DM Control: the suite's 51 tasks and 13 manipulation tasks, from state or pixels.

Observations (flattened in the library's order), rewards and episodes are the library's own. It
defines no success; the standard here is ours. A task of the suite counts as done when the return so
far reaches 800 of the 1000 that an episode can give, not at a step with a high reward: many tasks
begin near full reward and are about keeping it. A manipulation task counts as done at a step whose
reward is 0.95 of 1 or more, and `lqr`, whose episodes may end early, at one of 0.999 or more.

Departures: in the library `lqr` bounds neither actions nor time, and draws its system of masses for
each environment; here actions lie in [-1, 1], episodes have 1000 steps, and the system is fixed.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from embodied_envs.catalogue import TaskFacts, read_catalogue
from embodied_envs.simulated import SimulatedSuite
from embodied_envs.simulated_env import Simulator, Transition, UnstableError

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]

MANIPULATION = "manipulation"
_LARGEST = 1e3  # an action bound beyond that is none


@dataclass(frozen=True)
class DMControl(SimulatedSuite):
    """Tasks of DM Control, named "<domain>-<task>", such as "walker-walk".

    Those of the robot arm are "manipulation-<task>", such as "manipulation-lift_brick", with the
    library's feature observations. Actions lie in [-1, 1], for the arm in its joints' bounds
    (rad/s). See `SimulatedSuite` for the other fields.
    """

    library: ClassVar[str] = "dm_control"

    tasks: tuple[str, ...] = ("walker-walk",)

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """All tasks of the library, the suite's first."""
        return read_catalogue("dm_control")

    def open_simulator(self, task: str) -> Simulator:
        """A simulator of a task."""
        domain, _, name = task.partition("-")
        random = np.random.RandomState(0)  # the library knows no other kind
        if domain == MANIPULATION:
            return _Simulator(_load_manipulation(f"{name}_features", random), random)
        return _Simulator(_load_suite(domain, name, random), random)


class _Simulator(Simulator):
    """A dm_control environment; its own limit on time is off."""

    def __init__(self, env: Any, random: np.random.RandomState) -> None:
        self._env = env
        self._random = random  # the one that the environment draws from
        spec = env.action_spec()
        unbounded = (spec.minimum < -_LARGEST) | (spec.maximum > _LARGEST)
        self.low = np.where(unbounded, -1.0, spec.minimum).astype(np.float32)
        self.high = np.where(unbounded, 1.0, spec.maximum).astype(np.float32)

    @property
    def model(self) -> mujoco.MjModel:
        return self._env.physics.model.ptr

    @property
    def data(self) -> mujoco.MjData:
        return self._env.physics.data.ptr

    def reset(self, seed: int) -> NDArray[np.float64]:
        self._random.seed(seed)
        order = getattr(self._env.task, "_initial_order", None)
        if order is not None:  # of a tower of bricks; the last episode's would be shuffled on
            order.sort()
        return _flat(self._env.reset().observation)

    def step(self, action: NDArray[np.float64]) -> Transition:
        from dm_control.rl.control import PhysicsError

        try:
            step = self._env.step(action)
        except PhysicsError as error:
            raise UnstableError(" ".join(str(error).split())) from error
        # Without a limit on time, a last step is one that ends the task.
        return Transition(_flat(step.observation), float(step.reward), step.last(), {})

    def close(self) -> None:
        self._env.close()


def _flat(observation: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.concatenate([np.ravel(x) for x in observation.values()]).astype(np.float64)


def _load_suite(domain: str, name: str, random: np.random.RandomState) -> Any:
    import_library()
    from dm_control import suite

    env = suite.load(domain, name, {"random": random, "time_limit": float("inf")})
    if domain == "quadruped":
        _mend_quadruped(env.physics)
    return env


def _load_manipulation(name: str, random: np.random.RandomState) -> Any:
    import_library()
    from dm_control import composer, manipulation  # noqa: F401  the second fills the registry
    from dm_control.manipulation.shared import registry

    return composer.Environment(registry.get_constructor(name)(), random_state=random)


@functools.cache
def import_library() -> None:
    """Imports dm_control, or says how to install it."""
    try:
        import dm_control
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "these tasks need the package dm-control. It is installed with this one, "
            "but for Python 3.13, where its dependency labmaze has no wheel; there use `pip "
            "install --no-deps dm-control==1.0.28 dm-env dm-tree lxml pyparsing protobuf`",
            name="dm_control",
        ) from error
    with _without_its_renderer():
        import dm_control.mujoco  # noqa: F401


@contextlib.contextmanager
def _without_its_renderer() -> Iterator[None]:
    """The library binds OpenGL when imported and warns where there is no display; we draw."""
    import mujoco  # noqa: F401  binds by the setting as it is

    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        yield
    finally:
        del os.environ["MUJOCO_GL"]
        if before is not None:
            os.environ["MUJOCO_GL"] = before


def _mend_quadruped(physics: Any) -> None:
    """Works around two faults of the quadruped in dm_control 1.0.28.

    It calls np.in1d, which NumPy 2.4 removed, and a reset of its task `escape` opens a window of
    the library's own renderer, only to show it the new terrain.
    """
    physics.__class__ = _mended_quadruped()


@functools.cache
def _mended_quadruped() -> Any:
    from dm_control.suite import quadruped

    return type("Physics", (quadruped.Physics,), {"_get_sensor_names": _names, "contexts": None})


def _names(physics: Any, *types: int) -> list[str]:
    """Names of the sensors of some types, in the model's order."""
    indices = np.flatnonzero(np.isin(physics.model.sensor_type, types))
    return [physics.model.id2name(index, "sensor") for index in indices]
