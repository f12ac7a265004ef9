"""Trajectory sketches: cameras by hand, colours by the paper's formulas."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.data.sketches import (
    Camera,
    Trace,
    draw,
    following_error,
    grips,
    trace_hand,
    trace_path,
)
from embodied.suites import Hand

LOOKING_DOWN_X = {  # the camera stands at the origin and looks along x; y is left, z is up
    "intrinsics": [[100, 0, 32], [0, 100, 24], [0, 0, 1]],
    "extrinsics": [[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]],
    "size": [48, 64],
}


def line(heights: list[float], **marks: int) -> Trace:
    points = np.array([[4.0 + 8 * t, 10.0] for t in range(len(heights))])
    return Trace(points, np.array(heights), (32, 64), **marks)


def test_a_point_appears_where_the_pinhole_says() -> None:
    camera = Camera.of(LOOKING_DOWN_X)
    pixels, depths = camera.project(np.array([[2.0, 0, 0], [2, 0.2, 0], [2, 0, 0.2], [-1, 0, 0]]))
    np.testing.assert_allclose(pixels[:3], [[32, 24], [22, 24], [32, 14]])
    np.testing.assert_allclose(depths, [2, 2, 2, -1])


def test_time_is_red_and_height_is_green() -> None:
    image = draw(line([0.0, 0.5, 1.0, 0.5]), width=1)
    middles = image[10, [8, 16, 24]]
    np.testing.assert_array_equal(middles[:, 0], np.round(255 * np.array([0.25, 0.5, 0.75])))
    np.testing.assert_array_equal(middles[:, 1], np.round(255 * np.array([0.5, 1.0, 0.5])))
    assert not image[..., 2].any()
    assert not image[11:].any()


def test_a_lift_and_a_level_move_differ_only_in_height() -> None:
    lift, level = line([0.0, 0.1, 0.3]), line([0.2, 0.2, 0.2])
    assert not np.array_equal(draw(lift), draw(level))
    np.testing.assert_array_equal(draw(lift, with_height=False), draw(level, with_height=False))


def test_circles_mark_where_the_gripper_closes_and_opens() -> None:
    image = draw(line([0.0] * 6, closes=1, opens=4), width=1)
    np.testing.assert_array_equal(image[10, 12], [0, 255, 0])
    np.testing.assert_array_equal(image[10, 36], [0, 0, 255])
    np.testing.assert_array_equal(image[12, 12], [0, 255, 0])  # within three pixels


@pytest.mark.parametrize(
    ("closing", "found"),
    [
        ([0, 0, 0], (None, None)),
        ([0, 1, 1, 0, 1], (1, 3)),
        ([0, 0, 1], (2, None)),
        ([0.4, 0, 0], (None, None)),
    ],
)
def test_a_gripper_that_is_blocked_holds_something(
    closing: list[float], found: tuple[int | None, int | None]
) -> None:
    assert grips(np.array(closing), 0.5) == found


def test_a_trace_comes_back_from_json_and_scales() -> None:
    trace = line([0.0, 0.25], closes=1)
    again = Trace.from_json(trace.to_json())
    np.testing.assert_array_equal(again.points, trace.points)
    np.testing.assert_array_equal(again.heights, trace.heights)
    assert (again.size, again.closes, again.opens) == ((32, 64), 1, None)
    np.testing.assert_array_equal(trace.scaled((64, 32)).points, [[1.75, 20.5], [5.75, 20.5]])


def test_a_scaled_sketch_is_what_a_camera_of_that_size_sees() -> None:
    def camera(height: int) -> Camera:  # square, 90 degrees, as `FrameRenderer.matrices` has it
        middle = (height - 1) / 2
        intrinsics = [[height / 2, 0, middle], [0, height / 2, middle], [0, 0, 1]]
        return Camera.of(LOOKING_DOWN_X | {"intrinsics": intrinsics, "size": [height, height]})

    path = np.array([[1.0, 0.3, 0.2], [2.0, -0.5, 0.1]])
    large, small = (trace_path(path, camera(height)) for height in (480, 84))
    np.testing.assert_allclose(large.scaled((84, 84)).points, small.points)


@pytest.mark.parametrize(
    "text",
    [
        '{"points": [], "heights": [], "size": [1, 1]}',
        '{"points": [[0, 0]], "heights": [0, 1], "size": [1, 1]}',
        '{"points": [[0, 0]], "heights": [0], "size": [1, 1], "closes": 1}',
        '{"points": [[0, 0]], "heights": [0], "size": [1, 1], "opens": true}',
        '{"points": [[0, 0]], "heights": [[0]], "size": [1, 1]}',
        '{"points": [[0, NaN]], "heights": [0], "size": [1, 1]}',
        '{"points": [[0, 0]], "heights": [1e999], "size": [1, 1]}',
        '{"points": [[0, 0]], "heights": [0], "size": [1, 1e9]}',
        '{"points": [[0, 0]], "heights": [0], "size": [0, 1]}',
        '{"points": [[0, 0]], "heights": [1%s], "size": [1, 1]}' % ("0" * 400),
        '{"heights": [0], "size": [1, 1]}',
        "[" * 100_000,
        "[1]",
        "null",
    ],
    ids=range(14),
)
def test_what_is_no_trace_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a trace (needs|is)"):
        Trace.from_json(text)


def test_a_camera_without_a_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="extrinsics must be"):
        Camera.of(LOOKING_DOWN_X | {"extrinsics": [[1, 0], [0, 1]]})


def test_following_is_measured_to_the_line_and_not_to_its_corners() -> None:
    sketch = np.array([[0.0, 0.0], [10.0, 0.0]])
    assert following_error(np.array([[5.0, 3.0], [12.0, 0.0]]), sketch) == pytest.approx(2.5)
    assert following_error(np.array([[3.0, 4.0]]), np.zeros((1, 2))) == pytest.approx(5.0)


TILTED = {  # looks down at 45 degrees from 1 m in front of and above the table; x to the right
    "intrinsics": [[80, 0, 32], [0, 80, 32], [0, 0, 1]],
    "extrinsics": [
        [1, 0, 0, 0],
        [0, -(0.5**0.5), -(0.5**0.5), 0],
        [0, 0.5**0.5, -(0.5**0.5), 2**0.5],
    ],
    "size": [64, 64],
}


def test_a_lift_and_a_depth_move_along_the_same_pixels_differ_in_height_alone() -> None:
    camera, heights = Camera.of(TILTED), np.linspace(0, 0.2, 9)
    lift = np.stack([np.full(9, 0.05), np.zeros(9), heights], axis=1)
    eye = np.array([0.0, -1.0, 1.0])
    depth = eye + (lift - eye) / (1 - heights[:, None])  # along each ray down to the table
    assert np.ptp(depth[:, 2]) < 1e-12
    assert depth[-1, 1] > 0.2
    actions = np.zeros((9, 1), np.float32)
    one, other = (
        trace_hand(path.astype(np.float32), actions, camera, Hand()) for path in (lift, depth)
    )
    np.testing.assert_allclose(one.points, other.points, atol=1e-4)
    flat = [draw(trace, with_height=False) for trace in (one, other)]
    np.testing.assert_array_equal(*flat)
    solid = draw(one), draw(other)
    np.testing.assert_array_equal(solid[0][..., ::2], solid[1][..., ::2])
    assert solid[0][..., 1].max() == 255
    assert not solid[1][..., 1].any()
