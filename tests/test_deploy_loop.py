"""The control loop: what reaches the driver, when, and how it ends."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied.deploy.chunks import TimedChunk
from embodied.deploy.clock import to_ns
from embodied.deploy.drill.bench import ARM_S, Bench
from embodied.deploy.drill.checks import motion_problems
from embodied.deploy.drill.policy_rows import bad_chunks, spoil, stalls
from embodied.deploy.faults import Delay, Faults, Window
from embodied.deploy.loop import ControlLoop
from embodied.deploy.mail import LocalMail, Seen
from embodied.deploy.watchdog import Event, Guards, State
from tests.robots import MS, arm

ROOT = Path(__file__).parents[1]


def test_nothing_is_commanded_before_it_is_armed_and_a_chunk_has_come() -> None:
    bench = Bench(arm)
    bench.run(1.0)
    times = [bench.seconds(time) for time, _ in bench.tap.sent]
    assert times[0] > ARM_S + 0.04  # the first inference takes as long
    assert bench.state_at(times[0] - 0.011) in (State.IDLE, State.ARMED)
    assert bench.state_at(times[0]) is State.RUN


def test_the_robot_follows_the_plan_tick_by_tick() -> None:
    bench = Bench(arm).run(1.0)
    ran = bench.executed
    assert len(ran) > 50
    for tick in ran[15:]:  # the first plans begin anew where the robot is
        np.testing.assert_allclose(tick.sent, tick.asked, atol=1e-9)
        assert tick.flags == ()
        assert tick.source == "policy"
    assert {tick.time % (10 * MS) for tick in ran} == {0}


def test_fifty_stalls_end_in_a_hold_in_time() -> None:
    assert stalls(arm, 50) == []


def test_after_a_hold_only_plans_from_later_observations_count() -> None:
    bench = Bench(arm)
    bench.at(0.5, bench.stall)
    bench.at(1.2, bench.go_on)
    bench.run(2.0)
    held = next(x.time for x in bench.loop.watchdog.changes if x.after is State.HOLD)
    resumed = [tick for tick in bench.executed if tick.time > held]
    assert resumed
    assert all(tick.time - tick.age >= held for tick in resumed)


def test_a_policy_that_was_started_anew_has_to_be_armed_anew() -> None:
    bench = Bench(arm)
    bench.thinker._requests = 1000
    bench.at(0.5, lambda: setattr(bench.thinker, "_requests", 0))
    bench.at(1.5, lambda: bench.mail.order(Event.DISARM))
    bench.at(1.6, lambda: bench.mail.order(Event.ARM))
    bench.run(2.0)
    states = [bench.state_at(t) for t in (0.49, 1.4, 1.9)]
    assert states == [State.RUN, State.HOLD, State.RUN]
    assert bench.loop.queue.refused["out of order"] > 10


def test_an_operator_stops_and_only_he_leads_out_of_it() -> None:
    bench = Bench(arm)
    bench.at(0.5, lambda: bench.mail.order(Event.STOP))
    bench.at(1.5, lambda: bench.mail.order(Event.ARM))  # is not enough
    bench.at(2.0, lambda: bench.mail.order(Event.RESET))
    bench.at(2.1, lambda: bench.mail.order(Event.ARM))
    bench.run(3.0)
    states = [bench.state_at(t) for t in (0.49, 0.52, 1.9, 2.05, 2.9)]
    assert states == [State.RUN, State.STOPPED, State.STOPPED, State.IDLE, State.RUN]
    stops = [i for i, name in enumerate(bench.tap.calls) if name == "stop"]
    assert len(stops) == 2  # once it stood, and at the end
    assert motion_problems(bench) == []


def test_an_operator_cannot_say_what_is_not_his() -> None:
    with pytest.raises(ValueError, match="nothing that an operator says"):
        LocalMail().order(Event.FRESH)


def test_it_is_not_armed_blind() -> None:
    bench = Bench(arm, faults=Faults(nan=Window(0.0)))
    bench.run(1.0)
    assert bench.state_at(0.9) is State.IDLE
    assert bench.tap.sent == []


def test_a_motion_begins_where_the_robot_was_moved_to_by_hand() -> None:
    bench = Bench(arm)
    bench.stall()

    def move() -> None:
        bench.tap.robot._command = np.array([0.2, -0.3])

    bench.at(0.3, move)
    bench.at(1.0, bench.go_on)
    bench.run(1.3)
    np.testing.assert_allclose(bench.tap.sent[0][1], [0.2, -0.3], atol=0.01)


def reporting(bench: Bench, report: Callable[[float], float]) -> None:
    """The driver says that it sent something else."""
    send = bench.tap.send_action

    def sends(action: dict[str, Any]) -> dict[str, Any]:
        return {name: report(value) for name, value in send(action).items()}

    bench.tap.send_action = sends  # type: ignore[method-assign]


def test_a_driver_that_sends_less_is_gone_on_from_there() -> None:
    bench = Bench(arm)
    reporting(bench, lambda value: 0.5 * value)
    bench.at(0.6, lambda: bench.mail.order(Event.STOP))
    bench.run(2.0)
    assert bench.loop.counts["driver sent something else"] > 3
    assert bench.tap.calls.count("stop") == 2  # though it never seems to stand


def test_a_driver_that_rounds_does_not_hold_up_a_slow_motion() -> None:
    bench = Bench(arm)
    reporting(bench, lambda value: round(value / 0.004) * 0.004)
    bench.thinker.target = lambda t: np.array([0.1 + 0.05 * t, -0.2])  # 0.5 mrad a tick
    bench.run(1.5)
    assert bench.loop.counts["driver sent something else"] == 0
    assert bench.tap.sent[-1][1][0] > 0.15


def test_a_driver_that_reports_nan_has_failed() -> None:
    bench = Bench(arm)
    send = bench.tap.send_action
    bench.tap.send_action = lambda action: {  # type: ignore[method-assign]
        name: float("nan") for name in send(action)
    }
    with pytest.raises(RuntimeError, match="E_ROBOT_DRIVER: arm failed 3 times in a row: it rep"):
        bench.run(1.0)
    assert bench.tap.calls[-2:] == ["stop", "disconnect"]


class Broken(LocalMail):
    """Mail that breaks while the robot moves."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error, self.left = error, 60

    def publish(self, seen: Seen) -> None:
        super().publish(seen)
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.mark.parametrize("error", [ValueError("ours"), MemoryError()])
def test_any_other_error_brakes_stops_and_disconnects(error: Exception) -> None:
    bench = Bench(arm)
    bench.loop.mail = bench.thinker.mail = bench.mail = Broken(error)
    with pytest.raises(type(error)):
        bench.run(2.0)
    assert bench.tap.calls[-2:] == ["stop", "disconnect"]
    last = [values for _, values in bench.tap.sent[-2:]]
    assert np.abs(last[1] - last[0]).max() <= 2.0 * 0.01**2 * 1.001  # a dt^2: it stands
    assert motion_problems(bench) == []


def test_a_second_interrupt_still_stops_and_disconnects() -> None:
    bench = Bench(arm)
    bench.loop.mail = bench.thinker.mail = bench.mail = Broken(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bench.run(2.0)
    assert bench.tap.calls[-2:] == ["stop", "disconnect"]


def test_a_robot_whose_stop_fails_is_disconnected_all_the_same() -> None:
    bench = Bench(arm)

    def fails() -> None:
        raise OSError("no brake")

    bench.tap.stop = fails  # type: ignore[method-assign]
    bench.run(0.5)
    assert bench.tap.calls[-1] == "disconnect"


def test_memory_is_quiet_only_while_it_runs() -> None:
    bench, enabled = Bench(arm), []
    bench.at(0.2, lambda: enabled.append(gc.isenabled()))
    assert gc.isenabled()
    bench.run(0.3)
    assert enabled == [False]
    assert gc.isenabled()


numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)
ways = st.sampled_from([None, *bad_chunks(2).values()])


@settings(max_examples=30)
@given(st.data())
def test_nothing_bad_stale_or_out_of_order_reaches_the_driver(data: Any) -> None:
    faults = Faults(
        seed=data.draw(st.integers(0, 1000)),
        action_delay=Delay(0.0, data.draw(st.floats(0, 0.05))),
        observation_delay=Delay(0.0, data.draw(st.floats(0, 0.15))),
        drop_observations=data.draw(st.floats(0, 0.5)),
        nan=Window(data.draw(st.floats(0.2, 1.0)), 1.0),
    )
    mode = data.draw(st.sampled_from(["aligned", "naive", "ensemble"]))
    bench = Bench(arm, faults=faults, mode=mode)
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    bad: list[TimedChunk] = []

    def edit(chunk: TimedChunk) -> Any:
        how = list(bad_chunks(2).values())
        for delay in random.choice([0.0, 0.05, 0.1, 0.3], size=random.integers(1, 3)):
            if random.random() < 0.3:
                bad.append(spoil(chunk, how[random.integers(len(how))]))
                yield delay, bad[-1]
            else:
                yield delay, chunk

    bench.thinker.edit = edit
    bench.run(1.3)
    assert motion_problems(bench) == []
    ran = bench.executed
    assert [x.request_id for x in ran] == sorted(x.request_id for x in ran)
    assert all(0 <= x.age <= bench.loop.queue.expiry_ns for x in ran)


def test_a_flood_of_chunks_does_not_hold_up_a_tick() -> None:
    bench = Bench(arm)
    taken: list[int] = []
    poll = bench.mail.poll

    def counted() -> TimedChunk | None:
        taken.append(bench.clock.now())
        return poll()

    bench.mail.poll = counted  # type: ignore[method-assign]
    bench.thinker.edit = lambda chunk: [(0.0, chunk)] * 50
    bench.run(0.5)
    assert max(np.bincount([(time - bench.start) // (10 * MS) for time in taken])) <= 8


def test_rates_return_to_rest_when_the_policy_is_gone() -> None:
    from embodied.deploy.drives import Direct
    from tests.robots import limits

    def driven(clock: Any, faults: Any) -> Any:
        rates = limits(rest=[0.0, 0.0], velocity=[5.0, 5.0], acceleration=[50.0, 50.0])
        return arm(clock, faults, limits=rates, drive=Direct())

    bench = Bench(driven)
    bench.thinker.target = lambda t: np.array([0.2, -0.2])
    bench.at(0.6, bench.stall)
    bench.run(1.5)
    np.testing.assert_allclose(bench.executed[-1].sent, [0.2, -0.2])
    np.testing.assert_allclose(bench.tap.sent[-1][1], [0.0, 0.0], atol=1e-6)
    assert motion_problems(bench) == []


def test_overruns_are_counted_and_skipped() -> None:
    faults = Faults(slow=Window(0.5, 0.6), slow_s=0.012)
    bench = Bench(arm, faults=faults).run(1.0)
    times = [tick.time for tick in bench.ticks]
    assert bench.loop.counts["overruns"] >= 4
    assert min(np.diff(times)) >= 5 * MS


def test_too_many_overruns_hold_until_it_is_punctual_again() -> None:
    faults, guards = Faults(slow=Window(0.5, 1.0), slow_s=0.006), Guards(max_overruns=5, window=20)
    bench = Bench(arm, faults=faults, guards=guards).run(2.5)
    assert any(x.event is Event.OVERRUN for x in bench.loop.watchdog.changes)
    assert bench.state_at(2.4) is State.RUN


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


BESIDE_THE_POLICY = {  # modules of its process, and of the recorder
    *("brain", "casting", "crew", "episodes", "operator", "recorder", "replaying", "running"),
    *("session", "station", "thinker", "typist", "words"),
}


def test_the_control_process_loads_no_torch() -> None:
    modules = {path.stem for path in (ROOT / "embodied" / "deploy").glob("*.py")}
    assert modules > BESIDE_THE_POLICY
    names = sorted(modules - BESIDE_THE_POLICY)
    assert {"control", "feed", "loop"} < set(names)
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module("embodied.deploy." + name)
import embodied.deploy.drill.rows
print({{"torch", "transformers", "wandb"}} & set(sys.modules))
"""
    assert run(code) == "set()"


RUNS = textwrap.dedent("""
    import sys, threading
    from embodied.deploy.clock import MonotonicClock
    from embodied.deploy.loop import ControlLoop
    from embodied.deploy.mail import LocalMail
    from tests.robots import arm

    class Loud(LocalMail):
        def publish(self, seen):
            print("tick", flush=True)

    robot = arm(MonotonicClock())
    stop, disconnect = robot.stop, robot.disconnect
    robot.stop = lambda: (print("stop", flush=True), stop())
    robot.disconnect = lambda: (print("disconnect", flush=True), disconnect())
    print("ended by", ControlLoop(robot, Loud()).run(), flush=True)
""")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_in_order(number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", RUNS], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == "tick\n"
        process.send_signal(number)
        lines = [line.strip() for line in output if line != "tick\n"]
    assert process.wait() == 0
    assert lines == ["stop", "disconnect", f"ended by {number.name}"]


def test_it_runs_on_the_machines_clock() -> None:
    robot = arm(clock=None)
    from embodied.deploy.clock import MonotonicClock

    robot.clock = MonotonicClock()
    loop = ControlLoop(robot, LocalMail())
    loop.journal.put = lambda tick: loop.leave("enough")  # type: ignore[method-assign]
    assert loop.run() == "enough"
    assert to_ns(1e-9) == 1
