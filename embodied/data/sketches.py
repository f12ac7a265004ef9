"""Trajectory sketches: the path of a hand, drawn as a camera would have seen it.

RT-Trajectory (Gu et al. 2024, arXiv:2311.01977, Sec. 3.2): colours tell time and height, circles
tell where the gripper begins to close and to open.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from embodied.suites import Hand

Vector = NDArray[np.float64]
_MAX_POINTS = 100_000
_MAX_SIDE = 16_384  # pixels
_FARTHEST = 1e6  # pixels, or m


@dataclass(frozen=True)
class Camera:
    """A pinhole camera, x to the right of the image, y down, z into the scene.

    Attributes:
        intrinsics: (3, 3), in pixels of an image of `size`.
        extrinsics: (3, 4) [R|t] from the robot's frame (m) to the camera's.
        size: (height, width) in pixels.
    """

    intrinsics: Vector
    extrinsics: Vector
    size: tuple[int, int]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """From what `episode.info["cameras"]` or a file says: the fields as lists."""
        arrays = {}
        for name, shape in (("intrinsics", (3, 3)), ("extrinsics", (3, 4))):
            array = np.asarray(facts.get(name), np.float64)
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(
                    f"a camera's {name} must be {shape} finite numbers, got {facts.get(name)!r}"
                )
            arrays[name] = array
        height, width = facts["size"]
        return cls(**arrays, size=(int(height), int(width)))

    def project(self, points: NDArray[np.floating]) -> tuple[Vector, Vector]:
        """Where points (L, 3) appear, u = K [R|t] p: pixels (L, 2) as (x, y), and depths (L,) in m.

        A point behind the camera has a depth below 0 and no meaningful pixel.
        """
        inside = points @ self.extrinsics[:, :3].T + self.extrinsics[:, 3]
        seen = inside @ self.intrinsics.T
        with np.errstate(divide="ignore", invalid="ignore"):
            return seen[:, :2] / seen[:, 2:], inside[:, 2]


@dataclass(frozen=True)
class Trace:
    """A path in an image.

    Attributes:
        points: (L, 2) pixels (x, y) of an image of `size`, in order of time.
        heights: (L,) in m above any level.
        closes, opens: the points at which the gripper begins to close on something, and the first
            at which it no longer does; None where it never does.
        size: (height, width) in pixels.
    """

    points: Vector
    heights: Vector
    size: tuple[int, int]
    closes: int | None = None
    opens: int | None = None

    def to_json(self) -> str:
        """The content of LeRobot's `trace` annotations."""
        facts = {
            "points": np.round(self.points, 2).tolist(),
            "heights": np.round(self.heights, 4).tolist(),
            "size": list(self.size),
            "closes": self.closes,
            "opens": self.opens,
        }
        return json.dumps(facts)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError where the text, which may be anybody's, is no trace."""
        try:
            facts = json.loads(text)
            points = np.asarray(facts["points"], np.float64).reshape(-1, 2)
            heights = np.asarray(facts["heights"], np.float64)
            height, width = facts["size"]
            marks = [facts.get("closes"), facts.get("opens")]
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"a trace is a JSON object of points, heights and size, got {text[:80]!r}"
            ) from error
        if not all(type(side) is int and 0 < side <= _MAX_SIDE for side in (height, width)):
            raise ValueError(
                f"a trace needs a size of two whole numbers from 1 to {_MAX_SIDE}, "
                f"got {facts['size']!r}"
            )
        if not (np.abs(points) <= _FARTHEST).all() or not (np.abs(heights) <= _FARTHEST).all():
            raise ValueError(f"a trace needs finite points and heights within {_FARTHEST:g}")
        sound = heights.shape == (len(points),) and 0 < len(points) <= _MAX_POINTS
        if not sound or not all(_is_mark(mark, len(points)) for mark in marks):
            raise ValueError(
                f"a trace needs 1 to {_MAX_POINTS} points, as many heights and marks among them, "
                f"got {len(points)} points, {heights.size} heights and marks {marks}"
            )
        return cls(points, heights, (height, width), *marks)

    def scaled(self, size: tuple[int, int]) -> Self:
        """The same path in an image of another size; whole numbers are the pixels' centres."""
        factor = np.array([size[1] / self.size[1], size[0] / self.size[0]])
        points = (self.points + 0.5) * factor - 0.5
        return type(self)(points, self.heights, size, self.closes, self.opens)


def trace_hand(
    state: NDArray[np.float32], action: NDArray[np.float32], camera: Camera, hand: Hand
) -> Trace:
    """The path of the hand through states (L, S) under actions (L, A), as a camera sees it.

    Raises ValueError where a number of `hand` does not exist, or the hand is behind the camera.
    """
    closes, opens = None, None
    if hand.gripper is not None:
        opening = columns(state, [hand.gripper])[:, 0]
        command = columns(action, [hand.command])[:, 0]
        closes, opens = grips((command > 0) * (opening - hand.closed), hand.threshold)
    return trace_path(columns(state, hand.position).astype(np.float64), camera, closes, opens)


def trace_path(
    path: Vector, camera: Camera, closes: int | None = None, opens: int | None = None
) -> Trace:
    """A path (L, 3) in m, in the frame of the camera's extrinsics, as a camera sees it.

    Raises ValueError where the hand is behind the camera.
    """
    pixels, depths = camera.project(path)
    if (depths <= 0).any():
        raise ValueError(
            f"the hand is behind the camera at step {int(depths.argmin())}; correct the camera's "
            "extrinsics, or `position`"
        )
    return Trace(pixels, path[:, 2], camera.size, closes, opens)


def columns(values: NDArray[np.float32], which: Sequence[int]) -> NDArray[np.float32]:
    """Columns of (L, N), which may be counted from the end. Raises ValueError for missing ones."""
    width = values.shape[1]
    wrong = [i for i in which if not -width <= i < width]
    if wrong:
        raise ValueError(f"columns {wrong} do not exist: there are {width}, counted from 0")
    return values[:, list(which)]


def grips(closing: NDArray[np.floating], threshold: float) -> tuple[int | None, int | None]:
    """When a gripper begins to hold something, and when it lets go.

    Args:
        closing: (L,) how far the gripper is commanded to close beyond what it does: a gripper that
            is blocked by an object does not reach its command.
        threshold: above which it interacts.
    """
    interacting = np.flatnonzero(np.asarray(closing) > threshold)
    if not len(interacting):
        return None, None
    first = int(interacting[0])
    after = np.flatnonzero(np.asarray(closing[first:]) <= threshold)
    return first, first + int(after[0]) if len(after) else None


def draw(trace: Trace, *, with_height: bool = True, width: int = 2) -> NDArray[np.uint8]:
    """The sketch (h, w, 3), RGB on black.

    The segment from point t to t + 1 of T is red (t + 1) / T and, in the 2.5-D sketch, green by the
    height of its end between the least and the largest. A green circle marks where the gripper
    closes, a blue one where it opens.

    Args:
        with_height: False draws the 2-D sketch.
        width: of the line, in pixels; circles have three times that radius.
    """
    height, image_width = trace.size
    image = Image.new("RGB", (image_width, height))
    canvas = ImageDraw.Draw(image)
    points = [tuple(point) for point in trace.points.tolist()]
    reds = np.arange(1, len(points) + 1) / len(points)
    greens = _spread(trace.heights) if with_height else np.zeros(len(points))
    for t in range(len(points) - 1):
        colour = (round(255 * reds[t]), round(255 * greens[t + 1]), 0)
        canvas.line([points[t], points[t + 1]], fill=colour, width=width)
    for mark, circle in ((trace.closes, (0, 255, 0)), (trace.opens, (0, 0, 255))):
        if mark is not None:
            canvas.circle(points[mark], 3 * width, fill=circle)
    return np.asarray(image)


def following_error(path: Vector, sketch: Vector) -> float:
    """How far a path (L, 2) strays from a sketch (M, 2): the mean over the path's points of the
    distance to the nearest point of the sketch's polyline, in the unit of both.

    Who stands still on a sketch does not stray; see the error with the two exchanged for how much
    of a sketch a path leaves out.
    """
    starts = sketch if len(sketch) == 1 else sketch[:-1]
    along = np.zeros_like(sketch) if len(sketch) == 1 else np.diff(sketch, axis=0)
    lengths = np.maximum((along**2).sum(1), np.finfo(np.float64).tiny)
    offsets = path[:, None] - starts  # (L, M, 2)
    places = np.clip((offsets * along).sum(-1) / lengths, 0, 1)
    gaps = np.linalg.norm(offsets - places[..., None] * along, axis=-1)
    return float(gaps.min(1).mean())


def _is_mark(mark: object, count: int) -> bool:
    return mark is None or (type(mark) is int and 0 <= mark < count)


def _spread(heights: Vector) -> Vector:
    low, high = heights.min(), heights.max()
    return (heights - low) / (high - low) if high > low else np.zeros(len(heights))
