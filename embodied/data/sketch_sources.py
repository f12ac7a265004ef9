"""Where trajectory sketches come from, besides a person's hand (`embodied.sketching`).

RT-Trajectory (Gu et al. 2024, arXiv:2311.01977, Sec. 3.3) draws the same kind of sketch from a
recorded episode and from a program's waypoints; both need the camera's matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.data.sketches import Camera, Trace, Vector, trace_hand, trace_path
from embodied.structs import Episode
from embodied.suites import Hand


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
    return trace_path(
        path,
        camera,
        closes=None if closes is None else int(places[closes]),
        opens=None if opens is None else int(places[opens]),
    )


def hindsight(
    episode: Episode, camera: str, hand: Hand, *, matrices: Mapping[str, Any] | None = None
) -> Trace:
    """The path that the hand took in a recorded episode, in the image of a camera.

    Args:
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
    return trace_hand(episode.state, episode.action, Camera.of(facts), hand)
