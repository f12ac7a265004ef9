"""The control process: it owns the robot, loads no torch, and outlives nobody.

It makes the robot from its config, offers its memory, waits until it is let go, and brakes and
stops the robot when it is asked to, when its parent dies, or when a simulated episode is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from embodied.build import instantiate
from embodied.deploy.chunks import Mode
from embodied.deploy.clock import Clock
from embodied.deploy.feed import Feed, Moment, Wire
from embodied.deploy.limits import Limits
from embodied.deploy.lock import RobotLock
from embodied.deploy.loop import ControlLoop
from embodied.deploy.mail import Mail
from embodied.deploy.robot import Features, Robot
from embodied.deploy.shared import SharedMail
from embodied.deploy.watchdog import Guards

ENDED = "the simulated episode is over"
GO = "go"


@dataclass(frozen=True)
class Plant:
    """What is to be controlled, and how; it travels to the process.

    Attributes:
        robot: config of the robot.
        extra_targets: what it may build besides our own.
        guards: fields of `Guards`.
        folder: where shared memory is named.
    """

    robot: Mapping[str, Any]
    extra_targets: Sequence[str] = ()
    guards: Mapping[str, Any] = field(default_factory=dict)
    mode: Mode = "aligned"
    priority: bool = False
    folder: Path = Path("/dev/shm")


@dataclass(frozen=True)
class Ready:
    """What the other processes need to know of a robot."""

    name: str
    features: Features
    limits: Limits
    rate_hz: float


@dataclass(frozen=True)
class Report:
    """How a run of the control loop went.

    Attributes:
        why: it ended.
        error: what failed; empty for nothing.
        ended, success: of a simulated episode; None where the robot does not say.
        ticks, lost: how many there were, and how many found no room on their way to the recorder.
        counts: what went wrong, and how often; chunks that were refused by their reason.
        changes: of the state, in words.
    """

    why: str
    error: str = ""
    ended: bool | None = None
    success: bool | None = None
    ticks: int = 0
    lost: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    changes: tuple[str, ...] = ()


class Rig:
    """A robot, its loop, and the feed to whoever records it.

    Args:
        mail: between the loop and the policy.
        put: takes each moment; see `Feed`.
    """

    def __init__(
        self,
        robot: Robot,
        mail: Mail,
        put: Callable[[Moment], bool],
        *,
        guards: Guards,
        mode: Mode = "aligned",
        priority: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.robot = robot
        self.ticks = 0
        self.feed = Feed(mail, put, self._after_tick)
        self.loop = ControlLoop(
            robot,
            self.feed,
            guards=guards,
            mode=mode,
            clock=clock,
            journal=self.feed,
            priority=priority,
        )

    def run(self) -> Report:
        """Runs the loop to its end; a failure is part of the report."""
        error = ""
        try:
            self.loop.run()
        except Exception as failure:
            error = str(failure) or type(failure).__name__
        watchdog = self.loop.watchdog
        return Report(
            why=error or self.loop.leaving,
            error=error,
            ended=getattr(self.robot, "ended", None),
            success=getattr(self.robot, "success", None),
            ticks=self.ticks,
            lost=self.feed.lost,
            counts={**self.loop.counts, **self.loop.queue.refused, **self.loop.safety.counts},
            changes=tuple(f"{x.before} -> {x.after}: {x.why or x.event}" for x in watchdog.changes),
        )

    def _after_tick(self) -> None:
        self.ticks += 1
        if getattr(self.robot, "ended", False):
            self.loop.leave(ENDED)


def control(plant: Plant, pipe: Connection) -> None:
    """The process: sends a `Ready`, waits for `GO`, runs, and sends a `Report`.

    Any other message, or the end of the pipe, ends it, before the run or in its midst. What keeps
    it from running is sent as text.
    """
    try:
        _control(plant, pipe)
    except Exception as error:
        pipe.send(str(error) or type(error).__name__)
        raise


def _control(plant: Plant, pipe: Connection) -> None:
    robot: Robot = instantiate(plant.robot, extra_targets=plant.extra_targets)
    ready = Ready(robot.name, dict(robot.observation_features), robot.limits, robot.rate_hz)
    with RobotLock(robot.name), _memory(ready, plant.folder) as (mail, wire):
        rig = Rig(
            robot,
            mail,
            wire.put,
            guards=Guards(**plant.guards),
            mode=plant.mode,
            priority=plant.priority,
        )
        pipe.send(ready)
        asked = _asked(pipe)
        if asked == GO:
            threading.Thread(target=lambda: rig.loop.leave(_asked(pipe)), daemon=True).start()
        pipe.send(rig.run() if asked == GO else Report(asked))


def _asked(pipe: Connection) -> str:
    try:
        return str(pipe.recv())
    except (EOFError, OSError):
        return "its parent is gone"


@contextmanager
def _memory(ready: Ready, folder: Path) -> Iterator[tuple[SharedMail, Wire]]:
    mail = SharedMail(ready.name, ready.features, ready.limits, creates=True, folder=folder)
    wire = Wire(ready.name, ready.features, ready.limits, creates=True, folder=folder)
    try:
        yield mail, wire
    finally:
        mail.close()
        wire.close()
