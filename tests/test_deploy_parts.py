"""Clocks, words, locks, the journal, the slow approach, and the list before the start."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodied.deploy import realtime, startup
from embodied.deploy.approach import Approach
from embodied.deploy.clock import SECOND, MonotonicClock, VirtualClock
from embodied.deploy.faults import Faults, Window
from embodied.deploy.instructions import MAX_CHARACTERS, Desk, clean, says_stop
from embodied.deploy.journal import Journal, Tick
from embodied.deploy.limits import Box, PlanarArm
from embodied.deploy.lock import RobotLock
from embodied.deploy.watchdog import Guards, State
from tests.robots import MS, NAMES, arm, box, limits

ROOT = Path(__file__).parents[1]


def test_virtual_events_happen_in_order_at_their_times() -> None:
    clock, seen = VirtualClock(100), list[tuple[str, int]]()

    def note(name: str) -> None:
        seen.append((name, clock.now()))

    clock.at(150, lambda: (note("b"), clock.at(160, lambda: note("c"))))
    clock.at(120, lambda: note("a"))
    clock.at(50, lambda: note("late"))
    clock.at(999, lambda: note("never"))
    clock.sleep_until(200)
    assert seen == [("late", 100), ("a", 120), ("b", 150), ("c", 160)]
    assert clock.now() == 200
    clock.sleep_until(10)
    assert clock.now() == 200


def test_the_machines_clock_does_not_ask_what_time_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = MonotonicClock()
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    clock.sleep_until(before + 1000)
    assert clock.now() >= before + 1000


@given(st.text(max_size=40))
def test_cleaned_text_is_short_and_printable(text: str) -> None:
    found = clean(text * 60)
    assert len(found) <= MAX_CHARACTERS
    assert found.isprintable()
    assert found == clean(found)


def test_what_is_said_keeps_its_words() -> None:
    assert clean(" move\tthe arm\n\x1b[2J left ") == "move the arm [2J left"
    assert clean("öffne die Schublade ↑") == "öffne die Schublade ↑"


@pytest.mark.parametrize("text", ["stop", " STOP! ", "Freeze.", "\nhalt\x00", "e-stop"])
def test_stop_words_stop(text: str) -> None:
    assert says_stop(text)


@pytest.mark.parametrize("text", ["", "stop at the door", "do not stop", "unstoppable"])
def test_other_words_do_not(text: str) -> None:
    assert not says_stop(text)


def test_instructions_are_numbered_and_empty_ones_are_none() -> None:
    desk = Desk("open the drawer")
    assert desk.say(" \n") == desk.current
    assert desk.current.number == 0
    assert [desk.say(text).number for text in ("left", "left", "")] == [1, 2, 2]


def test_a_full_journal_loses_and_counts() -> None:
    journal = Journal(2)
    for i in range(5):
        journal.put(Tick(i, State.RUN, None, None))
    assert [tick.time for tick in journal.take()] == [0, 1]
    assert journal.lost == 3
    journal.put(Tick(9, State.RUN, None, None))
    assert [tick.time for tick in journal.take()] == [9]


def test_a_tick_tells_who_moved_the_robot() -> None:
    values = np.zeros(1)
    assert Tick(0, State.IDLE, None, None).source == "nobody"
    assert Tick(0, State.HOLD, None, values).source == "safety"
    assert Tick(0, State.RUN, values, values).source == "policy"
    assert Tick(0, State.RUN, values, values, ("box",)).source == "safety"


def test_another_process_cannot_control_the_same_robot(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from embodied.deploy.lock import RobotLock\n"
        "with RobotLock('arm', Path(sys.argv[1])): pass"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with RobotLock("arm", tmp_path), RobotLock("other", tmp_path):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert f"E_ROBOT_LOCKED: arm is controlled by process {os.getpid()}" in done.stderr
    assert subprocess.run(command, check=False, env=environment).returncode == 0


@pytest.mark.parametrize("name", ["", "../arm", "a/b", ".."])
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="E_ROBOT_CONFIG: a robot's name"):
        RobotLock(name, tmp_path)


def test_an_approach_is_straight_slow_and_arrives() -> None:
    found, start, goal = limits(), np.zeros(2), np.array([0.4, -0.2])
    approach = Approach(start, goal, found, time=SECOND, share=0.5)
    assert approach.duration_s == pytest.approx(0.4 / 0.25)
    plan = approach.plan(SECOND + 400 * MS, dt=200 * MS, horizon=8, request_id=3)
    shares = np.minimum((0.4 + 0.2 * np.arange(8)) / 1.6, 1.0)
    np.testing.assert_allclose(plan.actions, shares[:, None] * goal)
    assert (plan.obs_time, plan.t0, plan.request_id) == (SECOND + 400 * MS,) * 2 + (3,)
    assert approach.has_arrived(plan.actions[-1])
    assert not approach.has_arrived(plan.actions[0])
    beyond = Approach(start, np.array([9.0, 0.0]), found, time=0)
    assert beyond.goal.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
        Approach(start, goal, found, time=0, share=0.0)


def test_the_tip_of_a_planar_arm() -> None:
    points = PlanarArm([0.5, 0.25])(np.array([[0.0, 0.0], [np.pi / 2, -np.pi / 2]]))
    wanted = [[[0.5, 0, 0], [0.75, 0, 0]], [[0, 0.5, 0], [0.25, 0.5, 0]]]
    np.testing.assert_allclose(points, wanted, atol=1e-12)


def test_a_box_holds_only_what_is_wholly_inside() -> None:
    assert box().contains(np.array([[0.1, -0.2]]))
    assert not box().contains(np.array([[0.1, -0.2], [0.9, 0.0]]))
    assert not box().contains(np.array([[0.9, -0.9]]))  # the tip is inside, the elbow is not
    with pytest.raises(ValueError, match="E_ROBOT_CONFIG: box needs low < high"):
        Box([0, 0, 0], [1, 1, 0], PlanarArm([1.0]))


def test_priority_that_is_not_granted_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with caplog.at_level(logging.WARNING):
        assert not realtime.ask_for_priority()
    assert "no real-time priority" in caplog.text
    assert "ulimit -r" in caplog.text


def test_the_way_to_stop_worked_out_by_hand() -> None:
    robot = arm(limits=limits(rest=[None, 0.0]))
    # 0.25 s until the plan expires and a tick of 0.01 s at 0.5 rad/s, and 0.5^2 / (2 * 2) to brake;
    # a rate of at most 2, for as long, and for 2 / 0.5 + 0.5 / 2 s until it is at rest.
    wanted = [0.5 * 0.26 + 0.0625, 2 * (0.26 + 4.0 + 0.25)]
    np.testing.assert_allclose(startup.way_to_stop(robot, Guards()), wanted)


def verdicts(items: Any) -> dict[str, bool | None]:
    return {item.name: item.passed for item in items}


def test_the_list_before_the_start_passes_for_the_arm() -> None:
    robot, clock = arm(), VirtualClock()
    robot.clock = clock
    found = verdicts(startup.look_at_config(robot, Guards()))
    assert found == {"way to stop": None, "speed": True, "rates": True, "command timeout": True}
    found = verdicts(startup.look_at_robot(robot, clock, Guards()))
    assert found == dict.fromkeys(("senses", "sensing", "pose", "box"), True)
    assert not robot.is_connected


def test_the_list_finds_what_is_wrong() -> None:
    fast = arm(limits=limits(velocity=[2.0, 0.5]), command_timeout_s=None)
    found = verdicts(startup.look_at_config(fast, Guards(expiry_s=0.015)))
    assert found == {"way to stop": None, "speed": None, "rates": False, "command timeout": None}
    clock = VirtualClock()
    wall = Box([0.99, -0.3, -1], [1.1, 0.3, 1], PlanarArm([0.5, 0.5]))
    faults = Faults(nan=Window(0.1), slow=Window(0.0), slow_s=0.02)
    bad = arm(clock, faults, limits=limits(low=[0.2, -2.0], box=wall))
    items = list(startup.look_at_robot(bad, clock, Guards()))
    assert verdicts(items) == dict.fromkeys(("senses", "sensing", "pose", "box"), False)
    assert f"{NAMES[0]} is not finite" in str(items[0])
    assert str(items[0]).startswith("FAIL  senses: ")


def test_jitter_is_how_late_it_wakes() -> None:
    class Late(VirtualClock):
        def sleep_until(self, deadline: int) -> None:
            super().sleep_until(deadline + 2 * MS)

    np.testing.assert_allclose(startup.jitter(Late(), 100.0, 0.1), 0.002 * np.ones(10))
