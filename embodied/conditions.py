"""Ways to tell a policy what to do, and how rows of them become one `Condition`.

A row is any mix of modalities, for instance `[Language("open the drawer"), GoalState(state)]`;
rows of different mixes stack into one batch, told apart by `Condition.present`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embodied.structs import Condition, Observation


@dataclass(frozen=True)
class Language:
    """An instruction in words."""

    text: str


@dataclass(frozen=True)
class GoalState:
    """A state to reach: (S,) float32, environment units."""

    state: NDArray[np.float32]


@dataclass(frozen=True)
class GoalImage:
    """What the cameras should see: camera -> (h, w, 3) uint8."""

    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sketch:
    """A drawn trajectory: (h, w, 3) uint8 (RT-Trajectory, arXiv:2311.01977)."""

    image: NDArray[np.uint8]


@dataclass(frozen=True)
class LanguageMotion:
    """A fine-grained motion in words, such as "move arm left" (RT-H, arXiv:2403.01823)."""

    text: str


Part = Language | GoalState | GoalImage | Sketch | LanguageMotion
Row = Sequence[Part]
P = TypeVar("P")


def _column(rows: Sequence[Row], kind: type[P]) -> list[P | None]:
    column: list[P | None] = []
    for index, row in enumerate(rows):
        found = [part for part in row if isinstance(part, kind)]
        if len(found) > 1:
            raise ValueError(
                f"row {index} has {len(found)} parts of kind {kind.__name__}; give at most one"
            )
        column.append(found[0] if found else None)
    return column


def _stack_arrays(column: Sequence[NDArray[np.generic] | None], name: str) -> Tensor | None:
    given = [x for x in column if x is not None]
    if not given:
        return None
    shapes = sorted({x.shape for x in given})
    if len(shapes) > 1:
        raise ValueError(f"{name} must have one shape in all rows, got {shapes}")
    blank = np.zeros_like(given[0])
    return torch.from_numpy(np.stack([blank if x is None else x for x in column]))


def _images_first(images: Tensor) -> Tensor:
    return images.movedim(-1, -3)


def stack(rows: Sequence[Row]) -> Condition:
    """Stacks B rows into a `Condition` with a `present` mask for each modality that occurs.

    Raises:
        ValueError: a row has two parts of one kind, or shapes differ between rows.
    """
    language, motion = _column(rows, Language), _column(rows, LanguageMotion)
    states, views, sketches = (
        _column(rows, GoalState),
        _column(rows, GoalImage),
        _column(rows, Sketch),
    )
    goal_state = _stack_arrays([x.state if x else None for x in states], "goal state")
    cameras = sorted({name for view in views if view for name in view.images})
    goal_images = {
        name: _images_first(stacked)[:, None]
        for name in cameras
        if (stacked := _stack_arrays([x.images.get(name) if x else None for x in views], name))
        is not None
    }
    sketch = _stack_arrays([x.image if x else None for x in sketches], "sketch")
    columns: dict[str, Sequence[Part | None]] = {
        "language": language,
        "goal_state": states,
        "goal_image": views,
        "sketch": sketches,
        "motion": motion,
    }
    present = {
        name: torch.tensor([x is not None for x in column])
        for name, column in columns.items()
        if any(x is not None for x in column)
    }
    goal = None
    if goal_state is not None or goal_images:
        state = goal_state if goal_state is not None else torch.zeros(len(rows), 0)
        goal = Observation(state=state[:, None], images=goal_images)
    return Condition(
        language=tuple(x.text if x else "" for x in language) if any(language) else None,
        goal=goal,
        sketch=None if sketch is None else _images_first(sketch),
        motion=tuple(x.text if x else "" for x in motion) if any(motion) else None,
        present=present,
    )
