"""Meta-World's own simulators, built around a model that was compiled once per process.

Compiling a task's XML is most of the cost of building its simulator. Here the compiled model is
kept, every user works on a copy, and a reset costs a fresh simulator around the same copy: nothing
of an earlier episode can be left over.
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

CHANGED_BY_RESET = ("body_pos", "site_pos")
"""The arrays of a model that the library's resets write to; no other one is ever changed."""


class Prepared:
    """Mixed into a task's class: takes a finished model instead of compiling the XML."""

    prepared_model: mujoco.MjModel

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        import mujoco

        return self.prepared_model, mujoco.MjData(self.prepared_model)


def library_class(task: str) -> type[SawyerXYZEnv]:
    """The library's class of a task. Chooses the rendering backend before MuJoCo is imported."""
    from embodied_envs.rendering import choose_backend

    choose_backend()
    from metaworld.env_dict import ENV_CLS_MAP

    found: type[SawyerXYZEnv] = ENV_CLS_MAP[task]
    return found


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


@functools.cache
def _mixed(task: str, mixin: type) -> type[Any]:
    return type(mixin.__name__, (mixin, library_class(task)), {})


def build_simulator(
    task: str,
    model: mujoco.MjModel,
    *,
    reward_version: str = "v2",
    mixin: type[Prepared] = Prepared,
) -> SawyerXYZEnv:
    """The library's simulator of a task, new but for its working model, which is restored."""
    restore_model(task, model)
    cls = _mixed(task, mixin)
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
