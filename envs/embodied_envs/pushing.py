"""How a finger pushes a block over a table, for scripted experts of any scene with one.

Each step is decided afresh from where things are, so that a push goes on from wherever noise or a
policy has brought them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

HIGH, LOW = 0.1, 0.008  # m of the fingertip: above everything, and beside a block
_FREE = 0.05  # m of the fingertip from which it clears blocks
_BEHIND = 0.058  # m from a block's centre at which the finger comes down
_CLEAR = 0.07  # m between the centres of a block that is pushed and one that it passes
_ROOM = 0.045  # m between the fingertip's axis and a block that it comes down beside
_TURNS = np.radians([0, 30, 60, 90])  # of a push whose place is taken


@dataclass(frozen=True)
class Area:
    """Corners (2, 2) in m: where the finger may come down, and where a block can be pushed."""

    edge: Vector
    inner: Vector


def push(
    finger: Vector,
    place: Vector,
    goal: Vector,
    *,
    in_path: Sequence[Vector],
    others: Sequence[Vector],
    side: float,
    area: Area,
) -> Vector:
    """Where the finger should be next, (3,), to push a block from `place` to `goal`, (2,).

    Args:
        in_path: blocks to go round, on the given side: 1.0 is the left, -1.0 the right.
        others: blocks that the finger must not come down on.
    """
    path = _around(place, goal, in_path, side, area) - place
    distance = float(np.linalg.norm(path))
    for turn in (sign * angle for angle in _TURNS for sign in (side, -side)):
        along = _turned(path / max(distance, 1e-6), turn)
        start = place - _BEHIND * along
        if _is_free(start, others, area):
            break
    return _drive(finger, place, along, start, distance)


def _around(
    start: Vector, goal: Vector, obstacles: Sequence[Vector], side: float, area: Area
) -> Vector:
    """The goal, or a point beside the first obstacle on the straight path to it."""
    path = goal - start
    length = float(np.linalg.norm(path))
    along = path / max(length, 1e-6)
    left = _turned(along, np.pi / 2)
    ahead = [(float((x - start) @ along), float((x - start) @ left), x) for x in obstacles]
    blocking = [
        (forth, x)
        for forth, aside, x in ahead
        if 0.0 < forth < length + 0.5 * _CLEAR and abs(aside) < _CLEAR - 0.01
    ]
    if not blocking:
        return goal
    _, obstacle = min(blocking, key=lambda item: item[0])
    points = [obstacle + sign * (_CLEAR + 0.01) * left for sign in (side, -side)]
    return next((point for point in points if _inside(point, area.inner)), points[0])


def _drive(finger: Vector, place: Vector, along: Vector, start: Vector, distance: float) -> Vector:
    """Pushes a block where the finger stands behind it, and goes there where it does not."""
    across = _turned(along, np.pi / 2)
    behind, aside = float((finger[:2] - place) @ along), float((finger[:2] - place) @ across)
    if finger[2] > 0.02 or not -0.08 < behind < -0.02 or abs(aside) > 0.02:
        return reach(finger, start, LOW)
    speed = min(0.022, 0.008 + 0.4 * distance)
    step = speed * along - 0.8 * aside * across
    return np.array([*(finger[:2] + step), LOW])


def reach(finger: Vector, place: Vector, height: float) -> Vector:
    """Comes down at a place: up, across, down."""
    x, y, z = finger
    away = float(np.hypot(*(place - [x, y])))
    if away < (0.012 if z > _FREE else 0.022):
        return np.array([*place, height])
    if z < _FREE:
        return np.array([x, y, HIGH])
    return np.array([*place, HIGH])


def _is_free(place: Vector, blocks: Sequence[Vector], area: Area) -> bool:
    """Whether the finger can come down at a place."""
    return _inside(place, area.edge) and all(np.linalg.norm(place - x) > _ROOM for x in blocks)


def _inside(place: Vector, area: NDArray[np.float64]) -> bool:
    return bool(((place >= area[0]) & (place <= area[1])).all())


def _turned(vector: Vector, angle: float) -> Vector:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]])
