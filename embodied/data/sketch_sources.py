"""Where trajectory sketches come from, besides a person's hand (`embodied.sketching`).

RT-Trajectory (Gu et al. 2024, arXiv:2311.01977, Sec. 3.3) draws the same kind of sketch from a
recorded episode and from a program's waypoints; both need the camera's matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.data.sketches import Camera, Trace, Vector, grips
from embodied.structs import Episode


def densify(corners: Vector, spacing: float) -> tuple[Vector, NDArray[np.int64]]:
    """Points along a polyline, so that a sketch's colours change evenly on it.

    Args:
        corners: (M, D), kept among the points; equal neighbours are kept apart in time.
        spacing: the largest distance between neighbouring points, in the corners' unit.

    Returns:
        The points (L, D), and which of them are the corners, (M,).
    """
    if not spacing > 0:
        raise ValueError(f"spacing must be above 0, got {spacing}")
    lengths = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    pieces = np.maximum(np.ceil(lengths / spacing - 1e-9), 1)
    places = np.concatenate([[0], np.cumsum(pieces)]).astype(np.int64)
    steps = np.arange(places[-1] + 1)
    columns = [np.interp(steps, places, column) for column in corners.T]
    return np.stack(columns, axis=1), places


def trace_of(
    camera: Camera, path: Vector, *, closes: int | None = None, opens: int | None = None
) -> Trace:
    """A path (L, 3) of the hand, in m in the frame of the camera's extrinsics, as a camera sees it.

    Args:
        closes, opens: see `Trace`.

    Raises:
        ValueError: a point is behind the camera, so that no pixel shows it.
    """
    pixels, depths = camera.project(path)
    if (depths <= 0).any():
        raise ValueError(
            f"the hand is behind the camera at step {int(depths.argmin())}; correct the camera's "
            "extrinsics, or which numbers are the hand's position"
        )
    return Trace(pixels, path[:, 2], camera.size, closes, opens)


def trace_through(
    camera: Camera,
    waypoints: Sequence[Sequence[float]] | Vector,
    *,
    closes: int | None = None,
    opens: int | None = None,
    spacing: float = 0.01,
) -> Trace:
    """The straight path through a program's waypoints (M, 3), in m in the extrinsics' frame.

    Args:
        closes, opens: the waypoints at which the gripper closes on something and lets it go.
        spacing: of the points between them, in m.

    Raises:
        ValueError: no waypoints, marks that are none of them, or a path behind the camera.
    """
    corners = np.asarray(waypoints, np.float64)
    if corners.ndim != 2 or corners.shape[1] != 3 or not len(corners):
        raise ValueError(f"waypoints must be (M, 3) with M of 1 or more, got {corners.shape}")
    if not np.isfinite(corners).all():
        raise ValueError(f"waypoints must be finite, got {corners.tolist()}")
    path, places = densify(corners, spacing)
    marks = {"closes": closes, "opens": opens}
    for name, mark in marks.items():
        if mark is not None and not 0 <= mark < len(corners):
            last = len(corners) - 1
            raise ValueError(f"{name} must be a waypoint from 0 to {last} or None, got {mark}")
    return trace_of(
        camera,
        path,
        closes=None if closes is None else int(places[closes]),
        opens=None if opens is None else int(places[opens]),
    )


def hindsight(
    episode: Episode,
    camera: str,
    *,
    position: Sequence[int] = (0, 1, 2),
    gripper: int | None = None,
    command: int = -1,
    closed: float = 0.0,
    threshold: float = 0.1,
    matrices: Mapping[str, Any] | None = None,
) -> Trace:
    """The path that the hand took in a recorded episode.

    Args:
        camera: whose image it is drawn on.
        position: which three numbers of the state are the hand's position, in m, in the frame of
            the camera's extrinsics.
        gripper: which number of the state is the gripper's opening; None draws no marks.
        command: which number of the action closes the gripper, the larger the further.
        closed: the gripper's opening when it is closed on nothing.
        threshold: how much wider it must stay, told to close, to hold something.
        matrices: the camera's `intrinsics`, `extrinsics` and `size` where the episode does not
            have them in `info["cameras"]`.

    Raises:
        ValueError: nobody knows the matrices, or they do not show the hand.
    """
    facts = matrices or episode.info.get("cameras", {}).get(camera)
    if facts is None:
        raise ValueError(
            f"nobody recorded the matrices of camera {camera!r}; give label.matrices="
            "{intrinsics: ..., extrinsics: ..., size: [height, width]}"
        )
    closes, opens = None, None
    if gripper is not None:
        opening = columns(episode.state, [gripper])[:, 0]
        told = columns(episode.action, [command])[:, 0]
        closes, opens = grips((told > 0) * (opening - closed), threshold)
    path = columns(episode.state, position).astype(np.float64)
    return trace_of(Camera.of(facts), path, closes=closes, opens=opens)


def columns(values: NDArray[np.float32], chosen: Sequence[int]) -> NDArray[np.float32]:
    """Those columns of (L, W) values; raises ValueError where there is none of that number."""
    width = values.shape[1]
    wrong = [i for i in chosen if not -width <= i < width]
    if wrong:
        raise ValueError(f"columns {wrong} do not exist: there are {width}, counted from 0")
    return values[:, list(chosen)]
