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

from embodied_envs.pushing import HIGH, Area, push, reach
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
from embodied_envs.tabletop_text import tabletop_texts

_AREA = Area(
    edge=np.array([[-0.305, -0.265], [0.305, 0.12]]), inner=np.array([[-0.29, -0.23], [0.29, 0.09]])
)
_SURE = 0.012  # m by which experts do more than is asked
_HANDLE = np.array([-0.108, 0.26])  # m: inside the shut drawer's handle
_DRAWER_RANGE = 0.12  # m
_BUTTON = np.array([0.23, 0.25])  # m


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
        kind = "zone" if task.kind in ("both", "sort") else task.kind
        self._parts = [Task(kind, (b,), (target,)) for b, target in self.order] or [task]

    def __call__(self, state: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        view = View.of(state)
        goal = self._aim(view)
        return np.clip((goal - view.target) / REACH, -1.0, 1.0).astype(np.float32)

    def subtask(self, state: NDArray[np.floating[Any]]) -> str:
        """The part that is due, in the words of the task that it would be alone; the last one to
        the end."""
        part = self._due(View.of(state)) or self._parts[-1]
        return tabletop_texts(part).canonical

    def _due(self, view: View) -> Task | None:
        """The first part that is not done; None where all are."""
        due = (each for each in self._parts if not all(parts_done(each, view, margin=_SURE)))
        return next(due, None)

    def _aim(self, view: View) -> Vector:
        """Where the finger should be next, (3,)."""
        if self._task.kind == "drawer":
            return _slide(view, 1.0 if self._task.targets[0] == "open" else -1.0)
        if self._task.kind == "button":
            return reach(view.finger, _BUTTON, 0.012)
        part = self._due(view)
        return np.array([*view.finger[:2], HIGH]) if part is None else self._push(view, part)

    def _push(self, view: View, part: Task) -> Vector:
        (block,), (target,), goal = part.blocks, part.targets, _destination(part, view)
        others = {name: place for name, place in view.blocks.items() if name != block}
        place = view.blocks[block]
        in_path = [x for name, x in others.items() if name != target]
        return push(
            view.finger,
            place,
            goal,
            in_path=in_path,
            others=list(others.values()),
            side=self.side,
            area=_AREA,
        )


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


def _slide(view: View, direction: float) -> Vector:
    """Pushes or pulls the drawer's handle from within."""
    grip = _HANDLE + np.array([_DRAWER_RANGE * view.drawer, 0.0])
    away = view.finger - np.array([*grip, 0.0])
    if away[2] < 0.035 and np.abs(away[:2]).max() < 0.03:
        return np.array([view.finger[0] + 0.025 * direction, grip[1], 0.02])
    return reach(view.finger, grip, 0.02)
