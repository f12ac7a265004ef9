"""A tabletop of blocks, zones, a drawer and a button, where only the words say what is to be done.

After Language-Table (Lynch et al. 2022, arXiv:2210.06407), whose tasks are short pushes named in
free words, and Block-Push (Florence et al. 2021, arXiv:2109.00137; two blocks: Shafiullah et al.
2022, arXiv:2206.11251), whose demonstrations do one thing in several ways. Departures: a finger on
rails with height instead of an arm's planar tool, and tasks of both in one scene.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from embodied.suites import Expert, Hand
from embodied_envs.catalogue import TaskFacts
from embodied_envs.options import check_choice
from embodied_envs.scene import RATE_HZ
from embodied_envs.simulated import SimulatedSuite
from embodied_envs.simulated_env import Simulator
from embodied_envs.tabletop_experts import TabletopExpert, TabletopPlayer
from embodied_envs.tabletop_scene import TabletopScene
from embodied_envs.tabletop_tasks import PLAY, STATE_DIM, TASKS, Task
from embodied_envs.tabletop_text import tabletop_texts

MAX_STEPS = 200
CAMERAS = ("front", "top", "side")


@dataclass(frozen=True)
class Tabletop(SimulatedSuite):
    """Push coloured blocks to zones, blocks and sides; open and close a drawer; press a button.

    Any task may be asked for in any arrangement, and goal i of a benchmark seed is the same
    arrangement for all of them. Actions are (3,), the displacement of the finger's target in units
    of 3 cm, in [-1, 1]; for the state see `embodied_envs.tabletop_tasks.View`. Episodes terminate
    with the task and are truncated after 200 steps, which are 20 s. `info["metrics"]` has those of
    `TabletopScene`.

    Attributes:
        tasks: any of `embodied_envs.tabletop_tasks.TASKS`; all of them by default.
        cameras: any of `CAMERAS`, or their numbers.
    """

    library: ClassVar[str] = "tabletop"
    camera_names: ClassVar[tuple[str, ...]] = CAMERAS

    tasks: tuple[str, ...] = tuple(TASKS)
    cameras: tuple[int | str, ...] = ("front",)

    @property
    def name(self) -> str:
        return "tabletop" if self.tasks == tuple(TASKS) else super().name

    @property
    def hand(self) -> Hand:
        """The fingertip."""
        return Hand()

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """All tasks; success is that all parts of one are done."""
        return _catalogue()

    def open_simulator(self, task: str) -> TabletopScene:
        """The scene, judged by the task."""
        return TabletopScene(TASKS[task])

    def change_task(self, simulator: Simulator, task: str) -> Simulator:
        """The same simulator: one scene serves all tasks."""
        assert isinstance(simulator, TabletopScene)
        simulator.task = TASKS[task]
        return simulator

    def expert(self, task: str, *, seed: int = 0) -> Expert:
        """Takes the state (S,); the seed draws its way."""
        check_choice("task", task, self.tasks)
        return TabletopExpert(TASKS[task], seed=seed)

    def playground(self, steps: int) -> Playground:
        """The same tabletop with nothing to be done."""
        inherited = (
            "observation",
            "cameras",
            "image_size",
            "render_profile",
            "action_repeat",
            "num_goals",
        )
        fields = {name: getattr(self, name) for name in inherited}
        return Playground(pursued=self.tasks, steps=steps, **fields)


@dataclass(frozen=True)
class Playground(Tabletop):
    """The tabletop without a task; its expert is a `Player`.

    Attributes:
        pursued: the tasks among which the player chooses.
        steps: how many an episode has.
    """

    tasks: tuple[str, ...] = (PLAY,)
    pursued: tuple[str, ...] = tuple(TASKS)
    steps: int = 1000

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """Play, which never succeeds."""
        facts = _facts(Task("play"))
        return {PLAY: dataclasses.replace(facts, max_steps=self.steps * self.action_repeat)}

    def open_simulator(self, task: str) -> TabletopScene:
        """The scene, judged by nobody."""
        return TabletopScene(Task("play"))

    def expert(self, task: str, *, seed: int = 0) -> TabletopPlayer:
        """Takes the state (S,); the seed draws what is pursued, and how."""
        check_choice("task", task, self.tasks)
        words = {name: tabletop_texts(TASKS[name]).trained for name in self.pursued}
        return TabletopPlayer(words, seed=seed)


@functools.cache
def _catalogue() -> Mapping[str, TaskFacts]:
    return {name: _facts(task) for name, task in TASKS.items()}


def _facts(task: Task) -> TaskFacts:
    return TaskFacts(
        state_dim=STATE_DIM,
        action_dim=3,
        rate_hz=RATE_HZ,
        max_steps=MAX_STEPS,
        measure="result",
        threshold=1.0,
        texts=tabletop_texts(task),
    )
