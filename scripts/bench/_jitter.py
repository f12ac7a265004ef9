"""The control process whose jitter is measured; loads no torch, as on a robot."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.deploy.chunks import TimedChunk
from embodied.deploy.clock import SECOND, MonotonicClock, to_ns
from embodied.deploy.drives import Direct
from embodied.deploy.kinematic import KinematicArm
from embodied.deploy.limits import Limits
from embodied.deploy.loop import ControlLoop
from embodied.deploy.mail import LocalMail
from embodied.deploy.realtime import ask_for_priority
from embodied.deploy.sim_hardware import SimHardware
from embodied.deploy.watchdog import Event, State

JOINTS = 7


@dataclass(frozen=True)
class Cell:
    """One way to run the loop."""

    rate_hz: float
    is_loaded: bool
    has_priority: bool


@dataclass(frozen=True)
class Found:
    """What one run of the loop gave.

    Attributes:
        late_ms: (n,) of each tick.
        work_ms: (n,) that each tick took.
        skipped: ticks.
        granted: whether the priority that was asked for was given.
        moved: ticks in which a policy's chunk was followed.
    """

    late_ms: NDArray[np.float64]
    work_ms: NDArray[np.float64]
    skipped: int
    granted: bool
    moved: int


class Feed(LocalMail):
    """A policy that sends a chunk of a slow wave ten times a second, and an operator who arms."""

    def __init__(self, start: NDArray[np.float64], rate_hz: float) -> None:
        super().__init__()
        self.start, self.dt = start, round(SECOND / rate_hz)
        self._sent = self._last = self._first = 0
        self.moved = 0

    def publish(self, seen: Any) -> None:
        super().publish(seen)
        if self._sent == 0:
            self.order(Event.ARM)
        self.moved += seen.state is State.RUN
        if seen.time - self._last > SECOND // 10:
            self._last, self._sent = seen.time, self._sent + 1
            self._first = self._first or seen.time
            ahead = (seen.time - self._first + np.arange(50)[:, None] * self.dt) / SECOND
            wave = self.start + 0.05 * (1 - np.cos(ahead * np.linspace(0.5, 1, JOINTS)))
            self.send(TimedChunk(wave, seen.time, seen.time, self.dt, self._sent))


class Watched(ControlLoop):
    """Notes when its ticks begin and end."""

    def __init__(self, *args: Any, ticks: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ticks = ticks
        self.late: list[int] = []
        self.work: list[int] = []

    def _tick(self) -> None:
        super()._tick()
        self.late.append(self._began - self._deadline)
        self.work.append(self.clock.now() - self._began)
        if len(self.late) >= self.ticks:
            self.leave("measured")


def control(cell: Cell, seconds: float, answers: Connection) -> None:
    """The control process."""
    logging.disable()
    start = np.full(JOINTS, 0.1)
    ones = np.ones(JOINTS)
    names = [f"joint_{i}.pos" for i in range(1, JOINTS + 1)]
    limits = Limits(names, ["rad"] * JOINTS, -2 * ones, 2 * ones, 0.5 * ones, 2 * ones, 0.3 * ones)
    robot = SimHardware(
        name="jitter",
        world=KinematicArm(start.tolist(), rate_hz=cell.rate_hz),
        limits=limits,
        drive=Direct(list(range(JOINTS))),
        rate_hz=cell.rate_hz,
        clock=MonotonicClock(),
    )
    feed = Feed(start, cell.rate_hz)
    granted = cell.has_priority and ask_for_priority()
    loop = Watched(robot, feed, ticks=round(seconds * cell.rate_hz))
    loop.run()
    late, work = (np.array(x) / to_ns(1e-3) for x in (loop.late, loop.work))
    answers.send(Found(late, work, loop.counts["overruns"], granted, feed.moved))
