"""A way through the mazes of a ball: the shortest one over their cells, followed by its forces."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied_envs.robotics import registered

Cell = tuple[int, int]  # row from the top, column from the left
Floats = NDArray[np.floating[Any]]
_STIFFNESS = 1.5  # of the largest force, per m of distance to the next cell
_DAMPING = 0.5  # of the largest force, per m/s; together critically damped at 6 rad/s


class MazeExpert:
    """Maps full observations (xy, velocity xy, ..., goal xy) to actions (2,) in [-1, 1].

    It heads for the centre of the next cell on a shortest way, and in the goal's cell or next to it
    for the goal. It keeps no state between steps, so that it also finds back from where noise has
    pushed the ball.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._grid: Sequence[Sequence[Any]] = ()
        self._goal: Cell | None = None
        self._distances: dict[Cell, int] = {}

    def __call__(self, observation: Floats) -> NDArray[np.float32]:
        if not self._grid:
            self._grid = registered(self._task).kwargs["maze_map"]
        force = _STIFFNESS * (self._waypoint(observation) - observation[:2])
        return np.clip(force - _DAMPING * observation[2:4], -1.0, 1.0).astype(np.float32)

    def _waypoint(self, observation: Floats) -> Floats:
        goal = self._cell(observation[-2:])
        if goal != self._goal:
            self._goal, self._distances = goal, distances(self._grid, goal)
        here = self._cell(observation[:2])
        reachable = [cell for cell in _neighbours(here) if cell in self._distances]
        ahead = min([here, *reachable], key=lambda cell: self._distances.get(cell, np.inf))
        return observation[-2:] if ahead == goal else self._centre(ahead)

    def _cell(self, xy: Floats) -> Cell:
        rows, columns = len(self._grid), len(self._grid[0])
        return int(np.floor(rows / 2 - xy[1])), int(np.floor(xy[0] + columns / 2))

    def _centre(self, cell: Cell) -> Floats:
        rows, columns = len(self._grid), len(self._grid[0])
        return np.array([cell[1] + 0.5 - columns / 2, rows / 2 - cell[0] - 0.5])


def distances(grid: Sequence[Sequence[Any]], goal: Cell) -> dict[Cell, int]:
    """Steps from each cell to the goal, by breadth-first search; a cell of 1 is a wall."""
    found = {goal: 0}
    queue = deque([goal])
    while queue:
        cell = queue.popleft()
        for row, column in _neighbours(cell):
            if (row, column) not in found and grid[row][column] != 1:
                found[row, column] = found[cell] + 1
                queue.append((row, column))
    return found


def _neighbours(cell: Cell) -> list[Cell]:
    row, column = cell
    return [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
