"""Shoves: a block is to be moved by so much in some direction, from wherever it lies.

What is asked is a change, which a goal alone does not show: the start varies by more than a shove
is long. A world for GRIF (Myers et al. 2023, arXiv:2307.00117), whose instructions are aligned with
the change from start to goal.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from embodied.suites import Expert, Texts
from embodied_envs.catalogue import TaskFacts
from embodied_envs.options import check_choice
from embodied_envs.pushing import HIGH, Area, Vector, push
from embodied_envs.scene import RATE_HZ, REACH, Scene
from embodied_envs.simulated import SimulatedSuite
from embodied_envs.simulated_env import Simulator

BLOCKS = ("red", "blue")
DIRECTIONS: Mapping[str, float] = {  # degrees from the right, seen from the user's side
    "right": 0,
    "forward-right": 45,
    "forward": 90,
    "forward-left": 135,
    "left": 180,
    "backward-left": 225,
    "backward": 270,
    "backward-right": 315,
}
AMOUNTS: Mapping[str, tuple[float, float, float]] = {  # m: least, what experts do, most
    "little": (0.025, 0.05, 0.08),
    "far": (0.095, 0.125, 0.17),
}
MAX_TURN = np.radians(22.5)  # between what is asked and what is done: half of what tells them apart
STAYS = 0.03  # m by which the other block may move
LIFTED = 0.05  # m of the fingertip from which a shove counts as over
STATE_DIM = 6 + 6 * len(BLOCKS)
MAX_STEPS = 120
CAMERAS = ("front", "top")

_BLOCK_AREA = ((-0.14, -0.11), (0.14, 0.15))  # m, of the centres at the start
_APART = 0.11  # m between them
_FINGER_AREA = ((-0.25, -0.22), (0.25, 0.26))
_AREA = Area(
    edge=np.array([[-0.308, -0.268], [0.308, 0.308]]),
    inner=np.array([[-0.29, -0.25], [0.29, 0.29]]),
)
_SURE = 0.008  # m from where a block should be, at which experts are content


@dataclass(frozen=True)
class Shove:
    """Move `block` in a direction (degrees) by an amount."""

    block: str
    direction: str
    amount: str

    @property
    def change(self) -> Vector:
        """What an expert does, (2,) in m."""
        angle = np.radians(DIRECTIONS[self.direction])
        return AMOUNTS[self.amount][1] * np.array([np.cos(angle), np.sin(angle)])

    def is_done(self, change: Vector) -> bool:
        """Whether a change (2,) in m is what is asked."""
        least, _, most = AMOUNTS[self.amount]
        length = float(np.hypot(*change))
        return least <= length <= most and self._turn(change, length) <= MAX_TURN

    def _turn(self, change: Vector, length: float) -> float:
        asked = self.change / AMOUNTS[self.amount][1]
        return float(np.arccos(np.clip(change @ asked / max(length, 1e-9), -1, 1)))


SHOVES: Mapping[str, Shove] = {
    f"shove-{block}-{direction}-{amount}": Shove(block, direction, amount)
    for block, direction, amount in itertools.product(BLOCKS, DIRECTIONS, AMOUNTS)
}


class ShoveScene(Scene):
    """Two blocks on a table.

    Episodes terminate with the task, which is done when the finger is up and the block lies where
    it should. Info holds `result`, 1.0 when it is.

    Args:
        shared: whether a seed's arrangement is the same whatever the task.

    Attributes:
        shove: what is judged; may be replaced before a reset.
    """

    file = "shoves.xml"
    bounds = ((-0.31, -0.27, 0.006), (0.31, 0.31, 0.14))
    start = (0.0, -0.2, HIGH)

    def __init__(self, shove: Shove, *, shared: bool = True) -> None:
        super().__init__()
        self.shove, self._shared = shove, shared
        joints = [self.model.joint(f"{name}-block") for name in BLOCKS]
        self._blocks = np.array([joint.qposadr[0] for joint in joints])
        self._begun = np.zeros((len(BLOCKS), 2))

    def arrange(self, random: np.random.Generator) -> None:
        """Puts finger and blocks at random places."""
        if not self._shared:
            random = random.spawn(len(SHOVES))[list(SHOVES.values()).index(self.shove)]
        self._target = np.array([*random.uniform(*_FINGER_AREA), HIGH])
        self.data.qpos[self._rails] = self.data.ctrl[self._motors] = self._target
        places = random.uniform(*_BLOCK_AREA, (len(BLOCKS), 2))
        while np.linalg.norm(places[0] - places[1]) < _APART:
            places = random.uniform(*_BLOCK_AREA, (len(BLOCKS), 2))
        halves = random.uniform(-np.pi, np.pi, len(BLOCKS)) / 2
        for address, place, half in zip(self._blocks, places, halves, strict=True):
            self.data.qpos[address : address + 2] = place
            self.data.qpos[address + 3 : address + 7] = np.cos(half), 0.0, 0.0, np.sin(half)
        self._begun = places

    @property
    def _places(self) -> Vector:
        return np.array([self.data.qpos[a : a + 2] for a in self._blocks])

    def observe(self) -> NDArray[np.float64]:
        """The state (18,): the fingertip xyz and its target xyz; for each of `BLOCKS` its xy, its
        xy as seen from the fingertip, and the cosine and sine of its yaw."""
        finger = self.finger
        blocks = []
        for address, place in zip(self._blocks, self._places, strict=True):
            w, x, y, z = self.data.qpos[address + 3 : address + 7]
            heading = np.array([w * w + x * x - y * y - z * z, 2 * (w * z + x * y)])
            blocks += [place, place - finger[:2], heading / max(float(np.hypot(*heading)), 1e-9)]
        return np.concatenate([finger, self._target, *blocks])

    def step(self, action: NDArray[np.float64]) -> Any:
        """Ends with the task."""
        last = super().step(action)
        return last._replace(terminated=last.info["result"] == 1.0)

    def judge(self) -> tuple[float, Mapping[str, Any]]:
        """1 when the task is done, and how far the blocks have moved."""
        moved = self._places - self._begun
        mine = BLOCKS.index(self.shove.block)
        others = np.delete(np.linalg.norm(moved, axis=1), mine)
        over = self.finger[2] >= LIFTED
        done = over and self.shove.is_done(moved[mine]) and others.max() <= STAYS
        metrics = {"moved": float(np.hypot(*moved[mine])), "moved_other": float(others.max())}
        return float(done), {"result": float(done), "metrics": metrics}


class ShoveExpert:
    """Pushes the block that is asked for, as far as is asked; actions are in [-1, 1] (3,)."""

    def __init__(self, shove: Shove, *, seed: int = 0) -> None:
        self._shove = shove
        self._mine = BLOCKS.index(shove.block)
        self._side = float(np.random.default_rng([seed, 1]).choice([-1.0, 1.0]))
        self._goal: Vector | None = None

    def __call__(self, state: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        x: Vector = np.asarray(state, np.float64)
        finger, target, places = x[:3], x[3:6], x[6:].reshape(-1, 6)[:, :2]
        place, others = places[self._mine], list(np.delete(places, self._mine, axis=0))
        if self._goal is None:
            self._goal = place + self._shove.change
        if np.linalg.norm(self._goal - place) <= _SURE:
            aim = np.array([*finger[:2], HIGH])
        else:
            aim = push(
                finger,
                place,
                self._goal,
                in_path=others,
                others=others,
                side=self._side,
                area=_AREA,
            )
        return np.clip((aim - target) / REACH, -1.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Shoves(SimulatedSuite):
    """Push a block a little or far in one of eight directions.

    Any task may be asked for in any arrangement. Actions are (3,), the displacement of the finger's
    target in units of 3 cm, in [-1, 1]; for the state see `ShoveScene.observe`.

    Attributes:
        tasks: any of `SHOVES`; all of them by default.
        cameras: any of `CAMERAS`, or their numbers.
        shared: whether goal i of a benchmark seed is the same arrangement for all tasks. Where it
            is, a data set shows few arrangements, each of which can be known by heart.
    """

    library: ClassVar[str] = "shoves"
    camera_names: ClassVar[tuple[str, ...]] = CAMERAS

    tasks: tuple[str, ...] = tuple(SHOVES)
    cameras: tuple[int | str, ...] = ("top",)
    shared: bool = True

    @property
    def name(self) -> str:
        return "shoves" if self.tasks == tuple(SHOVES) else super().name

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """All shoves."""
        return _catalogue()

    def open_simulator(self, task: str) -> ShoveScene:
        """The scene, judged by the task."""
        return ShoveScene(SHOVES[task], shared=self.shared)

    def change_task(self, simulator: Simulator, task: str) -> Simulator:
        """The same simulator: one scene serves all tasks."""
        assert isinstance(simulator, ShoveScene)
        simulator.shove = SHOVES[task]
        return simulator

    def expert(self, task: str, *, seed: int = 0) -> Expert:
        """Takes the state (S,); the seed draws on which side it goes round the other one."""
        check_choice("task", task, self.tasks)
        return ShoveExpert(SHOVES[task], seed=seed)


_WAYS = {"little": ("a little", "slightly", "a bit"), "far": ("far", "a long way", "a lot")}
_FRAMES = (
    "push the {block} block {way} {to}",
    "move the {block} block {way} {to}",
    "shove the {block} one {way} {to}",
    "the {block} block should go {way} {to}",
)
_HELD_OUT = ("please slide the {block} block {way} {to}", "take the {block} block {way} {to}")


def _to(direction: str) -> str:
    words = direction.split("-")
    return " and ".join("to the " + word if word in ("left", "right") else word for word in words)


def shove_texts(shove: Shove) -> Texts:
    """All ways to put it; the held-out ones have other frames around the same words."""

    def say(frames: Sequence[str]) -> list[str]:
        ways = _WAYS[shove.amount]
        found = (
            frame.format(block=shove.block, way=way, to=_to(shove.direction))
            for frame in frames
            for way in ways
        )
        return list(found)

    canonical, *paraphrases = say(_FRAMES)
    return Texts(canonical, tuple(paraphrases), tuple(say(_HELD_OUT)))


@functools.cache
def _catalogue() -> Mapping[str, TaskFacts]:
    return {
        name: TaskFacts(
            state_dim=STATE_DIM,
            action_dim=3,
            rate_hz=RATE_HZ,
            max_steps=MAX_STEPS,
            measure="result",
            threshold=1.0,
            texts=shove_texts(shove),
        )
        for name, shove in SHOVES.items()
    }
