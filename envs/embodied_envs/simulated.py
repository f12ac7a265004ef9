"""The tasks of a MuJoCo library as a suite: what adapters to such libraries share.

An adapter is a `SimulatedSuite` that opens a `Simulator` for a task; everything between that and
the environment's contract (goals, success, action repeat, pixels, instability) lies here and in
`simulated_env`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from embodied.suites import Expert, NoExpertError, Texts
from embodied_envs.catalogue import Sizes, TaskFacts, common_sizes
from embodied_envs.options import check_choice, checked_size
from embodied_envs.rendering import PROFILES
from embodied_envs.simulated_env import OVERVIEW, SimulatedEnv, Simulator


@dataclass(frozen=True)
class SimulatedSuite(ABC):
    """Tasks of equal sizes from a library without scripted experts; a `Suite`.

    Goal i of a benchmark seed is an initial state, drawn with a seed made of both. Episodes are
    truncated at the library's horizon and terminate where the library says so.

    Attributes:
        tasks: names of the library's tasks; one policy serves all, so their sizes must agree.
        observation: what the policy senses: "state" is the library's vector; "pixels" is images
            with what the robot senses of itself as the state: the length and the velocity of each
            actuator (2A,), or a part of the vector (`TaskFacts.own`); "mixed" is images with the
            library's vector.
        cameras: numbers or names of cameras of the model, the first one drawn by `render`; a number
            is observed as "camera0" and so on, a name as itself. -1 is the scene from a distance,
            observed as "overview"; so is 0 where a model has no camera.
        image_size: (h, w) of an observed image in pixels.
        render_profile: how observed images are drawn (see `embodied_envs.rendering.PROFILES`).
        action_repeat: control steps for which an action is held; their rewards are summed.
        num_goals: how many initial states a benchmark seed has.
        success_threshold: replaces that of the tasks (see `TaskFacts`).
    """

    library: ClassVar[str]
    camera_names: ClassVar[tuple[str, ...]] = ()  # where they are the same in all tasks

    tasks: tuple[str, ...]
    observation: Literal["state", "pixels", "mixed"] = "state"
    cameras: tuple[int | str, ...] = (0,)
    image_size: tuple[int, int] = (84, 84)
    render_profile: str = "faithful"
    action_repeat: int = 1
    num_goals: int = 50
    success_threshold: float | None = None

    @abstractmethod
    def catalogue(self) -> Mapping[str, TaskFacts]:
        """All tasks of the library."""

    @abstractmethod
    def open_simulator(self, task: str) -> Simulator:
        """A simulator of one of the tasks; imports the library."""

    def change_task(self, simulator: Simulator, task: str) -> Simulator:
        """A simulator of another task, in place of a given one, which is not used again."""
        simulator.close()
        return self.open_simulator(task)

    def __post_init__(self) -> None:
        for name in ("tasks", "cameras"):  # a configuration file gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name at least one")
        object.__setattr__(self, "image_size", checked_size(self.image_size))
        for task in self.tasks:
            check_choice("task", task, tuple(self.catalogue()))
        check_choice("observation", self.observation, ("state", "pixels", "mixed"))
        check_choice("render_profile", self.render_profile, tuple(PROFILES))
        for name, least in (("action_repeat", 1), ("num_goals", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if any(isinstance(camera, int) and camera < OVERVIEW for camera in self.cameras):
            raise ValueError(f"cameras must be names or numbers from -1, got {self.cameras}")
        for camera in self.cameras if self.camera_names else ():
            if camera not in range(OVERVIEW, len(self.camera_names)):
                check_choice("camera", camera, self.camera_names)
        common_sizes({task: self._sizes_of(task) for task in self.tasks})

    def _sizes_of(self, task: str) -> Sizes:
        facts = self.catalogue()[task]
        state_dim = facts.own_dim if self.observation == "pixels" else facts.state_dim
        return Sizes(state_dim, facts.action_dim, facts.rate_hz, facts.max_steps)

    @property
    def sizes(self) -> Sizes:
        """What the tasks have in common, before any action repeat."""
        return self._sizes_of(self.tasks[0])

    @property
    def name(self) -> str:
        return f"{self.library}/{'+'.join(self.tasks)}"

    @property
    def image_profile(self) -> str | None:
        """The render profile of what the policy observes; None where it observes no images."""
        return None if self.observation == "state" else self.render_profile

    @property
    def max_steps(self) -> int:
        return math.ceil(self.sizes.max_steps / self.action_repeat)

    @property
    def rate_hz(self) -> float:
        return self.sizes.rate_hz / self.action_repeat

    def texts(self, task: str) -> Texts:
        """The wordings of a task."""
        check_choice("task", task, self.tasks)
        return self.catalogue()[task].texts

    def make_env(self, *, render_size: tuple[int, int] | None = None) -> SimulatedEnv:
        """An environment that can run every task; `render_size` is (h, w) in pixels."""
        return SimulatedEnv(self, render_size)

    def expert(self, task: str, *, seed: int = 0) -> Expert:
        """Raises NoExpertError: the library has none."""
        raise NoExpertError(
            f"{self.name} has no scripted expert, so nobody can demonstrate {task}: name episodes "
            "recorded elsewhere as task.episodes, with task.collect=null, or say who else acts with"
            " behaviour=random, run or another (docs/rewards.md)"
        )
