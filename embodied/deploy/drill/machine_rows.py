"""R8, R10 to R14 and R16: what can go wrong with sensors, clocks, drivers and processes."""

from __future__ import annotations

import contextlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from embodied.deploy.clock import SECOND, to_ns
from embodied.deploy.drill.bench import Bench
from embodied.deploy.drill.checks import motion_problems, state_problem
from embodied.deploy.drill.policy_rows import RUNNING_S
from embodied.deploy.drill.tap import Killed, Maker
from embodied.deploy.driver import DriverError
from embodied.deploy.faults import Delay, Faults, Window
from embodied.deploy.journal import Journal
from embodied.deploy.limits import Array
from embodied.deploy.lock import RobotLock, RobotLocked
from embodied.deploy.watchdog import Guards, State

_BAD = Window(0.8, 1.3)  # while sensors fail


def senses_fail(make: Maker, trials: int) -> list[str]:
    """R8: the state is NaN, nothing new is sensed, a camera freezes: hold, and go on afterwards."""
    problems, guards = [], Guards()
    for name, faults, within_s in (
        ("NaN", Faults(nan=_BAD), 0.0),
        ("stale", Faults(stuck=_BAD), guards.observation_age_s),
    ):
        bench = Bench(make, faults=faults).run(2.0)
        problems += [f"{name}: {problem}" for problem in _blind_problems(bench, within_s)]
        policy_saw = [each for each in bench.thinker.sent if not np.isfinite(each.actions).all()]
        problems += [f"{name}: the policy was shown it"] if policy_saw else []
    bench = Bench(make, camera=_freezing).run(2.0)
    within_s = guards.frozen_frames * bench.loop.period / SECOND
    problems += [f"frozen camera: {problem}" for problem in _blind_problems(bench, within_s)]
    noisy = Faults(noise=1e-4, observation_delay=Delay(0.01, 0.01), drop_observations=0.1)
    bench = Bench(make, faults=noisy).run(1.0)
    return [*problems, *state_problem(bench, 0.95, State.RUN), *motion_problems(bench)]


def _freezing(time: int) -> Any:
    """A noisy picture, the same one during `_BAD`."""
    since = max(0, time - 10 * SECOND)
    return np.random.default_rng(800 if _BAD.holds(since) else since).integers(
        0, 255, (4, 4, 3), np.uint8
    )


def _blind_problems(bench: Bench, within_s: float) -> list[str]:
    """Whether it did not hold in time, or did not go on when its senses were back."""
    held = bench.entered(State.HOLD, after=_BAD.start_s)
    latest = _BAD.start_s + within_s + 2 * bench.loop.period / SECOND
    in_time = held is not None and held <= latest
    return [
        *([] if in_time else [f"it held at {held}, later than {latest:.2f} s"]),
        *state_problem(bench, _BAD.start_s - 0.02, State.RUN),
        *state_problem(bench, _BAD.end_s - 0.02, State.HOLD),
        *state_problem(bench, 1.9, State.RUN),
        *motion_problems(bench),
    ]


def clock_jumps(make: Maker, trials: int) -> list[str]:
    """R10: the wall clock goes an hour forth and back; then the machine sleeps for a second."""
    still = Bench(make).run(1.5)
    bench = Bench(make)
    for i, hours in enumerate((1, -1, 0)):
        bench.at(RUNNING_S + 0.2 * i, partial(_set_wall, bench, hours * 3600 * SECOND))
    bench.run(1.5)
    asleep = Bench(make)
    asleep.at(RUNNING_S, lambda: asleep.clock.sleep_until(asleep.clock.now() + SECOND))
    asleep.run(RUNNING_S + 1.0 + 1.0)
    return [
        *([] if _same(still, bench) else ["what was commanded depends on the wall clock"]),
        *motion_problems(bench),
        *([] if asleep.entered(State.HOLD, after=RUNNING_S) else ["no hold after sleeping"]),
        *motion_problems(asleep),
    ]


def _set_wall(bench: Bench, offset: int) -> None:
    bench.clock.wall_offset = offset


def _same(first: Bench, second: Bench) -> bool:
    """Whether two sessions commanded the same at the same times."""
    a, b = first.tap.sent, second.tap.sent
    return len(a) == len(b) and all(
        x[0] == y[0] and np.array_equal(x[1], y[1]) for x, y in zip(a, b, strict=True)
    )


def driver_is_slow(make: Maker, trials: int) -> list[str]:
    """R11: for half a second each call takes 1.5 ticks."""
    rate = make(Bench(make).clock, Faults()).rate_hz
    faults = Faults(slow=Window(0.8, 1.3), slow_s=1.5 / rate)
    guards = Guards(observation_age_s=1.0, expiry_s=1.0)
    bench = Bench(make, faults=faults, guards=guards).run(2.5)
    return [
        *([] if bench.loop.counts["overruns"] else ["no tick was late"]),
        *([] if bench.entered(State.HOLD, after=0.8) else ["it did not hold"]),
        *state_problem(bench, 2.4, State.RUN),
        *motion_problems(bench),
    ]


def driver_fails(make: Maker, trials: int) -> list[str]:
    """R12: it raises once, or for good, at one call after the other; and somebody ends the run."""
    guards, problems = Guards(), []
    total = len(Bench(make).run(0.6).tap.calls)
    for call in np.unique(np.linspace(1, total - 2, min(trials, total - 2)).astype(int)).tolist():
        once = Bench(make, faults=Faults(error_at=call)).run(0.6)
        problems += _ended_problems(once, f"one error at call {call}")
        problems += [] if once.executed else [f"one error at call {call} was not survived"]
        broken = Bench(make, faults=Faults(error_at=call, error_calls=10**9))
        try:
            broken.run(0.6)
            problems.append(f"a driver that fails from call {call} went unnoticed")
        except DriverError:
            pass
        problems += _ended_problems(broken, f"broken from call {call}")
        extra = len(broken.tap.calls) - (call + guards.retries) - 2
        problems += [f"it was called {extra} times more after it broke"] if extra else []
    interrupted = Bench(make)
    interrupted.at(RUNNING_S + 0.1, lambda: interrupted.loop.leave("SIGTERM"))
    return [
        *problems,
        *_ended_problems(interrupted.run(5.0), "SIGTERM"),
        *_braked_problems(interrupted),
        *motion_problems(interrupted),
    ]


def _ended_problems(bench: Bench, what: str) -> list[str]:
    last = bench.tap.calls[-2:]
    return [] if last == ["stop", "disconnect"] else [f"{what}: the last calls were {last}"]


def _braked_problems(bench: Bench) -> list[str]:
    """Whether the last commands were not those of a robot that comes to rest."""
    last = np.stack([values for _, values in bench.tap.sent[-2:]])
    speed = np.abs(np.diff(last, axis=0))[0] * SECOND / bench.loop.period
    one_tick = bench.limits.acceleration * bench.loop.period / SECOND
    return ["it was let go while it moved"] if (speed > one_tick * 1.001).any() else []


def recorder_stalls(make: Maker, trials: int) -> list[str]:
    """R13: nobody takes what is recorded: the robot moves as ever, and memory does not grow."""
    prompt, capacity = Bench(make).run(2.0), 50
    stuck = Bench(make, journal=Journal(capacity)).run(2.0)
    kept, lost = len(stuck.journal.take()), stuck.journal.lost
    return [
        *([] if _same(prompt, stuck) else ["the robot moved otherwise"]),
        *([] if kept == capacity and lost else [f"{kept} ticks were kept, and {lost} lost"]),
        *motion_problems(stuck),
    ]


def two_controllers(make: Maker, trials: int) -> list[str]:
    """R14: a second controller is refused, and told who the first is."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with RobotLock("drilled", Path(folder)), RobotLock("drilled", Path(folder)):
                return ["two controllers held one robot"]
        except RobotLocked as error:
            named = "process" in str(error)
        with RobotLock("drilled", Path(folder)):
            return [] if named else ["the holder was not named"]


def controller_dies(make: Maker, trials: int) -> list[str]:
    """R16: the control process is killed while the robot moves: the hardware stops by itself."""
    bench = Bench(make)
    bench.at(RUNNING_S, lambda: setattr(bench.tap, "killed", True))
    with contextlib.suppress(Killed):
        bench.run(5.0)
    hardware = bench.tap.robot
    timeout_s = hardware.command_timeout_s or 0.5
    poses = [_pose(hardware, bench, timeout_s + 0.5 * i) for i in (1, 2)]
    moved = np.abs(poses[1] - poses[0]) > 0.02 * (bench.limits.high - bench.limits.low)
    return [
        *([] if hardware.timeouts else ["the hardware has no command timeout, or a long one"]),
        *(["it still moves"] if moved.any() else []),
    ]


def _pose(hardware: Any, bench: Bench, after_s: float) -> Array:
    bench.clock.sleep_until(bench.start + to_ns(RUNNING_S + after_s))
    observation = hardware.get_observation()
    return np.array([observation[name] for name in bench.limits.names])
