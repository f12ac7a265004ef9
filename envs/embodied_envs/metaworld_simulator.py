"""Meta-World's own simulators, built around a model that was compiled once per process.

Compiling a task's XML is most of the cost of building its simulator. Here the compiled model is
kept, every user works on a copy, and a reset costs a fresh simulator around the same copy: nothing
of an earlier episode can be left over.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embodied_envs.metaworld_lean import lean_class
from embodied_envs.vitals import log_warnings

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]
    from metaworld.policies.policy import Policy
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

CHANGED_BY_RESET = ("body_pos", "site_pos")
"""The arrays of a model that the library's resets write to; no other one is ever changed."""


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


@functools.cache
def compiled_model(task: str) -> mujoco.MjModel:
    """The task's model as compiled, shared by the whole process: copy it before any change."""
    return library_class(task)().model


def working_model(task: str) -> mujoco.MjModel:
    """A copy of the task's model to simulate with."""
    return copy.copy(compiled_model(task))


def restore_model(task: str, model: mujoco.MjModel) -> None:
    """Undoes what earlier resets did to a working model."""
    for name in CHANGED_BY_RESET:
        getattr(model, name)[:] = getattr(compiled_model(task), name)


def build_simulator(
    task: str,
    model: mujoco.MjModel,
    *,
    reward_version: str = "v2",
    make_class: Callable[[Any], Any] = lean_class,
) -> SawyerXYZEnv:
    """The library's simulator of a task, new but for its working model, which is restored.

    Args:
        make_class: makes a `Prepared` class of the library's.
    """
    restore_model(task, model)
    cls = make_class(library_class(task))
    simulator: SawyerXYZEnv = cls.__new__(cls)
    simulator.prepared_model = model  # type: ignore[attr-defined]
    simulator.__init__(reward_function_version=reward_version)  # type: ignore[misc]
    simulator._set_task_called = True
    return simulator


def aim(simulator: SawyerXYZEnv, vector: NDArray[np.float64]) -> None:
    """Fixes the next reset to a goal's random vector, with the goal in the observation."""
    simulator._freeze_rand_vec = True
    simulator._last_rand_vec = vector.copy()
    simulator._partially_observable = False
    del simulator.sawyer_observation_space  # its bounds are computed anew, with the goal's


def hide_goal_markers(model: mujoco.MjModel) -> None:
    """Makes the drawn targets transparent; their names all contain "goal"."""
    for index in range(model.nsite):
        if "goal" in model.site(index).name:
            model.site_rgba[index, 3] = 0.0
