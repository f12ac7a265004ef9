"""Gymnasium's MuJoCo tasks, version 5: locomotion, pendulums and two arms.

Observations, rewards and terminations are the library's own. Success is a return so far at the
`reward_threshold` that Gymnasium registers, where it registers one. For Walker2d, Humanoid and
HumanoidStandup it registers none, and for Reacher and Pusher, whose rewards are negative, a return
tells nothing before the end: their standards are ours. The arms succeed at a step that ends with
the distance to the goal below 2 cm (Reacher) or 5 cm (Pusher).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied_envs.catalogue import TaskFacts, read_catalogue
from embodied_envs.gymnasium_simulator import GymnasiumSimulator
from embodied_envs.simulated import SimulatedSuite
from embodied_envs.simulated_env import Simulator, Transition


@dataclass(frozen=True)
class GymMujoco(SimulatedSuite):
    """Gymnasium's MuJoCo tasks by the names that it registers, such as "HalfCheetah-v5".

    Actions lie in the bounds of the motors, at most [-3, 3]. See `SimulatedSuite` for the other
    fields.

    Attributes:
        measured: parts of the reward by the library's names, such as "reward_forward" and
            "reward_ctrl", whose sums over the episode `metrics` tell: objectives of their own.
            With env.backend=python alone.
    """

    library: ClassVar[str] = "gym_mujoco"

    tasks: tuple[str, ...] = ("HalfCheetah-v5",)
    measured: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "measured", tuple(self.measured))

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """All tasks of the library."""
        return read_catalogue("gym_mujoco")

    def open_simulator(self, task: str) -> Simulator:
        """A simulator of a task."""
        env = gymnasium.make(task, disable_env_checker=True)
        return MeasuredSimulator(env, self.measured) if self.measured else GymnasiumSimulator(env)


class MeasuredSimulator(GymnasiumSimulator):
    """A simulator whose `metrics` are sums of parts of the reward over the episode so far."""

    def __init__(self, env: Any, measured: Sequence[str]) -> None:
        super().__init__(env)
        self._totals = dict.fromkeys(measured, 0.0)

    def reset(self, seed: int) -> NDArray[np.float64]:
        self._totals = dict.fromkeys(self._totals, 0.0)
        return super().reset(seed)

    def step(self, action: NDArray[np.float64]) -> Transition:
        """Raises KeyError naming a part that the library does not tell."""
        found = super().step(action)
        for name in self._totals:
            if name not in found.info:
                raise KeyError(
                    f"the simulator tells {sorted(found.info)} and not {name!r}; choose "
                    "task.suite.measured among them"
                )
            self._totals[name] += float(found.info[name])
        info = {**found.info, "metrics": dict(self._totals)}
        return found._replace(info=info)
