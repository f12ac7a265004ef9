"""Sketches from programs and recordings: distances and pixels worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from embodied.data.sketch_sources import densify, hindsight, trace_through
from embodied.data.sketches import Camera
from embodied.structs import Episode
from embodied.suites import Hand

LOOKING_DOWN_X: dict[str, Any] = {  # from the origin along x; y is left, z is up
    "intrinsics": [[100, 0, 32], [0, 100, 24], [0, 0, 1]],
    "extrinsics": [[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]],
    "size": [48, 64],
}
CAMERA = Camera.of(LOOKING_DOWN_X)


def test_a_polyline_gets_points_between_its_corners_and_keeps_them() -> None:
    points, places = densify(np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 1.0]]), 2.0)
    np.testing.assert_array_equal(points, [[0, 0], [2, 0], [4, 0], [4, 1]])
    np.testing.assert_array_equal(places, [0, 2, 3])


def test_corners_at_one_place_stay_apart_in_time() -> None:
    points, places = densify(np.zeros((3, 2)), 1.0)
    assert points.shape == (3, 2)
    np.testing.assert_array_equal(places, [0, 1, 2])


def test_points_are_never_further_apart_than_the_spacing() -> None:
    corners = np.random.default_rng(0).uniform(0, 10, (20, 3))
    points, places = densify(corners, 0.3)
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).max() <= 0.3 + 1e-9
    np.testing.assert_allclose(points[places], corners, atol=1e-12)


def test_waypoints_appear_where_the_camera_sees_them_with_their_heights_and_marks() -> None:
    waypoints = [[2.0, 0.2, 0.0], [2.0, 0.0, 0.0], [2.0, 0.0, 0.1]]
    trace = trace_through(CAMERA, waypoints, closes=1, opens=2, spacing=0.05)
    assert (trace.closes, trace.opens, trace.size) == (4, 6, (48, 64))
    np.testing.assert_allclose(trace.points[[0, 4, 6]], [[22, 24], [32, 24], [32, 19]])
    np.testing.assert_allclose(trace.heights, [0, 0, 0, 0, 0, 0.05, 0.1])


@pytest.mark.parametrize(
    ("waypoints", "marks", "says"),
    [
        (np.zeros((0, 3)), {}, "waypoints must be"),
        (np.zeros((2, 2)), {}, "waypoints must be"),
        ([[1.0, 0, np.nan]], {}, "must be finite"),
        ([[1.0, 0, 0]], {"closes": 1}, "closes must be a waypoint from 0 to 0"),
        ([[1.0, 0, 0]], {"opens": -1}, "opens must be a waypoint"),
        ([[1.0, 0, 0]], {"spacing": 0.0}, "spacing must be above 0"),
        ([[1.0, 0, 0], [-1.0, 0, 0]], {}, "behind the camera"),
    ],
)
def test_a_path_that_nobody_can_see_is_refused(
    waypoints: Any, marks: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        trace_through(CAMERA, waypoints, **marks)


def test_a_recorded_episode_and_its_own_waypoints_give_one_sketch() -> None:
    path = np.array([[2.0, 0.1, 0.0], [2.0, 0.0, 0.1], [2.0, -0.1, 0.2]], np.float32)
    facts = {"cameras": {"front": LOOKING_DOWN_X}}
    episode = Episode(path, np.zeros((3, 1), np.float32), "", info=facts)
    recorded = hindsight(episode, "front", Hand())
    programmed = trace_through(CAMERA, path, spacing=1.0)
    np.testing.assert_allclose(recorded.points, programmed.points)
    np.testing.assert_allclose(recorded.heights, programmed.heights)
    with pytest.raises(ValueError, match="nobody recorded the matrices of camera 'side'"):
        hindsight(episode, "side", Hand())
