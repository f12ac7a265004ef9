"""Environments with Gymnasium's interface and a MuJoCo model, as simulators of a suite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embodied_envs.simulated_env import Simulator, Transition
from embodied_envs.vitals import log_warnings

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]


class GymnasiumSimulator(Simulator):
    """A `Simulator` of an environment, without its wrappers and so without a limit on time."""

    def __init__(self, env: Any) -> None:
        log_warnings()
        self._env = env.unwrapped
        self.low: NDArray[np.float32] = self._env.action_space.low.astype(np.float32)
        self.high: NDArray[np.float32] = self._env.action_space.high.astype(np.float32)

    @property
    def model(self) -> mujoco.MjModel:
        return self._env.model

    @property
    def data(self) -> mujoco.MjData:
        return self._env.data

    def reset(self, seed: int) -> NDArray[np.float64]:
        return self._state(self._env.reset(seed=seed)[0])

    def step(self, action: NDArray[np.float64]) -> Transition:
        observation, reward, terminated, _, info = self._env.step(action)
        return Transition(self._state(observation), float(reward), bool(terminated), info)

    def close(self) -> None:
        self._env.close()

    def _state(self, observation: Any) -> NDArray[np.float64]:
        """The library's observation as a vector."""
        return np.asarray(observation, np.float64)


def aim_overview(model: mujoco.MjModel, view: Mapping[str, Any]) -> None:
    """Points the free camera of a model, as `lookat`, `distance`, `azimuth` and `elevation` say.

    They are in m and degrees, as in Gymnasium's camera configurations; what is left out stays.
    """
    view = {"lookat": model.stat.center, "distance": 1.5 * model.stat.extent, **view}
    model.stat.center[:] = view["lookat"]
    model.stat.extent = view["distance"] / 1.5  # MuJoCo's free camera keeps that distance
    model.vis.global_.azimuth = view.get("azimuth", model.vis.global_.azimuth)
    model.vis.global_.elevation = view.get("elevation", model.vis.global_.elevation)
