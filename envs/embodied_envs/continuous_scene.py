"""A drawer, a window, a door and a knob on a table: geometry, episodes and judgement.

Goals, bands and holding follow ARNOLD (Gong et al. 2023, arXiv:2304.04321): a fraction of an
object's range, to be met within `BAND` and held nearly still for two seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embodied_envs.scene import RATE_HZ, Scene
from embodied_envs.simulated_env import Transition

BAND = 0.10  # of the range, on either side of the target
HOLD_STEPS = round(2 * RATE_HZ)
STILL = 0.05  # of the range per second
FAR = 0.20  # least distance of the first opening from the target, of the range
STATE_DIM = 6 + 4 * 8

Point = NDArray[np.float64]  # (2,) in m


class Line(NamedTuple):
    """A grip that slides: where it is when closed, and how far it goes, in m of the base."""

    start: tuple[float, float]
    travel: tuple[float, float]

    def at(self, fraction: float) -> tuple[Point, Point]:
        """The grip (2,) at a fraction of the range, and its derivative by the fraction (2,)."""
        return np.array(self.start) + fraction * np.array(self.travel), np.array(self.travel)


class Arc(NamedTuple):
    """A grip that turns about its base: m, and rad counterclockwise seen from above."""

    radius: float
    start: float
    sweep: float

    def at(self, fraction: float) -> tuple[Point, Point]:
        """The grip (2,) at a fraction of the range, and its derivative by the fraction (2,)."""
        angle = self.start + fraction * self.sweep
        out = np.array([math.cos(angle), math.sin(angle)])
        return self.radius * out, self.radius * self.sweep * np.array([-out[1], out[0]])


@dataclass(frozen=True)
class Mechanism:
    """An object with one joint, and where a finger takes hold of it.

    Attributes:
        path: the grip's, in the frame of the object's base: the middle of the gap behind a handle,
            or the axis of a post.
        inside: whether the finger stands in the grip, between two faces, or beside it.
        contact: from the grip to the finger's axis where it touches, along the path, in m.
    """

    path: Line | Arc
    inside: bool
    contact: float


MECHANISMS: Mapping[str, Mechanism] = {
    "drawer": Mechanism(Line((0.0, -0.120), (0.0, -0.16)), inside=True, contact=0.006),
    "window": Mechanism(Line((-0.1, -0.054), (0.2, 0.0)), inside=False, contact=0.019),
    "door": Mechanism(
        Arc(math.hypot(0.135, 0.023), math.atan2(-0.023, -0.135), math.pi / 2),
        inside=True,
        contact=0.006,
    ),
    "knob": Mechanism(
        Arc(0.06, math.radians(210), -math.radians(240)), inside=False, contact=0.020
    ),
}
OBJECTS = tuple(MECHANISMS)


class PoseRange(NamedTuple):
    """How far the base of an object may stand from its usual place, and turn from its usual yaw."""

    distance: tuple[float, float]  # m
    yaw: tuple[float, float]  # rad, to either side


TRAINED_POSES = PoseRange((0.0, 0.03), (0.0, 0.25))
NOVEL_POSES = PoseRange((0.045, 0.06), (0.35, 0.5))


class View(NamedTuple):
    """What a state says of one object."""

    base: Point
    cos: float
    sin: float
    fraction: float
    speed: float

    def place(self, local: Point) -> Point:
        """A direction of the base's frame in the world's frame."""
        return np.array(
            [
                self.cos * local[0] - self.sin * local[1],
                self.sin * local[0] + self.cos * local[1],
            ]
        )


def view(state: NDArray[np.floating[Any]], name: str) -> View:
    """What a state (S,) says of an object."""
    x, y, cos, sin, _, _, fraction, speed = state[object_slice(name)].tolist()
    return View(np.array([x, y]), cos, sin, fraction, speed)


def object_slice(name: str) -> slice:
    """Where an object stands in a state."""
    first = 6 + 8 * OBJECTS.index(name)
    return slice(first, first + 8)


class ContinuousScene(Scene):
    """One object of four is to be brought to a fraction of its range, and left there.

    The state is (38,): fingertip and its target (3 + 3, m), then for each of `OBJECTS` its base (2,
    m), the cosine and sine of its yaw, its grip seen from the fingertip (2, m), its fraction of the
    range, in [0, 1], and that fraction's speed (1/s). Where the goal is visible, the target
    fraction of the task follows.

    An episode terminates when the object was held; until then the reward is minus the error.
    """

    file = "continuous.xml"
    bounds = ((-0.55, -0.45, 0.03), (0.55, 0.4, 0.2))
    start = (0.0, -0.08, 0.17)

    def __init__(
        self, name: str, target: float, *, poses: PoseRange, goal_visible: bool = False
    ) -> None:
        super().__init__()
        self._name, self._target_fraction, self._poses = name, target, poses
        self._appended = [target] if goal_visible else []
        joints = [self.model.joint(each) for each in OBJECTS]
        self._joints = np.array([joint.qposadr[0] for joint in joints])
        self._speeds = np.array([joint.dofadr[0] for joint in joints])
        self._ranges = np.array([joint.range[1] for joint in joints])
        self._bases = np.array([self.model.body(f"{each}-base").id for each in OBJECTS])
        self._usual = self.model.body_pos[self._bases].copy()
        self._yaws = np.zeros(len(OBJECTS))
        self._held = 0

    def arrange(self, random: np.random.Generator) -> None:
        """Moves, turns and opens all objects; the named one begins away from its target."""
        self._held = 0
        for index, body in enumerate(self._bases):
            offset, yaw = _draw_pose(random, self._poses)
            self._yaws[index] = yaw
            self.model.body_pos[body] = self._usual[index] + [*offset, 0.0]
            self.model.body_quat[body] = [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]
        fractions = random.uniform(0.0, 1.0, len(OBJECTS))
        named = OBJECTS.index(self._name)
        while abs(fractions[named] - self._target_fraction) < FAR:
            fractions[named] = random.uniform(0.0, 1.0)
        self.data.qpos[self._joints] = fractions * self._ranges

    def observe(self) -> NDArray[np.float64]:
        finger = self.finger
        fractions = self.data.qpos[self._joints] / self._ranges
        speeds = self.data.qvel[self._speeds] / self._ranges
        parts: list[ArrayLike] = [finger, self._target]
        for index, name in enumerate(OBJECTS):
            base = self.model.body_pos[self._bases[index], :2]
            yaw = float(self._yaws[index])
            seen = View(base, math.cos(yaw), math.sin(yaw), fractions[index], speeds[index])
            grip = base + seen.place(MECHANISMS[name].path.at(seen.fraction)[0])
            parts += [base, [seen.cos, seen.sin], grip - finger[:2], [seen.fraction, seen.speed]]
        return np.concatenate([*parts, self._appended])

    def judge(self) -> tuple[float, Mapping[str, Any]]:
        named = OBJECTS.index(self._name)
        fraction = self.data.qpos[self._joints[named]] / self._ranges[named]
        speed = self.data.qvel[self._speeds[named]] / self._ranges[named]
        error = abs(float(fraction) - self._target_fraction)
        self._held = self._held + 1 if error <= BAND and abs(speed) <= STILL else 0
        return -error, {"held": self._held, "metrics": {"error": error}}

    def step(self, action: NDArray[np.float64]) -> Transition:
        last = super().step(action)
        return last._replace(terminated=self._held >= HOLD_STEPS)


def _draw_pose(random: np.random.Generator, poses: PoseRange) -> tuple[Point, float]:
    """An offset (2,) uniform over a ring, and a yaw to either side."""
    least, most = poses.distance
    distance = math.sqrt(random.uniform(least**2, most**2))
    direction = random.uniform(-math.pi, math.pi)
    yaw = random.choice([-1.0, 1.0]) * random.uniform(*poses.yaw)
    return distance * np.array([math.cos(direction), math.sin(direction)]), float(yaw)
