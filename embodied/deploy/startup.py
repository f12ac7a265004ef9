"""What `scripts/check_robot.py` does: what to look at before a robot is switched on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from embodied.build import instantiate, resolve
from embodied.deploy.clock import SECOND, Clock, MonotonicClock
from embodied.deploy.limits import Array
from embodied.deploy.lock import RobotLock, RobotLocked
from embodied.deploy.realtime import ask_for_priority
from embodied.deploy.robot import Robot
from embodied.deploy.senses import Senses, pose_of
from embodied.deploy.watchdog import Guards

SLOW = {"m": 0.25, "rad": 0.5, "deg": 28.6}
"""Per s; faster axes should be so on purpose."""

_LOOKS = 20


@dataclass(frozen=True)
class Item:
    """One thing that was looked at; `passed` is None where a person has to judge."""

    name: str
    passed: bool | None
    text: str

    def __str__(self) -> str:
        verdict = {True: "pass", False: "FAIL", None: "look"}[self.passed]
        return f"{verdict}  {self.name}: {self.text}"


def way_to_stop(robot: Robot, guards: Guards) -> Array:
    """(A,) how far each axis may go at its fastest after the policy has fallen silent: until the
    last plan expires, in one tick, and while it brakes. In its unit, for rates in that times s."""
    limits, waits_s = robot.limits, guards.expiry_s + 1 / robot.rate_hz
    position = limits.velocity * (waits_s + limits.velocity / (2 * limits.acceleration))
    largest = np.maximum(limits.high - limits.standstill, limits.standstill - limits.low)
    ramp_s = largest / limits.velocity + limits.velocity / limits.acceleration
    return np.where(limits.has_rates, largest * (waits_s + ramp_s), position)


def jitter(clock: Clock, rate_hz: float, seconds: float) -> Array:
    """(n,) how late, in s, an otherwise idle loop wakes up."""
    period, late = round(SECOND / rate_hz), []
    deadline = clock.now()
    for _ in range(max(1, round(seconds * rate_hz))):
        deadline += period
        clock.sleep_until(deadline)
        late.append((clock.now() - deadline) / SECOND)
    return np.array(late)


def look_at_config(robot: Robot, guards: Guards) -> Iterator[Item]:
    """What follows from limits and rates alone."""
    limits = robot.limits
    ways = way_to_stop(robot, guards)
    yield Item(
        "way to stop",
        None,
        ", ".join(
            f"{name} {way:.3g} {unit}{' s' if rate else ''}"
            for name, way, unit, rate in zip(
                limits.names, ways, limits.units, limits.has_rates, strict=True
            )
        ),
    )
    fast = [
        f"{name} {speed:g} {unit}/s"
        for name, speed, unit in zip(limits.names, limits.velocity, limits.units, strict=True)
        if speed > SLOW.get(unit, np.inf)
    ]
    yield Item("speed", None if fast else True, f"fast: {', '.join(fast)}" if fast else "slow")
    tick_s = 1 / robot.rate_hz
    ticks = min(guards.expiry_s, guards.observation_age_s) / tick_s
    yield Item("rates", ticks >= 2, f"guards wait for {ticks:.1f} ticks of {tick_s * 1e3:g} ms")
    timeout_s = getattr(robot, "command_timeout_s", None)
    text = "none is known of: make sure that it stops by itself when its commands cease"
    yield Item(
        "command timeout",
        None if timeout_s is None else True,
        text if timeout_s is None else f"{timeout_s:g} s",
    )


def look_at_machine(robot: Robot, clock: Clock, seconds: float) -> Iterator[Item]:
    """Who else controls the robot, and how punctual this machine is."""
    try:
        with RobotLock(robot.name):
            yield Item("lock", True, "nobody controls it")
    except RobotLocked as error:
        yield Item("lock", False, str(error))
    granted = ask_for_priority()
    yield Item("real-time priority", granted or None, "granted" if granted else "not granted")
    late = jitter(clock, robot.rate_hz, seconds)
    median, most = np.percentile(late, [50, 99]) * 1e3
    yield Item(
        "jitter",
        bool(most < 500 / robot.rate_hz),
        f"p50 {median:.2f} ms, p99 {most:.2f} ms, largest {late.max() * 1e3:.2f} ms "
        f"at {robot.rate_hz:g} Hz",
    )


def look_at_robot(robot: Robot, clock: Clock, guards: Guards) -> Iterator[Item]:
    """What the connected robot senses, `_LOOKS` times; nothing is commanded."""
    robot.connect()
    try:
        senses, took, problems = Senses(robot.observation_features, guards), [], set()
        for _ in range(_LOOKS):
            begun = clock.now()
            observation = robot.get_observation()
            took.append((clock.now() - begun) / SECOND)
            problems.add(senses.problem(observation, clock.now(), moving=False))
            clock.sleep_until(begun + round(SECOND / robot.rate_hz))
        problems.discard(None)
        yield Item("senses", not problems, "; ".join(map(str, problems)) or "sound")
        longest = max(took) * 1e3
        yield Item("sensing", longest < 1e3 / robot.rate_hz, f"takes {longest:.1f} ms at most")
        yield from _look_at_pose(robot, pose_of(observation, robot.limits.names))
    finally:
        robot.disconnect()


def _look_at_pose(robot: Robot, pose: Array) -> Iterator[Item]:
    limits = robot.limits
    outside = [
        f"{name} is at {at:.3g}, not in [{low:.3g}, {high:.3g}] {unit}"
        for name, at, low, high, unit in zip(
            limits.names, pose, limits.low, limits.high, limits.units, strict=True
        )
        if not low <= at <= high
    ]
    yield Item("pose", not outside, "; ".join(outside) or "within the limits")
    if limits.box is not None:
        inside = limits.box.contains(pose[None])
        yield Item("box", inside, "inside" if inside else "outside: move it by hand")


def check(config: Any) -> int:
    """Prints the list for the robot of a config; 0 if nothing failed."""
    plain = resolve(config)
    robot = instantiate(plain["robot"], extra_targets=plain.get("allow_targets", ()))
    guards, clock = Guards(), MonotonicClock()
    items = [*look_at_config(robot, guards), *look_at_machine(robot, clock, plain["seconds"])]
    if plain["connects"]:
        items += look_at_robot(robot, clock, guards)
    print(*items, sep="\n")
    print("An emergency stop must be within reach: nothing here replaces it.")
    return int(any(item.passed is False for item in items))
