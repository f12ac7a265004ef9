"""The drill passes, and each of its rows fails when what it tests is taken away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from embodied.deploy import chunks, limiter, safety, watchdog
from embodied.deploy.chunks import ChunkQueue
from embodied.deploy.clock import VirtualClock
from embodied.deploy.drill.card import NotApplicable, Result, Row, card, run_row
from embodied.deploy.drill.rows import ROWS
from embodied.deploy.drill.session import drill, maker, run_rows
from embodied.deploy.driver import Driver
from embodied.deploy.journal import Journal
from embodied.deploy.limits import Limits
from embodied.deploy.loop import ControlLoop
from embodied.deploy.safety import SafetySupervisor
from embodied.deploy.senses import Senses
from embodied.deploy.sim_hardware import SimHardware
from embodied.deploy.watchdog import Event, State
from embodied.targets import ConfigError
from tests.robots import arm, limits

ROOT = Path(__file__).parents[1]
BY_NAME = {row.name: row for row in ROWS}
TRIALS = 3
Patch = Callable[[pytest.MonkeyPatch], None]


def test_the_rows_are_those_of_the_catalogue() -> None:
    assert list(BY_NAME) == [f"R{i}" for i in range(1, 17)]


@pytest.mark.parametrize("name", BY_NAME)
def test_the_arm_survives(name: str) -> None:
    assert run_row(BY_NAME[name], arm, TRIALS) == Result(BY_NAME[name], [])


def set_to(owner: Any, name: str, value: Any) -> Patch:
    return lambda patch: patch.setattr(owner, name, value)


def without(table: Any, *keys: Any) -> Patch:
    """An entry of a table is gone."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        for key in keys:
            patch.delitem(table, key)

    return apply


def without_check(name: str) -> Patch:
    rest = [check for check in safety.CHECKS if check.__name__ != name]
    return set_to(safety, "CHECKS", rest)


def widened(**factors: float) -> Patch:
    """The limiter takes a limit for a multiple of what it is."""

    def follow(motion: Any, target: Any, limits: Limits, dt: float) -> Any:
        wider = {name: getattr(limits, name) * factor for name, factor in factors.items()}
        return limiter.follow(motion, target, replace(limits, **wider), dt)

    return set_to(safety, "follow", follow)


def never_over(queue: ChunkQueue, chunk: chunks.TimedChunk, now: int) -> bool:
    return now >= chunk.end


def makes_up(loop: ControlLoop) -> None:
    """What a loop on absolute deadlines does that knows no skipping."""
    loop._deadline += loop.period
    loop._overruns.append(loop.clock.now() > loop._deadline)
    loop.counts["overruns"] += loop._overruns[-1]
    loop.clock.sleep_until(loop._deadline)


class Wall:
    """The clock on the wall, for a loop that trusts it."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock

    def now(self) -> int:
        return self.clock.wall()

    def sleep_until(self, deadline: int) -> None:
        latest = self.clock.now() + 1_000_000_000  # for an hour would take long to simulate
        self.clock.sleep_until(min(deadline - self.clock.wall_offset, latest))


def on_the_wall(patch: pytest.MonkeyPatch) -> None:
    init = ControlLoop.__init__

    def wrapped(loop: Any, *args: Any, **kwargs: Any) -> None:
        init(loop, *args, **kwargs)
        loop.clock = Wall(loop.clock)

    patch.setattr(ControlLoop, "__init__", wrapped)


def full(journal: Journal, tick: Any) -> None:
    if len(journal._ticks) >= journal.capacity:
        raise OSError("no space left on device")
    journal._ticks.append(tick)


def endless(journal: Journal, tick: Any) -> None:
    journal._ticks.append(tick)


def none(*args: Any, **kwargs: Any) -> None:
    return None


def once(driver: Driver, method: Callable[[], Any]) -> Any:
    return method()


def swallowed(driver: Driver, method: Callable[[], Any]) -> Any:
    try:
        return method()
    except Exception:
        return dict.fromkeys(driver.robot.limits.names, 0.0)


TAKEN_AWAY: dict[str, tuple[str, Patch]] = {
    "expiry": ("R1", set_to(ChunkQueue, "_is_over", never_over)),
    "hold": ("R1", without(watchdog.TABLE, (State.RUN, Event.EXPIRED))),
    "braking": ("R1", set_to(ControlLoop, "_must_brake", lambda loop, state, now: False)),
    "resuming": ("R1", without(watchdog.TABLE, (State.HOLD, Event.FRESH))),
    "arming again": ("R2", without(watchdog.TABLE, (State.HOLD, Event.LOST))),
    "order of replies": ("R3", without(chunks.REFUSALS, "out of order")),
    "age of replies": ("R3", without(chunks.REFUSALS, "stale", "out of order", "exhausted")),
    **{f"{reason} chunks": ("R4", without(chunks.REFUSALS, reason)) for reason in chunks.REFUSALS},
    **{f"{x.__name__}": ("R5", without_check(x.__name__)) for x in safety.CHECKS},
    "whole chunks": ("R5", set_to(safety, "CHECKS", [])),
    "velocity limit": ("R6", widened(velocity=1.1)),
    "acceleration limit": ("R6", widened(acceleration=1.1)),
    "position limit": ("R6", widened(low=1.1, high=1.1)),
    "end of the episode": ("R6", set_to(SafetySupervisor, "clips_often", False)),
    "box": ("R7", set_to(SafetySupervisor, "_keeps_the_box", lambda self, moved: True)),
    "finite senses": ("R8", set_to(Senses, "finite_problem", none)),
    "age of senses": ("R8", set_to(Senses, "age_problem", none)),
    "live cameras": ("R8", set_to(Senses, "frozen_problem", none)),
    "hold when blind": ("R8", without(watchdog.TABLE, (State.RUN, Event.BLIND))),
    "start jump": ("R9", set_to(SafetySupervisor, "start_problem", none)),
    "monotonic clock": ("R10", on_the_wall),
    "skipping after a pause": ("R10", set_to(ControlLoop, "_await_deadline", makes_up)),
    "skipping": ("R11", set_to(ControlLoop, "_await_deadline", makes_up)),
    "hold when late": ("R11", without(watchdog.TABLE, (State.RUN, Event.OVERRUN))),
    "retries": ("R12", set_to(Driver, "call", once)),
    "errors": ("R12", set_to(Driver, "call", swallowed)),
    "stop and disconnect": ("R12", set_to(ControlLoop, "_stop_for_good", none)),
    "braking at the end": ("R12", set_to(ControlLoop, "_brake_down", none)),
    "room for the recorder": ("R13", set_to(Journal, "put", full)),
    "bounded memory": ("R13", set_to(Journal, "put", endless)),
    "lock": ("R14", lambda patch: patch.setattr("embodied.locks._take", none)),
    "stop words": (
        "R15",
        lambda patch: patch.setattr("embodied.deploy.instructions.STOP_WORDS", frozenset()),
    ),
    "stopping": ("R15", without(watchdog.TABLE, (State.RUN, Event.STOP))),
    "clean words": (
        "R15",
        lambda patch: patch.setattr("embodied.deploy.instructions.clean", lambda text: text),
    ),
    "command timeout": ("R16", set_to(SimHardware, "_watch", none)),
}


@pytest.mark.parametrize("name", TAKEN_AWAY)
def test_a_row_fails_without_what_it_tests(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, patch = TAKEN_AWAY[name]
    patch(monkeypatch)
    assert run_row(BY_NAME[row], arm, TRIALS).problems


def test_every_row_has_something_that_can_be_taken_away() -> None:
    assert {row for row, _ in TAKEN_AWAY.values()} == set(BY_NAME)


def test_the_card_tells_what_failed_what_is_simulated_and_what_cannot_be() -> None:
    def impossible(make: Any, trials: int) -> list[str]:
        raise NotApplicable("no box")

    def broken(make: Any, trials: int) -> list[str]:
        raise KeyError("x.pos")

    rows = [
        Row("A", "good", lambda make, trials: [], "a stand-in"),
        Row("B", "bad", lambda make, trials: ["it moved"]),
        Row("C", "neither", impossible),
        Row("D", "raises", broken),
    ]
    lines = [line.strip() for line in card([run_row(row, arm, 1) for row in rows]).split("\n")]
    assert lines == [
        "A    pass  good",
        "(simulated: a stand-in)",
        "B    FAIL  bad",
        "it moved",
        "C    n/a   neither",
        "(no box)",
        "D    FAIL  raises",
        "KeyError: 'x.pos'",
        "1 of 3 passed",
    ]


def test_a_robot_without_box_is_not_said_to_keep_it() -> None:
    def boxless(clock: Any, faults: Any) -> SimHardware:
        return arm(clock, faults, limits=limits())

    assert run_row(BY_NAME["R7"], boxless, 1).idle == "the robot has no box"


def config(name: str) -> Any:
    return OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "robot" / f"{name}.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metaworld", "metaworld_actions", "reacher", "kinematic"])
def test_the_simulated_robots_survive_everything(name: str) -> None:
    results = run_rows(maker(config(name)), trials=50)
    assert {result.row.name: result.problems for result in results if result.problems} == {}


@pytest.mark.parametrize("name", ["metaworld", "reacher"])
def test_simulated_robots_survive_a_stall_and_their_own_end(name: str) -> None:
    results = run_rows(maker(config(name)), trials=2, names=["R1", "R16"])
    assert [result.problems for result in results] == [[], []]


def test_unknown_rows_and_robots_that_are_not_simulated_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rows \['R99'\] are none of R1, "):
        run_rows(arm, 1, ["R99"])
    with pytest.raises(ConfigError, match="a robot is drilled in simulation"):
        maker({"_target_": "my_robots.Arm"})


def test_the_command_prints_the_card_and_its_status_says_whether_all_was_survived(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"robot": config("kinematic"), "rows": ["R14", "R7"], "trials": 1}
    assert drill(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "robot kinematic, simulated, in virtual time"
    assert lines[1].startswith("R14  pass  ")
    assert lines[-1] == "1 of 1 passed"
    monkeypatch.setattr("embodied.locks._take", none)
    assert drill(asked) == 1
    assert "R14  FAIL" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="trials must be 1 or more, got 0"):
        drill({**asked, "trials": 0})


@pytest.mark.parametrize("script", ["drill_robot.py", "check_robot.py"])
def test_the_scripts_run(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / script), "robot=kinematic"]
    command += ["rows=[R14]"] if script == "drill_robot.py" else ["seconds=0.1", "connects=true"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert "Traceback" not in done.stderr
    assert "pass" in done.stdout
    assert list(tmp_path.iterdir()) == []
