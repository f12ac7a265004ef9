"""One session of a robot: three processes on the machine's clock, or all in one in virtual time."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from embodied.deploy.chunks import Mode, TimedChunk
from embodied.deploy.clock import MonotonicClock, VirtualClock, to_ns
from embodied.deploy.control import Ready, Report, Rig
from embodied.deploy.crew import Crew
from embodied.deploy.episodes import Tape
from embodied.deploy.mail import LocalMail, Seen
from embodied.deploy.recorder import End, Kept
from embodied.deploy.robot import Robot
from embodied.deploy.station import Cast, Station
from embodied.deploy.watchdog import Event, Guards

_NAP_S = 0.0005

Ear = Callable[[Callable[[str], None]], Any]
"""Hands every line that the operator says to what it is given; runs in a thread of its own."""


@dataclass(frozen=True)
class Went:
    """How a session went.

    Attributes:
        report: of the control loop.
        kept: what the recorder made of it.
        success: what the operator says, else what a simulated robot knows; None where nobody does.
        inferences, errors, refused: of the policy, and words that it refused.
        delay_s: the 95th percentile of the last inferences' delay.
    """

    report: Report
    kept: Kept
    success: bool | None
    inferences: int
    errors: int
    refused: int
    delay_s: float


def run_session(crew: Crew, cast: Cast, *, ear: Ear | None = None) -> Went:
    """A session with a control process, and a recorder where one was started (`Crew.keep`).

    Ctrl-C ends it in order: the control process brakes and stops the robot by itself.

    Args:
        ear: None where nobody says anything.
    """
    crew.go()
    station = Station(cast, crew.mail, crew.ready, MonotonicClock(), note=crew.note)
    if ear is not None:
        threading.Thread(target=ear, args=(station.operator.hear,), daemon=True).start()
    try:
        while crew.controls and not station.ended:
            if not station.turn():
                time.sleep(_NAP_S)
    except KeyboardInterrupt:
        print("ends", file=sys.stderr)
    report = crew.leave("the session is over")
    return went(station, report, crew.end)


def run_virtually(
    robot: Robot,
    clock: VirtualClock,
    cast: Cast,
    tape: Tape,
    *,
    guards: Guards | None = None,
    mode: Mode = "aligned",
    latency_s: float = 0.02,
    end: Callable[[End], Kept] = lambda end: Kept(),
) -> Went:
    """A session in one process and no time, the same each time.

    Args:
        tape: what happened is noted there.
        latency_s: from an observation to its chunk.
        end: has the episode written.
    """
    mail = _Slow(clock, latency_s)
    rig = Rig(robot, mail, tape.note, guards=guards or Guards(), mode=mode, clock=clock)
    ready = Ready(robot.name, robot.observation_features, robot.limits, robot.rate_hz)
    station = Station(cast, mail, ready, clock, note=tape.note)

    def turn() -> None:
        station.turn()
        if station.ended:
            rig.loop.leave("the session is over")
        clock.at(clock.now() + to_ns(1 / robot.rate_hz), turn)

    clock.at(clock.now(), turn)
    return went(station, rig.run(), end)


def went(station: Station, report: Report, end: Callable[[End], Kept]) -> Went:
    """Has the episode kept, and says how all of it went."""
    thinker, success = station.thinker, report.success
    success = station.done if station.done is not None else success
    info = {"why": report.why, "changes": list(report.changes), "counts": dict(report.counts)}
    kept = end(End(bool(success), bool(report.ended and report.success), info))
    counts = thinker.counts
    return Went(
        report,
        kept,
        success,
        counts["inferences"],
        counts["errors"],
        counts["refused"],
        thinker.delay_s,
    )


class _Slow:
    """A mail within one process, whose chunks take time to arrive."""

    def __init__(self, clock: VirtualClock, latency_s: float) -> None:
        self._mail, self._clock, self._latency = LocalMail(), clock, to_ns(latency_s)

    def send(self, chunk: TimedChunk) -> None:
        self._clock.at(self._clock.now() + self._latency, lambda: self._mail.send(chunk))

    def poll(self) -> TimedChunk | None:
        return self._mail.poll()

    def publish(self, seen: Seen) -> None:
        self._mail.publish(seen)

    def observe(self) -> Seen | None:
        return self._mail.observe()

    def order(self, event: Event) -> None:
        self._mail.order(event)

    def orders(self) -> list[Event]:
        return self._mail.orders()
