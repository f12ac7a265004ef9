"""Commands stay within position, velocity and acceleration limits, whatever is asked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodied.deploy.drill.checks import limit_problems
from embodied.deploy.drill.motion_rows import random_walks
from embodied.deploy.limiter import Motion, brake, braking_path, follow, stop_speed
from embodied.deploy.limits import Limits
from tests.robots import limits

DT = 0.01


def braking_way(speed: float, acceleration: float, dt: float) -> float:
    """The obvious version: tick by tick."""
    way = 0.0
    while speed > 0:
        way, speed = way + speed * dt, speed - acceleration * dt
    return way


@given(st.floats(0.0, 10.0), st.floats(0.1, 10.0), st.sampled_from([0.004, 0.01, 0.05]))
def test_the_stop_speed_uses_up_the_room_exactly(room: float, a: float, dt: float) -> None:
    speed = float(stop_speed(np.array(room), np.array(a), dt))
    assert braking_way(speed, a, dt) == pytest.approx(room, rel=1e-6, abs=1e-9)


def test_stop_speeds_worked_out_by_hand() -> None:
    # With a = 1 and dt = 1, a speed of 2 goes 2 + 1, of 2.5 goes 2.5 + 1.5 + 0.5.
    found = stop_speed(np.array([0.0, 0.25, 1.0, 3.0, 4.5, 6.0]), np.ones(6), 1.0)
    np.testing.assert_allclose(found, [0.0, 0.25, 1.0, 2.0, 2.5, 3.0])


def test_it_is_never_slower_than_braking_in_continuous_time_with_a_margin() -> None:
    room, a = np.linspace(0.01, 2.0, 50), 1.5
    margin = a * DT**2 / 8
    bound = a * (-DT / 2 + np.sqrt(DT**2 / 4 + 2 * (room - margin) / a))
    assert (stop_speed(room, np.array(a), DT) >= bound - 1e-12).all()


def walk(targets: list[list[float]], found: Limits, start: list[float]) -> list[Motion]:
    motions = [Motion.still(np.array(start))]
    for target in targets:
        motions.append(follow(motions[-1], np.array(target), found, DT)[0])
    return motions


def test_what_keeps_the_limits_is_commanded_as_it_is() -> None:
    times = np.arange(200) * DT
    targets = 0.1 * (1 - np.cos(2 * times))[:, None] * [1.0, -1.0]  # at most 0.2 rad/s, 0.4 rad/s^2
    motion = Motion.still(np.zeros(2))
    for target in targets:
        motion, clips = follow(motion, target, limits(), DT)
        np.testing.assert_allclose(motion.position, target, atol=1e-12)
        assert not (clips.position | clips.velocity | clips.acceleration).any()


def test_a_far_target_is_reached_without_overshooting_and_kept() -> None:
    motions = walk([[0.6, -0.3]] * 300, limits(), [0.0, 0.0])
    positions = np.stack([motion.position for motion in motions])
    assert positions[:, 0].max() <= 0.6 + 1e-9
    assert positions[:, 1].min() >= -0.3 - 1e-9
    np.testing.assert_allclose(positions[-1], [0.6, -0.3], atol=1e-9)
    # 0.25 s to 0.5 rad/s and the same to stop cover 0.125 rad; the rest at full speed.
    reached = int(np.argmax(positions[:, 0] > 0.6 - 1e-6)) * DT
    assert reached == pytest.approx(0.5 + (0.6 - 0.125) / 0.5, abs=3 * DT)


def test_a_target_beyond_a_limit_ends_at_the_limit() -> None:
    motions = walk([[9.0, 0.0]] * 500, limits(), [0.0, 0.0])
    assert max(motion.position[0] for motion in motions) <= 1.0
    assert motions[-1].position[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("target", "kind"),
    [([2.0, 0.0], "position"), ([0.5, 0.0], "velocity"), ([0.004, 0.0], "acceleration")],
)
def test_each_clip_is_named(target: list[float], kind: str) -> None:
    clips = follow(Motion.still(np.zeros(2)), np.array(target), limits(), DT)[1]
    assert getattr(clips, kind)[0]
    assert not getattr(clips, kind)[1]


def test_braking_stops_as_fast_as_allowed_and_where_it_was_foretold() -> None:
    motion = walk([[1.0, -1.0]] * 40, limits(), [0.0, 0.0])[-1]
    foretold, positions = braking_path(motion, limits(), DT), [motion.position]
    for _ in range(len(foretold) - 1):
        motion = brake(motion, limits(), DT)
        positions.append(motion.position)
    np.testing.assert_allclose(positions, foretold, atol=1e-12)
    assert (motion.velocity == 0).all()
    assert len(foretold) - 1 == math.ceil(0.5 / 2.0 / DT)


def test_rates_come_to_rest_and_other_axes_where_they_are() -> None:
    found = limits(rest=[0.0, None], velocity=[5.0, 0.5])
    motion = walk([[0.8, 0.5]] * 100, found, [0.0, 0.0])[-1]
    stopped = motion.position[1] + braking_way(motion.velocity[1], 2.0, DT)
    for _ in range(300):
        motion = brake(motion, found, DT)
    assert motion.position[0] == pytest.approx(0.0, abs=1e-9)
    assert motion.position[1] == pytest.approx(stopped - motion.velocity[1] * DT, abs=0.01)


def test_a_robot_outside_its_limits_comes_back_at_their_speed() -> None:
    motions = walk([[0.0, 0.0]] * 5, limits(), [1.5, 0.0])
    positions = np.array([motion.position[0] for motion in motions])
    assert (np.diff(positions) < 0).all()
    assert np.abs(np.diff(positions)).max() <= 0.5 * DT


def test_ten_thousand_random_commands_break_no_limit() -> None:
    assert random_walks(limits(), DT, rows=50, ticks=200) == []


@pytest.mark.slow
def test_a_million_random_commands_break_no_limit() -> None:
    assert random_walks(limits(), DT, rows=1000, ticks=1000) == []


def test_broken_limits_are_noticed() -> None:
    found = limits()
    still = np.zeros((10, 2))
    assert limit_problems(still, found, DT) == []
    jump = still.copy()
    jump[5:, 0] = 0.1
    assert any("velocity" in problem for problem in limit_problems(jump, found, DT))
    outside = still + np.array([1.1, 0.0])
    assert any("position" in problem for problem in limit_problems(outside, found, DT))
    assert limit_problems(still * np.nan, found, DT) == ["a command is not finite"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"velocity": np.array([0.5, np.inf])}, "velocity must be finite"),
        ({"low": np.array([2.0, 0.0])}, "low < high"),
        ({"low": np.zeros(3)}, r"low has shape \(3,\), but there are 2 names"),
        ({"rest": [0.0, 3.0]}, "rest must lie within"),
        ({"units": ("rad",)}, "with a unit each"),
        ({"names": ("a", "a")}, "names must differ"),
    ],
)
def test_limits_that_cannot_be_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"E_ROBOT_CONFIG: limits: .*{message}"):
        limits(**fields)
