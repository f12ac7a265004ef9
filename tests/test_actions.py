"""Action spaces: conversions worked out by hand, there and back, and refusals that name both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from embodied.data.actions import ROTATION_DIM, ActionSpace, ActionSpaceError, convert

FORMS = ("euler_xyz", "rotvec", "quaternion", "rotation_6d")
TURN = np.pi / 2


def arm(mode: str = "absolute", rotation: str = "none", **changes: Any) -> ActionSpace:
    return ActionSpace("end_effector", mode, rotation, **{"gripper_dim": 1, **changes})  # type: ignore[arg-type]


def joints(mode: str = "absolute", **changes: Any) -> ActionSpace:
    return ActionSpace("joint", mode, **changes)  # type: ignore[arg-type]


def test_absolute_joints_become_the_way_that_is_left() -> None:
    action = np.array([[1.0, 2.0, 0.5], [2.0, 2.0, 1.0]])
    pose = np.array([[0.0, 2.0], [1.0, 3.0]])
    found = convert(action, joints(), joints("delta"), pose)
    assert found.tolist() == [[1.0, 0.0, 0.5], [1.0, -1.0, 1.0]]
    assert convert(found, joints("delta"), joints(), pose).tolist() == action.tolist()
    assert found.dtype == np.float32


def test_a_quarter_turn_in_every_form() -> None:
    turn = np.array([[0, 0, 0, 0, 0, TURN, 1.0]])  # about z, with the gripper closed
    expected = {
        "euler_xyz": [0, 0, TURN],
        "rotvec": [0, 0, TURN],
        "quaternion": [0, 0, np.sqrt(0.5), np.sqrt(0.5)],
        "rotation_6d": [0, 1, 0, -1, 0, 0],
    }
    for form, numbers in expected.items():
        found = convert(turn, arm(rotation="rotvec"), arm(rotation=form))
        np.testing.assert_allclose(found, [[0, 0, 0, *numbers, 1]], atol=1e-6)


def test_a_delta_turns_about_the_axes_of_the_base() -> None:
    # Held a quarter turn about z; the hand's own x axis is the base's y axis.
    pose = np.array([[0, 0, 0, 0, 0, TURN]])
    delta = np.array([[0.1, 0, 0, TURN, 0, 0, 0.0]])  # about the base's x axis
    found = convert(delta, arm("delta", "rotvec"), arm("absolute", "rotvec"), pose)
    expected = Rotation.from_rotvec([TURN, 0, 0]) * Rotation.from_rotvec([0, 0, TURN])
    np.testing.assert_allclose(found[0, 3:6], expected.as_rotvec(), atol=1e-6)
    assert found[0, 0] == pytest.approx(0.1)


def space(rotation: str, mode: str = "absolute") -> ActionSpace:
    return arm(mode, rotation, gripper_dim=0)


def poses(random: np.random.Generator, rotation: str) -> np.ndarray:
    turns = Rotation.from_quat(random.normal(size=(6, 4)))
    action = np.concatenate([random.normal(size=(6, 3)), turns.as_rotvec()], axis=1)
    return convert(action, space("rotvec"), space(rotation))


@given(form=st.sampled_from(FORMS), other=st.sampled_from(FORMS), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_absolute_to_delta_in_another_form_and_back(form: str, other: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    pose, aim = poses(random, form), poses(random, form)
    delta = convert(aim, space(form), space(other, "delta"), pose)
    assert delta.shape == (6, 3 + ROTATION_DIM[other])
    seen = convert(pose, space(form), space(other))
    back = convert(delta, space(other, "delta"), space(other), seen)
    found = convert(back, space(other), space("rotation_6d"))
    np.testing.assert_allclose(found, convert(aim, space(form), space("rotation_6d")), atol=1e-4)


def test_a_third_of_the_rate_adds_deltas_up_and_keeps_the_last_target() -> None:
    fast, slow = {"rate_hz": 30.0}, {"rate_hz": 10.0}
    action = np.arange(1.0, 8.0)[:, None].repeat(2, 1)  # joint and gripper, 7 steps
    deltas = convert(action, joints("delta", **fast), joints("delta", **slow))
    assert deltas.tolist() == [[6.0, 3.0], [15.0, 6.0], [7.0, 7.0]]
    targets = convert(action, joints(**fast), joints(**slow))
    assert targets.tolist() == [[3.0, 3.0], [6.0, 6.0], [7.0, 7.0]]
    pose = np.arange(0.0, 70.0, 10.0)[:, None]
    found = convert(action, joints("delta", **fast), joints(**slow), pose)
    assert found[:, 0].tolist() == [6.0, 30 + 15.0, 60 + 7.0]


def test_turns_add_up_in_their_order() -> None:
    turns = np.array([[0, 0, 0, TURN, 0, 0], [0, 0, 0, 0, TURN, 0], [0, 0, 0, 0, 0, TURN]])
    spaces = [arm("delta", "rotvec", gripper_dim=0, rate_hz=rate) for rate in (20.0, 10.0)]
    found = convert(turns, *spaces)
    first = Rotation.from_rotvec([0, TURN, 0]) * Rotation.from_rotvec([TURN, 0, 0])
    np.testing.assert_allclose(found[:, 3:], [first.as_rotvec(), [0, 0, TURN]], atol=1e-6)


def test_the_pose_does_not_matter_where_the_mode_stays() -> None:
    action = np.array([[1.0, 2.0, 3.0, 0.0]])
    assert convert(action, arm(), arm()).tolist() == action.tolist()


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        (joints(), arm(), "needs the robot's kinematics"),
        (joints(), joints("delta"), "needs `pose`"),
        (joints(), joints(gripper_dim=2), "another number of values"),
        (arm(), arm(rotation="rotvec"), "one has no rotation"),
        (joints(), joints(rate_hz=20.0), "whole factor, the source the faster"),
        (joints(rate_hz=25.0), joints(), "whole factor, the source the faster"),
    ],
)
def test_what_cannot_be_converted_is_refused_naming_both(
    source: ActionSpace, target: ActionSpace, why: str
) -> None:
    with pytest.raises(ActionSpaceError) as error:
        convert(np.zeros((2, 4)), source, target)
    assert str(source) in str(error.value)
    assert str(target) in str(error.value)
    assert why in str(error.value)


def test_a_space_says_what_it_is_and_refuses_nonsense() -> None:
    assert str(arm("delta", "rotvec")) == "delta end_effector rotvec + 1 gripper at 10 Hz"
    with pytest.raises(ValueError, match=r"rotation must be one of .*, got 'axis'"):
        arm(rotation="axis")
    with pytest.raises(ValueError, match="joint actions have rotation='none', got 'rotvec'"):
        joints(rotation="rotvec")
    with pytest.raises(ValueError, match="rate_hz > 0"):
        joints(rate_hz=0.0)
    with pytest.raises(ActionSpaceError, match=r"actions of 5 numbers .* which have 4"):
        convert(np.zeros((1, 5)), arm(), arm())
