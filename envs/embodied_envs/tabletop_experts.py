"""Who can do every task on the tabletop, in one of several ways, and who plays there.

An expert sees the state alone and acts on it afresh at each step, so that it goes on from wherever
noise or a policy has brought it. What its seed draws is its way: on which side blocks go round what
lies in their path and, in two-step tasks, which block comes first and into which zone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from embodied_envs.scene import REACH
from embodied_envs.tabletop_tasks import (
    SIDES,
    TASKS,
    ZONES,
    Task,
    Vector,
    View,
    parts_done,
)

_HIGH, _LOW = 0.1, 0.008  # m of the fingertip: above everything, and beside a block
_FREE = 0.05  # m of the fingertip from which it clears blocks
_BEHIND = 0.058  # m from a block's centre at which the finger comes down
_CLEAR = 0.07  # m between the centres of a block that is pushed and one that it passes
_ROOM = 0.045  # m between the fingertip's axis and a block that it comes down beside
_EDGE = np.array([[-0.305, -0.265], [0.305, 0.12]])  # m: where the finger may come down
_INNER = np.array([[-0.29, -0.23], [0.29, 0.09]])  # m: where a block can be pushed
_SURE = 0.012  # m by which experts do more than is asked
_HANDLE = np.array([-0.108, 0.26])  # m: inside the shut drawer's handle
_DRAWER_RANGE = 0.12  # m
_BUTTON = np.array([0.23, 0.25])  # m
_TURNS = np.radians([0, 30, 60, 90])  # of a push whose place is taken


class TabletopExpert:
    """Pushes, pulls and presses what a task asks for; actions are in [-1, 1] (3,).

    Attributes:
        side: on which side a block goes round what lies in its path: 1.0 is the left, -1.0 the
            right, seen along the path.
        order: the parts of a two-step task as (block, zone), the first one first.
    """

    def __init__(self, task: Task, *, seed: int = 0) -> None:
        random = np.random.default_rng([seed, 1])
        self._task = task
        self.side = float(random.choice([-1.0, 1.0]))
        targets = random.permutation(ZONES).tolist() if task.kind == "both" else task.targets
        parts = list(zip(task.blocks, targets, strict=True)) if task.blocks else []
        self.order = [parts[i] for i in random.permutation(len(parts))]

    def __call__(self, state: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        view = View.of(state)
        goal = self._aim(view)
        return np.clip((goal - view.target) / REACH, -1.0, 1.0).astype(np.float32)

    def _aim(self, view: View) -> Vector:
        """Where the finger should be next, (3,)."""
        if self._task.kind == "drawer":
            return _slide(view, 1.0 if self._task.targets[0] == "open" else -1.0)
        if self._task.kind == "button":
            return _reach(view, _BUTTON, 0.012)
        kind = "zone" if self._task.kind in ("both", "sort") else self._task.kind
        for block, target in self.order:
            part = Task(kind, (block,), (target,))
            if not all(parts_done(part, view, margin=_SURE)):
                return self._push(view, block, _destination(part, view), target)
        return np.array([*view.finger[:2], _HIGH])

    def _push(self, view: View, block: str, goal: Vector, target: str) -> Vector:
        others = {name: place for name, place in view.blocks.items() if name != block}
        place = view.blocks[block]
        in_path = [x for name, x in others.items() if name != target]
        path = _around(place, goal, in_path, self.side) - place
        distance = float(np.linalg.norm(path))
        for turn in (sign * angle for angle in _TURNS for sign in (self.side, -self.side)):
            along = _turned(path / max(distance, 1e-6), turn)
            start = place - _BEHIND * along
            if _is_free(start, others):
                break
        return _drive(view, place, along, start, distance)


class TabletopPlayer:
    """Pursues one task after the other, each until it is done or has taken too long; a `Player`."""

    PATIENCE: ClassVar[int] = 90  # steps

    def __init__(self, words: Mapping[str, tuple[str, ...]], *, seed: int = 0) -> None:
        self._words = words
        self._random = np.random.default_rng([seed, 2])
        self._steps = self._since = 0
        self._pursued: Task | None = None
        self._expert = TabletopExpert(Task("play"))
        self.pursuits: list[tuple[int, str]] = []

    def __call__(self, state: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        view = View.of(state)
        if self._is_over(view):
            self._choose(view)
        self._steps += 1
        return self._expert(state)

    def _is_over(self, view: View) -> bool:
        task = self._pursued
        late = self._steps - self._since >= self.PATIENCE
        return task is None or late or all(parts_done(task, view, margin=_SURE))

    def _choose(self, view: View) -> None:
        """Draws a task that is not done yet, its words and its way."""
        name = next(each for each in self._shuffled() if not all(parts_done(TASKS[each], view)))
        self._pursued, self._since = TASKS[name], self._steps
        self._expert = TabletopExpert(TASKS[name], seed=int(self._random.integers(2**31)))
        self.pursuits.append((self._steps, str(self._random.choice(self._words[name]))))

    def _shuffled(self) -> Iterator[str]:
        yield from self._random.permutation(list(self._words)).tolist()


def _destination(part: Task, view: View) -> Vector:
    """Where a block is to be brought, (2,)."""
    (block,), (target,) = part.blocks, part.targets
    if part.kind == "side":
        return np.array([SIDES[target] * 0.28, np.clip(view.blocks[block][1], -0.19, 0.05)])
    return view.blocks[target] if part.kind == "block" else view.zones[target]


def _around(start: Vector, goal: Vector, obstacles: list[Vector], side: float) -> Vector:
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
    return next((point for point in points if _inside(point, _INNER)), points[0])


def _drive(view: View, place: Vector, along: Vector, start: Vector, distance: float) -> Vector:
    """Pushes a block where the finger stands behind it, and goes there where it does not."""
    finger = view.finger
    across = _turned(along, np.pi / 2)
    behind, aside = float((finger[:2] - place) @ along), float((finger[:2] - place) @ across)
    if finger[2] > 0.02 or not -0.08 < behind < -0.02 or abs(aside) > 0.02:
        return _reach(view, start, _LOW)
    speed = min(0.022, 0.008 + 0.4 * distance)
    step = speed * along - 0.8 * aside * across
    return np.array([*(finger[:2] + step), _LOW])


def _slide(view: View, direction: float) -> Vector:
    """Pushes or pulls the drawer's handle from within."""
    grip = _HANDLE + np.array([_DRAWER_RANGE * view.drawer, 0.0])
    away = view.finger - np.array([*grip, 0.0])
    if away[2] < 0.035 and np.abs(away[:2]).max() < 0.03:
        return np.array([view.finger[0] + 0.025 * direction, grip[1], 0.02])
    return _reach(view, grip, 0.02)


def _reach(view: View, place: Vector, height: float) -> Vector:
    """Comes down at a place: up, across, down."""
    x, y, z = view.finger
    away = float(np.hypot(*(place - [x, y])))
    if away < (0.012 if z > _FREE else 0.022):
        return np.array([*place, height])
    if z < _FREE:
        return np.array([x, y, _HIGH])
    return np.array([*place, _HIGH])


def _is_free(place: Vector, blocks: Mapping[str, Vector]) -> bool:
    """Whether the finger can come down at a place."""
    return _inside(place, _EDGE) and all(np.linalg.norm(place - x) > _ROOM for x in blocks.values())


def _inside(place: Vector, area: NDArray[np.float64]) -> bool:
    return bool(((place >= area[0]) & (place <= area[1])).all())


def _turned(vector: Vector, angle: float) -> Vector:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]])
