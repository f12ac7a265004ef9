"""A block, a finger, and the way that the finger is to go: geometry, judgement and expert."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embodied_envs.scene import REACH, Scene
from embodied_envs.simulated_env import Transition

STATE_DIM = 8
LOW, HIGH = 0.012, 0.092  # m of the fingertip: beside the block, and above it
BESIDE = 0.06  # m from the block's centre at which the finger comes down
RISE, RETREAT = 0.14, 0.15  # m: they look alike from the front
BEHIND = 0.086  # m behind the block, where the table looks as what is `HIGH` above the block
NEAR = 0.045  # m from a waypoint at which it counts as visited
PUSHED, ASIDE = 0.08, 0.04  # m that a pushed block goes at least, and strays at most
FURTHER = 0.02  # m that the expert pushes it beyond that
KEPT = 0.02  # m that a block may move that is not to be pushed
DIRECTIONS: Mapping[str, float] = {  # degrees, seen from above
    "right": 0.0,
    "away-right": 45.0,
    "away": 90.0,
    "away-left": 135.0,
    "left": 180.0,
    "toward-left": 225.0,
    "toward": 270.0,
    "toward-right": 315.0,
}

Vector = NDArray[np.float64]
Kind = Literal["push", "pass", "behind", "lift", "retreat"]
_BLOCK_AREA = ((-0.1, -0.1), (0.1, 0.02))  # m, of its centre at the start
_FINGER_AREA = ((-0.2, -0.2, 0.1), (0.2, 0.15, 0.16))
_STRIDE = 0.02  # m that the expert moves in a step
_THERE = 0.012  # m at which it turns to the next waypoint
_DETOUR_AREA = ((-0.2, -0.2, LOW), (0.2, 0.2, 0.18))
_CLEAR, _OVER = 0.06, 0.07  # m from the block's centre, and of height, at which a finger clears it
_TRIES = 50


@dataclass(frozen=True)
class Motion:
    """A way to go about the block.

    "push" shoves the block in the direction; "pass" crosses above it, "behind" along the table
    behind it; "lift" rises straight up from beside it, on the side of the direction, and "retreat"
    draws back along the table from there. From the front, "pass" looks as "behind" and "lift" as
    "retreat": only the height tells them apart.
    """

    kind: Kind
    direction: str

    @property
    def along(self) -> Vector:
        """The direction, (2,) of length 1."""
        angle = math.radians(DIRECTIONS[self.direction])
        return np.array([math.cos(angle), math.sin(angle)])

    def waypoints(self, block: Vector) -> list[Vector]:
        """What the fingertip is to visit in turn, each (3,) in m, for a block at (2,)."""
        along = self.along
        if self.kind == "push":
            steps = (-BESIDE, PUSHED - 0.02)
            return [_at(block + step * along, LOW) for step in steps]
        if self.kind in ("pass", "behind"):
            middle = block + np.array([0.0, BEHIND if self.kind == "behind" else 0.0])
            height = LOW if self.kind == "behind" else HIGH
            return [_at(middle + step * along, height) for step in (-0.08, 0.0, 0.1)]
        place = block + BESIDE * along
        back = place + np.array([0.0, RETREAT])
        end = _at(place, LOW + RISE) if self.kind == "lift" else _at(back, LOW)
        return [_at(place, LOW), end]


class MotionScene(Scene):
    """One motion about the block; arrangements do not depend on it.

    The state is (8,): fingertip and its target (3 + 3, m), the block's xy (m). A motion is done
    when its waypoints were visited in turn, and the block pushed, or left where it was. Info holds
    `result`, the share of the waypoints that were visited, 1 where all is done.

    Attributes:
        motion: what is judged; may be replaced before a reset.
        terminates: whether an episode ends with its motion.
    """

    file = "motions.xml"
    bounds = ((-0.28, -0.26, 0.01), (0.28, 0.28, 0.22))
    start = (0.0, -0.2, 0.12)

    def __init__(self, motion: Motion, *, terminates: bool = True) -> None:
        super().__init__()
        self.motion, self.terminates = motion, terminates
        self._block = int(self.model.joint("block").qposadr[0])
        self._begun = np.zeros(2)
        self._ahead: list[Vector] = []
        self._count = 1

    def arrange(self, random: np.random.Generator) -> None:
        """Puts the block and the finger at random places."""
        tip = random.uniform(*_FINGER_AREA)
        self._target = tip
        self.data.qpos[self._rails] = self.data.ctrl[self._motors] = tip
        self.data.qpos[self._block : self._block + 2] = random.uniform(*_BLOCK_AREA)
        self._begun = self.block
        self._ahead = self.motion.waypoints(self._begun)
        self._count = len(self._ahead)

    @property
    def block(self) -> Vector:
        """Where the block is, (2,) in m."""
        return np.array(self.data.qpos[self._block : self._block + 2])

    def observe(self) -> NDArray[np.float64]:
        """The state (8,)."""
        return np.concatenate([self.finger, self._target, self.block])

    def step(self, action: NDArray[np.float64]) -> Transition:
        """Ends with the motion, if episodes do."""
        last = super().step(action)
        return last._replace(terminated=self.terminates and last.info["result"] == 1.0)

    def judge(self) -> tuple[float, Mapping[str, Any]]:
        """1 once, when the motion is done."""
        while self._ahead and np.linalg.norm(self._ahead[0] - self.finger) <= NEAR:
            del self._ahead[0]
        result = 1 - len(self._ahead) / self._count
        if result == 1.0 and not self._block_is_right():
            result = 1 - 0.5 / self._count
        return float(result == 1.0), {"result": result, "metrics": {"visited": result}}

    def _block_is_right(self) -> bool:
        moved = self.block - self._begun
        if self.motion.kind != "push":
            return bool(np.linalg.norm(moved) <= KEPT)
        forth = float(moved @ self.motion.along)
        return forth >= PUSHED and float(np.linalg.norm(moved - forth * self.motion.along)) <= ASIDE


class MotionExpert:
    """Visits the waypoints in turn, coming down to the first from above; steps are 2 cm at most.

    It takes the state (8,) and keeps in mind where the block was at first. On its way to the block
    it takes detours, which the seed draws: one or two, high or low; or none. At the end it rests.
    """

    def __init__(self, motion: Motion, *, seed: int = 0, detours: bool = True) -> None:
        self._motion, self._detours = motion, detours
        self._random = np.random.default_rng([seed, 1])
        self._ahead: list[Vector] = []
        self._begun = np.zeros(2)

    def __call__(self, state: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        finger, target, block = np.split(np.asarray(state, np.float64), [3, 6])
        if not self._ahead:
            self._ahead, self._begun = self._plan(finger, block), block
        while len(self._ahead) > 1 and np.linalg.norm(self._ahead[0] - finger) <= _THERE:
            del self._ahead[0]
        goal = self._ahead[0]
        if self._motion.kind == "push" and len(self._ahead) == 1:
            goal = self._behind(finger, block)
        away = goal - finger
        stride = away * min(1.0, _STRIDE / max(float(np.linalg.norm(away)), 1e-9))
        return np.clip((finger + stride - target) / REACH, -1.0, 1.0).astype(np.float32)

    def _plan(self, finger: Vector, block: Vector) -> list[Vector]:
        """All that is to be visited; what is more than the motion's waypoints comes first."""
        waypoints = self._motion.waypoints(block)
        first = waypoints[0]
        above = [] if first[2] > HIGH - 0.01 else [_at(first[:2], HIGH + 0.01)]
        entry = (above or [first])[0]
        detours: list[Vector] = []
        count = int(self._random.integers(1, 3))
        for _ in range(_TRIES if self._detours else 0):
            place = self._random.uniform(*_DETOUR_AREA)
            before = detours[-1] if detours else finger
            if _is_clear(before, place, block) and _is_clear(place, entry, block):
                detours.append(place)
            if len(detours) == count:
                break
        return [*detours, *above, *waypoints]

    def _behind(self, finger: Vector, block: Vector) -> Vector:
        """Where the finger goes next, behind a block that it pushes; nowhere when it is there."""
        along = self._motion.along
        if float((block - self._begun) @ along) >= PUSHED + FURTHER:
            return finger
        across = np.array([-along[1], along[0]])
        aside = float((finger[:2] - block) @ across)
        return _at(finger[:2] + _STRIDE * along - 0.8 * aside * across, LOW)


def _is_clear(start: Vector, end: Vector, block: Vector) -> bool:
    """Whether a straight way (3,) to (3,) touches no block."""
    points = start + np.linspace(0, 1, 12)[:, None] * (end - start)
    beside = np.linalg.norm(points[:, :2] - block, axis=1) > _CLEAR
    return bool((beside | (points[:, 2] > _OVER)).all())


def _at(place: Vector | Sequence[float], height: float) -> Vector:
    return np.array([*place, height])
