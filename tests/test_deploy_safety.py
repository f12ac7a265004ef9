"""What the supervisor lets through, and what it says of the rest."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embodied.deploy.drill.policy_rows import bad_chunks, spoil
from embodied.deploy.safety import CHECKS, SafetySupervisor, check_chunk
from tests.robots import box, chunk, limits

DT = 0.01
GOOD = chunk(np.zeros((8, 2)))


@pytest.mark.parametrize("name", bad_chunks(2))
def test_a_chunk_with_one_bad_value_is_refused_whole(name: str) -> None:
    assert check_chunk(GOOD, limits()) is None
    problem = check_chunk(spoil(GOOD, bad_chunks(2)[name]), limits())
    assert problem is not None
    assert problem.startswith("E_ROBOT_ACTION: chunk ")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_each_check_is_needed(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = [each for each in CHECKS if each is not check]
    monkeypatch.setattr("embodied.deploy.safety.CHECKS", rest)
    passed = []
    for how in bad_chunks(2).values():
        with contextlib.suppress(TypeError):  # a later check met what it cannot read
            passed.append(check_chunk(spoil(GOOD, how), limits()) is None)
    assert any(passed)


def test_the_message_names_joint_value_and_step() -> None:
    actions = np.zeros((8, 2))
    actions[5, 1] = np.nan
    problem = check_chunk(chunk(actions, request_id=17), limits())
    assert problem is not None
    assert "chunk 17 is refused whole: elbow.pos is nan at step 5 of 8" in problem


def supervisor(**fields: Any) -> SafetySupervisor:
    found = SafetySupervisor(limits(**fields), DT, max_clipped=5, window=10)
    found.start(np.array([0.1, -0.2]))
    return found


def test_a_start_far_away_is_refused_and_names_the_axis() -> None:
    found, pose = supervisor(), np.array([0.1, -0.2])
    assert found.start_problem(np.array([0.39, -0.2]), pose) is None
    problem = found.start_problem(np.array([0.1, 0.2]), pose)
    assert problem is not None
    assert problem.startswith("E_ROBOT_START: the first command of elbow.pos is 0.4 rad from")


def test_a_start_at_a_pose_that_is_not_finite_is_refused() -> None:
    pose = np.array([np.nan, 0.0])
    assert supervisor().start_problem(np.zeros(2), pose) is not None


def test_a_start_outside_the_box_is_refused() -> None:
    pose = np.array([0.9, 0.0])
    problem = supervisor(box=box()).start_problem(pose, pose)
    assert problem is not None
    assert "outside its box" in problem


values = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.one_of(st.none(), arrays.arrays(np.float64, 2, elements=values)), max_size=60))
def test_whatever_is_asked_commands_are_finite_and_in_bounds(targets: list[Any]) -> None:
    found = supervisor()
    for target in targets:
        command = found.step(target)
        assert np.isfinite(command).all()
        assert (np.abs(command) <= [1.0, 2.0]).all()


def test_clips_are_counted_by_kind_and_too_many_are_told() -> None:
    found = supervisor()
    for i in range(1, 7):
        assert not found.clips_often
        found.step(np.array([5.0, -0.2]))
        assert found.counts["position"] == found.counts["velocity"] == i
        assert found.flags == ("position", "velocity", "acceleration")[: len(found.flags)]
    assert found.clips_often
    found.start(np.zeros(2))
    assert not found.clips_often


def test_no_pose_leaves_the_box_though_each_axis_is_within_its_limits() -> None:
    found, wall, random = supervisor(box=box()), box(), np.random.default_rng(0)
    commands = []
    for tick in range(3000):
        if tick % 100 == 0:
            target = random.uniform([-1.0, -2.0], [1.0, 2.0])
        commands.append(found.step(target))
    assert found.counts["box"] > 0
    assert wall.contains(np.stack(commands))
    assert np.ptp(np.stack(commands), axis=0).min() > 0.2  # it moved all the same


def test_what_the_driver_sent_instead_is_gone_on_from() -> None:
    found = supervisor()
    command = found.step(np.array([0.4, -0.2]))
    found.sent(command - [0.01, 0.0])
    after = found.step(np.array([0.4, -0.2]))
    assert abs(after[0] - (command[0] - 0.01)) <= 0.5 * DT + 1e-12


def test_it_stands_once_it_has_braked() -> None:
    found = supervisor()
    assert found.stands
    for _ in range(20):
        found.step(np.array([1.0, -0.2]))
    assert not found.stands
    for _ in range(30):
        found.step(None)
    assert found.stands
