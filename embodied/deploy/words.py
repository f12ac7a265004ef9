"""What a person says to a running robot, as it reaches the policy and the record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from embodied.conditions import Row, Sketch
from embodied.data.sketch_sources import densify
from embodied.data.sketches import Trace, draw
from embodied.people.corrections import Level

_DURATION = re.compile(r"(?P<words>.*\S)\s+for\s+(?P<seconds>\d+(\.\d+)?)\s*s", re.IGNORECASE)
_POINT = re.compile(r"(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)(?:,(-?\d+(?:\.\d+)?))?")


class Kind(StrEnum):
    """What becomes of something that was said."""

    TASK = "task"  # another instruction, from now on
    CORRECTION = "correction"  # stands in what the policy is asked until it is released
    TAKE_OVER = "take over"  # the person acts
    RELEASE = "release"  # the policy does as it likes again
    NOTE = "note"  # nothing: an order to the robot, such as a stop word


@dataclass(frozen=True)
class Word:
    """Something that was said.

    Attributes:
        number: of what holds from then on; chunks that obey it carry it as their `instruction_id`.
        time: when, ns.
        text: as `instructions.clean` leaves it.
        level: what it corrects; None where it corrects nothing.
        parts: what the policy is told.
        until: when a correction ends by itself, ns; None for never.
        who: the person's name.
    """

    number: int
    time: int
    kind: Kind
    text: str
    level: Level | None = None
    parts: Row = ()
    until: int | None = None
    who: str = "operator"


def with_duration(text: str) -> tuple[str, float | None]:
    """The words, and for how many seconds they hold where they end in "for N s"."""
    found = _DURATION.fullmatch(text)
    return (text, None) if found is None else (found["words"], float(found["seconds"]))


def sketch_of(
    points: Sequence[tuple[float, float, float]],
    size: tuple[int, int],
    *,
    with_height: bool = True,
    width: int = 2,
) -> Sketch:
    """A path through points (x, y, height): x and y in [0, 1] from the image's upper left corner,
    heights in any unit, as a policy sees it that was trained on images of `size` (h, w)."""
    given = np.asarray(points, np.float64)
    corners = given[:, :2] * np.array([size[1] - 1, size[0] - 1])
    path, places = densify(corners, spacing=1.0)
    heights = np.interp(np.arange(len(path)), places, given[:, 2])
    return Sketch(draw(Trace(path, heights, size), with_height=with_height, width=width))


def points_in(text: str) -> list[tuple[float, float, float]]:
    """The points of a line such as "0.2,0.3 0.5,0.8,0.1"; heights are 0 where none is given.

    Raises ValueError unless there are two or more, all within the image.
    """
    found = []
    for word in text.split():
        match = _POINT.fullmatch(word)
        x, y, height = (float(each or 0) for each in match.groups()) if match else (-1.0, -1.0, 0.0)
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(
                f"{word!r} is no point: write x,y or x,y,height with x and y in [0, 1]"
            )
        found.append((x, y, height))
    if len(found) < 2:
        raise ValueError(f"a path needs 2 points or more, got {len(found)}")
    return found
