"""What the page sends: a path, heights at some of its points, and marks. Nothing is trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embodied.data.sketch_sources import densify
from embodied.data.sketches import Trace, Vector, draw

_MAX_CORNERS = 5000
_MAX_CROSSINGS = 20  # of the whole image; longer paths are scribbles, and slow to draw
_FIELDS = ("points", "heights", "closes", "opens")


class DrawingError(ValueError):
    """A message that is no drawing.

    Attributes:
        field: what is wrong in it, such as `points[3]`.
        value: what it holds, shortened.
        remedy: what it must be.
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        shown = repr(value)
        self.field, self.remedy = field, remedy
        self.value = shown if len(shown) <= 60 else f"{shown[:57]}..."
        super().__init__(f"{field} must be {remedy}, got {self.value}")


@dataclass(frozen=True)
class Sheet:
    """What a person draws on, and how a policy will see the drawing.

    Attributes:
        image: (h, w, 3) uint8, what the camera sees when the task is given.
        title: what shall be done, in words.
        heights: the lowest and the highest that can be drawn, m.
        sketch_size: (height, width) in pixels of the policy's sketch.
        width: of the sketch's line in pixels; see `draw`.
    """

    image: NDArray[np.uint8]
    title: str
    heights: tuple[float, float]
    sketch_size: tuple[int, int]
    width: int

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(
                f"image must be (h, w, 3) uint8, got {self.image.shape} {self.image.dtype}"
            )
        if not self.heights[0] < self.heights[1]:
            raise ValueError(f"heights must be [lowest, highest] in m, got {list(self.heights)}")
        if min(self.sketch_size) < 1 or self.width < 1:
            raise ValueError(
                "sketch_size and width must be 1 pixel or more, got "
                f"{list(self.sketch_size)} and {self.width}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def sketch(self, trace: Trace, *, with_height: bool) -> NDArray[np.uint8]:
        """The policy's sketch (h, w, 3), 2.5-D or 2-D."""
        return draw(trace.scaled(self.sketch_size), with_height=with_height, width=self.width)


@dataclass(frozen=True)
class Drawing:
    """A path as it was drawn.

    Attributes:
        corners: (M, 2) pixels (x, y) of the sheet's image, whose pixels' centres are whole numbers.
        keys: corner -> height in m; linear in between, level before the first and after the last.
        closes, opens: the corners at which the gripper closes and opens.
        level: the height in m where there are no keys.
        size: (height, width) of the image in pixels.
    """

    corners: Vector
    keys: Mapping[int, float]
    closes: int | None
    opens: int | None
    level: float
    size: tuple[int, int]

    @classmethod
    def from_json(cls, text: bytes, sheet: Sheet) -> Self:
        """Raises DrawingError, which names the field, where the message is no drawing."""
        facts = _read(text)
        corners = _corners(facts["points"], sheet.size)
        keys = _keys(facts["heights"], len(corners), sheet.heights)
        closes, opens = (_mark(facts[name], name, len(corners)) for name in ("closes", "opens"))
        if closes is not None and opens is not None and opens <= closes:
            raise DrawingError("opens", opens, f"a point after the one that closes, {closes}")
        return cls(corners, keys, closes, opens, sheet.heights[0], sheet.size)

    def trace(self) -> Trace:
        """The path with a point in every pixel, equal to what comes back from a file."""
        points, places = densify(self.corners, spacing=1.0)
        heights = self._heights(places, np.arange(len(points)))
        marks = [None if at is None else int(places[at]) for at in (self.closes, self.opens)]
        return Trace.from_json(Trace(points, heights, self.size, *marks).to_json())

    def heights_at_corners(self) -> Vector:
        """(M,) in m."""
        _, places = densify(self.corners, spacing=1.0)
        return self._heights(places, places)

    def _heights(self, places: NDArray[np.int64], steps: NDArray[np.int64]) -> Vector:
        keys = sorted(self.keys)
        if not keys:
            return np.full(len(steps), self.level)
        return np.interp(steps, places[keys], [self.keys[key] for key in keys])


def _read(text: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DrawingError("the message", text[:60], "JSON in UTF-8") from error
    if not isinstance(facts, dict) or set(facts) != set(_FIELDS):
        found = sorted(facts) if isinstance(facts, dict) else facts
        raise DrawingError("the message", found, f"an object of {', '.join(_FIELDS)}")
    return facts


def _corners(points: Any, size: tuple[int, int]) -> Vector:
    if not isinstance(points, list) or not 2 <= len(points) <= _MAX_CORNERS:
        found = f"{len(points)} points" if isinstance(points, list) else points
        raise DrawingError("points", found, f"a list of 2 to {_MAX_CORNERS} points")
    height, width = size
    for i, point in enumerate(points):
        if not (
            _is_pair(point)
            and _within(point[0], -0.5, width - 0.5)
            and _within(point[1], -0.5, height - 0.5)
        ):
            bounds = f"x from -0.5 to {width - 0.5} and y from -0.5 to {height - 0.5}"
            raise DrawingError(f"points[{i}]", point, f"[x, y] in the image: {bounds}")
    corners = np.array(points, np.float64)
    length = np.linalg.norm(np.diff(corners, axis=0), axis=1).sum()
    if length > (longest := _MAX_CROSSINGS * (height + width)):
        raise DrawingError("points", f"{length:.0f}", f"a path of at most {longest} pixels")
    return corners


def _keys(pairs: Any, count: int, bounds: tuple[float, float]) -> dict[int, float]:
    if not isinstance(pairs, list) or len(pairs) > count:
        raise DrawingError("heights", pairs, f"a list of at most {count} pairs [point, m]")
    keys: dict[int, float] = {}
    for i, pair in enumerate(pairs):
        if not (_is_pair(pair) and _is_index(pair[0], count) and _within(pair[1], *bounds)):
            remedy = f"[point from 0 to {count - 1}, m from {bounds[0]:g} to {bounds[1]:g}]"
            raise DrawingError(f"heights[{i}]", pair, remedy)
        if pair[0] in keys:
            raise DrawingError(f"heights[{i}]", pair, "of a point that has no height yet")
        keys[pair[0]] = float(pair[1])
    return keys


def _mark(value: Any, name: str, count: int) -> int | None:
    if value is not None and not _is_index(value, count):
        raise DrawingError(name, value, f"a point from 0 to {count - 1}, or null")
    mark: int | None = value
    return mark


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _is_index(value: Any, count: int) -> bool:
    return type(value) is int and 0 <= value < count


def _within(value: Any, low: float, high: float) -> bool:
    """Whether it is a number in the bounds; NaN is not, nor is true."""
    return type(value) in (int, float) and low <= value <= high
