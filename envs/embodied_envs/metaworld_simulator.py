"""Meta-World's own simulators, built around a model that was compiled once per process.

Every simulator works on a copy of the compiled model. A reset restores all that an episode can
change, so nothing of an earlier one is left over, and a simulator that is not needed for now can be
put aside for the next user.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embodied_envs.metaworld_lean import lean_class
from embodied_envs.metaworld_models import compiled_model
from embodied_envs.vitals import log_warnings

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]
    from metaworld.policies.policy import Policy
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

STIRRED_BY_PLACING = frozenset(
    f"{name}-v3"
    for name in (
        *("box-close", "disassemble", "door-lock", "door-unlock", "handle-press-side"),
        *("handle-press", "handle-pull-side", "handle-pull", "lever-pull", "peg-unplug-side"),
    )
)
"""The tasks in which what a reset moves touches or pushes something while the hand settles."""


class Kind(NamedTuple):
    """What tells one simulator from another."""

    task: str
    reward_version: str = "v2"
    goal_drawn: bool = True


def library_class(task: str) -> type[SawyerXYZEnv]:
    """The library's class of a task. The first call imports MuJoCo."""
    log_warnings()
    from metaworld.env_dict import ENV_CLS_MAP

    found: type[SawyerXYZEnv] = ENV_CLS_MAP[task]
    return found


def library_policy(task: str) -> Policy:
    """The library's scripted policy of a task; it keeps no state between steps."""
    log_warnings()  # the policies import MuJoCo as well
    from metaworld.policies import ENV_POLICY_MAP

    build: Callable[[], Policy] = ENV_POLICY_MAP[task]
    return build()


def build_simulator(kind: Kind, make_class: Callable[[Any], Any] = lean_class) -> SawyerXYZEnv:
    """The library's simulator of a task around a model of its own.

    Args:
        make_class: makes a `Prepared` class of the library's.
    """
    cls: Any = make_class(library_class(kind.task))
    simulator: SawyerXYZEnv = cls.__new__(cls)
    model = copy.copy(compiled_model(kind.task))
    if not kind.goal_drawn:
        _hide_goal_markers(model)
    simulator.prepared_model = model  # type: ignore[attr-defined]
    simulator.__init__(reward_function_version=kind.reward_version)  # type: ignore[misc]
    simulator._set_task_called = True
    return simulator


_idle: dict[Kind, SawyerXYZEnv] = {}


def take_simulator(kind: Kind) -> SawyerXYZEnv:
    """A simulator that nobody else uses, and that the next reset makes as good as new."""
    simulator = _idle.pop(kind, None)
    if simulator is None:
        simulator = build_simulator(kind)
        simulator.placing_stirs = kind.task in STIRRED_BY_PLACING  # type: ignore[attr-defined]
        simulator.remember_as_new()  # type: ignore[attr-defined]
    return simulator


def put_aside(kind: Kind, simulator: SawyerXYZEnv) -> None:
    """Keeps a simulator for the next who takes one; at most one of a kind, of about 25 MB."""
    _idle[kind] = simulator


def start(simulator: SawyerXYZEnv, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Resets to a goal's random vector; the observation (39,) has the goal."""
    simulator._last_rand_vec = vector.copy()
    observation: NDArray[np.float64] = simulator.reset()[0]
    return observation


def _hide_goal_markers(model: mujoco.MjModel) -> None:
    """Makes the drawn targets transparent; their names all contain "goal"."""
    for index in range(model.nsite):
        if "goal" in model.site(index).name:
            model.site_rgba[index, 3] = 0.0
