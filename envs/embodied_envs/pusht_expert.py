"""A scripted expert for PushT: it pushes where a push brings the block nearest to its target.

Between two steps nothing glides on in PushT, and nothing rubs. A push by a distance d at a point r
from the centre of mass along the inward normal n therefore moves the block by J n / m and turns it
by J (r x n) / I, with J = d / (1 / m + (r x n)^2 / I).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TARGET = np.array([256.0, 256.0, np.pi / 4])
"""Pose of the block that is asked for: x and y in pixels, angle in rad."""
RADIUS = 15.0
"""Of the agent, pixels."""
_RECTANGLES = (((-60.0, 0.0), (60.0, 30.0)), ((-15.0, 30.0), (15.0, 120.0)))  # in its own frame
_CENTRE = np.array([0.0, 45.0])  # of mass
_INERTIA = 3000.0  # I / m as the simulator has it, pixels^2
_LEVER = 50.0  # pixels off that are as bad as a turn by 1 rad
_ROOM = 4.0  # pixels between the agent and the block before a push
_LONGEST = 30.0  # pixels that are asked for at once; the agent gets less far in a step
_WASTED = 0.3  # pixels: a push that mends less is none
_GRID = np.stack(np.meshgrid(*2 * [np.arange(16.0, 497.0, 16.0)], indexing="ij"), axis=-1)


class PushExpert:
    """From [agent x, y, block x, y, angle] to where the agent should go (2,), pixels."""

    def __init__(self) -> None:
        self._points, self._normals = outline()
        self._chosen: int | None = None

    def __call__(self, observation: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        agent, pose = np.asarray(observation[:2], float), np.asarray(observation[2:5], float)
        points, normals = to_world(self._points, pose), self._normals @ _rotation(pose[2]).T
        starts = points - (RADIUS + _ROOM) * normals
        pushes, gains = _worth(points, normals, pose)
        fits = ((starts > 12) & (starts < 500)).all(1) & (distance(starts, pose) > RADIUS + 2)
        gains = np.where(fits, gains, 0.0)
        if self._chosen is None or gains[self._chosen] < max(0.2 * gains.max(), _WASTED**2):
            self._chosen = int(np.where(_reachable(agent, starts, pose), gains, 0.0).argmax())
        point, normal = points[self._chosen], normals[self._chosen]
        offset = agent - point
        behind = -RADIUS - _ROOM - 4 < offset @ normal < 0
        if behind and abs(offset @ [-normal[1], normal[0]]) < 4:
            goal = point + (min(pushes[self._chosen], _LONGEST) - RADIUS) * normal
        else:
            goal = way_point(agent, starts[self._chosen], pose)
        return np.asarray(np.clip(goal, 0.0, 512.0), np.float32)


def _worth(points: Array, normals: Array, pose: Array) -> tuple[Array, Array]:
    """How far to push at each point, pixels, and by how much that lowers the squared error."""
    arms = points - to_world(_CENTRE, pose)
    turns = arms[:, 0] * normals[:, 1] - arms[:, 1] * normals[:, 0]
    motions = np.column_stack([normals, _LEVER * turns / _INERTIA])
    motions /= 1 + turns[:, None] ** 2 / _INERTIA
    wrapped = (TARGET[2] - pose[2] + np.pi) % (2 * np.pi) - np.pi
    error = np.array([*(to_world(_CENTRE, TARGET) - to_world(_CENTRE, pose)), _LEVER * wrapped])
    along = np.maximum(motions @ error, 0.0)
    size = (motions**2).sum(1)
    return along / size, along**2 / size


def way_point(agent: Array, goal: Array, pose: Array) -> Array:
    """Where to go next from the agent to a goal without touching the block."""
    if _is_free(agent, goal, pose):
        return goal
    steps = _steps_to(goal, pose)
    near = np.linalg.norm(_GRID - agent, axis=-1) < 96
    cells = np.argwhere(np.isfinite(steps) & near).tolist()
    for cell in sorted(cells, key=lambda cell: float(steps[tuple(cell)])):
        if _is_free(agent, _GRID[tuple(cell)], pose):
            return np.asarray(_GRID[tuple(cell)])
    return agent + 20 * _outward(agent, pose)


def _reachable(agent: Array, places: Array, pose: Array) -> NDArray[np.bool_]:
    """To which places (N, 2) a way leads."""
    steps = _steps_to(agent, pose)
    gaps = np.linalg.norm(_GRID[np.isfinite(steps)] - places[:, None], axis=-1)
    return np.asarray(gaps.min(1) < 20)


def _steps_to(goal: Array, pose: Array) -> Array:
    """How many cells of the grid lie between each free one and a goal; infinite where no way is."""
    free = distance(_GRID, pose) > RADIUS + 5
    steps = np.full(free.shape, np.inf)
    gaps = np.where(free, np.linalg.norm(_GRID - goal, axis=-1), np.inf)
    first = np.unravel_index(int(gaps.argmin()), free.shape)
    steps[first] = 0
    queue = deque([(int(first[0]), int(first[1]))])
    while queue:
        row, column = queue.popleft()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            inside = min(cell) >= 0 and max(cell) < len(free)
            if inside and free[cell] and np.isinf(steps[cell]):
                steps[cell] = steps[row, column] + 1
                queue.append(cell)
    return steps


def _is_free(start: Array, end: Array, pose: Array) -> bool:
    """Whether the agent can go straight; one that touches the block may go away from it."""
    parts = np.linspace(0, 1, 2 + int(np.linalg.norm(end - start) / 5))[1:, None]
    gaps = distance(start + parts * (end - start), pose)
    here = float(distance(start, pose))
    return bool((gaps > min(here, RADIUS + 1.0)).all())


def _outward(place: Array, pose: Array) -> Array:
    """The direction in which the block is left behind fastest."""
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ways = np.column_stack([np.cos(turns), np.sin(turns)])
    return np.asarray(ways[distance(place + 20 * ways, pose).argmax()])


def outline() -> tuple[Array, Array]:
    """Points of the block's outline and their inward normals, (N, 2) both, in its frame."""
    points, normals = [], []
    for (left, low), (right, high) in _RECTANGLES:
        for x in np.arange(left + 3, right, 6):
            points += [[x, low], [x, high]]
            normals += [[0.0, 1.0], [0.0, -1.0]]
        for y in np.arange(low + 3, high, 6):
            points += [[left, y], [right, y]]
            normals += [[1.0, 0.0], [-1.0, 0.0]]
    places, inward = np.array(points), np.array(normals)
    outside = distance(places - 2 * inward, np.zeros(3)) > 1  # not where the rectangles meet
    return places[outside], inward[outside]


def distance(places: Array, pose: Array) -> Array:
    """How far places (..., 2) are from the block, pixels; 0 inside."""
    local = (places - pose[:2]) @ _rotation(pose[2])
    gaps = [
        np.linalg.norm(np.maximum(np.maximum(low - local, local - np.array(high)), 0), axis=-1)
        for low, high in ((np.array(low), high) for low, high in _RECTANGLES)
    ]
    return np.asarray(np.minimum(*gaps))


def to_world(places: Array, pose: Array) -> Array:
    """From the frame of the block to the table's."""
    return np.asarray(places @ _rotation(pose[2]).T + pose[:2])


def _rotation(angle: float) -> Array:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])
