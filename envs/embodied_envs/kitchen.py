"""Franka Kitchen, from gymnasium-robotics: an arm among doors, knobs, a switch and a kettle.

A task asks for one of seven sub-tasks, or for a set of four as in the relay demonstrations (Gupta
et al. 2019; arXiv:1910.11956). Success is all of them solved, in any order, each once. The library
counts a sub-task as solved within 0.3 of its goal, over all its joints. Each step tells two further
measures, those of BESO's evaluation (Reuss et al. 2023; arXiv:2304.02532): "reward", how many of
the seven are solved, and "result", how many of the task's.

Departures: episodes do not end when the task is solved, so that "reward" is counted to the horizon.
The library's info names the solved ones in a list that later steps and resets change; here each
step has its own numbers. The reward is the library's: the task's sub-tasks solved at the step.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from embodied.suites import Texts
from embodied_envs.catalogue import TaskFacts
from embodied_envs.gymnasium_simulator import GymnasiumSimulator
from embodied_envs.robotics import open_env
from embodied_envs.simulated import SimulatedSuite
from embodied_envs.simulated_env import OVERVIEW, Simulator, Transition

_ROBOT_NOISE, _OBJECT_NOISE = 0.01, 0.0005  # the library's
_ROBOT, _OBJECTS = slice(0, 9), slice(18, 39)  # positions in the library's observation (59,)
_TRAINED = ("{}", "please {}", "i want you to {}", "you should {}")
_HELD_OUT = ("your job is to {}", "see to it that you {}")


@dataclass(frozen=True)
class Kitchen(SimulatedSuite):
    """Sub-tasks, such as "kettle", and sets of four, such as "microwave_kettle_switch_slide".

    The state is (59,): positions (9) and velocities (9) of the robot's joints, positions (21) and
    velocities (20) of the kitchen's. Actions (9,) lie in [-1, 1], in units of 2 rad/s (2 m/s for
    the two fingers): where each joint is, as last sensed, plus that speed for one control step of
    0.08 s is where its motor is told to hold it. An action of 0 is no standstill, since the joints
    give way to gravity. All episodes start alike; a goal is a draw of the sensors' noise.

    Attributes:
        velocities: False leaves positions alone, (30,), as BESO has them: the robot's, then at 9:30
            the kitchen's, which are also what a goal state says.
        noise: of the sensors, in units of the library's; 0 makes all goals the same episode.
    """

    library: ClassVar[str] = "kitchen"

    tasks: tuple[str, ...] = ("microwave_kettle_switch_slide",)
    cameras: tuple[int, ...] = (OVERVIEW,)
    velocities: bool = True
    noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise < np.inf:
            raise ValueError(f"noise must be 0 or more, got {self.noise}")

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """The sub-tasks, then the sets of four."""
        return _catalogue(59 if self.velocities else 30)

    def open_simulator(self, task: str) -> Simulator:
        """A simulator of a task."""
        env = open_env(
            "FrankaKitchen-v1",
            tasks_to_complete=sorted(_elements("_".join(_kitchen()["subtasks"]))),
            terminate_on_tasks_completed=False,
            robot_noise_ratio=_ROBOT_NOISE * self.noise,
            object_noise_ratio=_OBJECT_NOISE * self.noise,
        )
        return _Simulator(env, _elements(task), self.velocities)

    def change_task(self, simulator: Simulator, task: str) -> Simulator:
        """The same kitchen, which takes a second to open, asked for another task."""
        assert isinstance(simulator, _Simulator)
        simulator.asked = _elements(task)
        return simulator


class _Simulator(GymnasiumSimulator):
    """The kitchen, in which all seven sub-tasks are watched and some are asked for."""

    def __init__(self, env: Any, asked: frozenset[str], velocities: bool) -> None:
        super().__init__(env)
        self.asked = asked  # the library's names of the task's sub-tasks
        self._velocities = velocities

    def step(self, action: NDArray[np.float64]) -> Transition:
        observation, _, _, _, info = self._env.step(action)
        solved = set(info["episode_task_completions"])
        result = len(solved & self.asked)
        measures = {
            "success": result == len(self.asked),
            "metrics": {"reward": float(len(solved)), "result": float(result)},
        }
        reward = len(self.asked.intersection(info["step_task_completions"]))
        return Transition(self._state(observation), float(reward), False, measures)

    def _state(self, observation: Any) -> NDArray[np.float64]:
        state = super()._state(observation["observation"])
        return state if self._velocities else np.concatenate([state[_ROBOT], state[_OBJECTS]])


def _elements(task: str) -> frozenset[str]:
    """What the library calls the sub-tasks of a task."""
    subtasks = _kitchen()["subtasks"]
    return frozenset(subtasks[name]["element"] for name in task.split("_"))


@functools.cache
def _kitchen() -> Mapping[str, Any]:
    text = (files("embodied_envs") / "assets" / "kitchen.json").read_text("utf-8")
    return dict(json.loads(text))


@functools.cache
def _catalogue(state_dim: int) -> Mapping[str, TaskFacts]:
    kitchen = _kitchen()
    return {
        task: TaskFacts(
            state_dim=state_dim,
            action_dim=9,
            rate_hz=12.5,
            max_steps=280,
            measure="success",
            threshold=1,
            texts=_texts([kitchen["subtasks"][name] for name in task.split("_")]),
        )
        for task in (*kitchen["subtasks"], *kitchen["sets"])
    }


def _texts(parts: Sequence[Mapping[str, Any]]) -> Texts:
    """Every frame around every list of phrases; held out are new frames, and new phrases."""
    lists = [
        _listed([part["phrases"][i] for part in parts], *link)
        for i in range(3)
        for link in ((", ", " and "), (", then ", ", then "))
    ]
    trained = [frame.format(each) for frame in _TRAINED for each in dict.fromkeys(lists)]
    new = _listed([part["held_out"] for part in parts], ", ", " and ")
    return Texts(
        canonical=trained[0],
        paraphrases=tuple(trained[1:]),
        held_out=(*(frame.format(lists[0]) for frame in _HELD_OUT), new),
    )


def _listed(phrases: Sequence[str], comma: str, final: str) -> str:
    """The phrases as a list in a sentence."""
    return final.join([comma.join(phrases[:-1]), phrases[-1]]) if phrases[1:] else phrases[0]
