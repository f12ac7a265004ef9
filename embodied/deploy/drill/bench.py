"""A simulated robot, its control loop and a stand-in for a policy, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embodied.deploy.chunks import Mode, TimedChunk
from embodied.deploy.clock import SECOND, VirtualClock, to_ns
from embodied.deploy.drill.tap import Maker, Tap
from embodied.deploy.faults import Faults
from embodied.deploy.journal import Journal, Tick
from embodied.deploy.limits import Array, Limits
from embodied.deploy.loop import ControlLoop
from embodied.deploy.mail import LocalMail, Seen
from embodied.deploy.watchdog import Event, Guards, State

ARM_S = 0.1
PERIOD_S, LATENCY_S = 0.05, 0.04  # of inferences
HORIZON_S = 0.5  # of chunks


class Rhythm:
    """A motion to and fro that keeps all limits, from where the robot is."""

    def __init__(self, limits: Limits, centre: Array, *, period_s: float = 2.0) -> None:
        omega = 2 * np.pi / period_s
        room = np.minimum(limits.high - centre, centre - limits.low)
        bounds = (limits.velocity / omega, limits.acceleration / omega**2, limits.start_jump, room)
        self._centre, self._omega = centre, omega
        self._size = np.maximum(0.5 * np.minimum.reduce(bounds), 0.0)
        ends = np.array([1.0, -1.0])[:, None]
        while limits.box is not None and not limits.box.contains(centre + ends * self._size):
            self._size = self._size / 2
            if self._size.max() < 1e-6:
                raise ValueError("E_ROBOT_CONFIG: the robot starts outside its box")

    def __call__(self, seconds: float) -> Array:
        """(A,) at a time since the beginning."""
        # Begins and turns smoothly: (1 - cos) rises from 0 with velocity 0.
        rise = 0.5 * (1.0 - float(np.cos(self._omega * seconds)))
        moved: Array = self._centre + rise * self._size
        return moved


Edit = Callable[[TimedChunk], Iterable[tuple[float, TimedChunk]]]
"""What becomes of a chunk: (further delay in s, chunk) for each that arrives."""


def _as_it_is(chunk: TimedChunk) -> Iterator[tuple[float, TimedChunk]]:
    yield 0.0, chunk


@dataclass
class Thinker:
    """Plans from the newest observation, `PERIOD_S` after `PERIOD_S`, and takes `LATENCY_S`.

    Attributes:
        stalled: whether it does nothing.
        target: (A,) at a time in s since the first plan; the default is a `Rhythm`.
        edit: what happens to its chunks on their way.
        instruction: the number of what it is told.
        sent: all chunks that arrived, in this order.
    """

    clock: VirtualClock
    mail: LocalMail
    limits: Limits
    target: Callable[[float], Array] | None = None
    edit: Edit = _as_it_is
    plans: Callable[[Seen, int], TimedChunk] | None = None
    instruction: Callable[[], int] = lambda: 0
    stalled: bool = False
    sent: list[TimedChunk] = field(default_factory=list)
    _requests: int = 0
    _begun: int | None = None

    def think(self) -> None:
        """One inference; the next one follows by itself."""
        self.clock.at(self.clock.now() + to_ns(PERIOD_S), self.think)
        seen = self.mail.newest
        if self.stalled or seen is None:
            return
        self._requests += 1
        chunk = (self.plans or self._plan)(seen, self._requests)
        for delay_s, each in self.edit(chunk):
            self._post(each, to_ns(LATENCY_S + delay_s))

    def _plan(self, seen: Seen, request_id: int) -> TimedChunk:
        if self._begun is None or seen.state is not State.RUN:
            self._begun = seen.time  # as a policy that sees where the robot is
            self._rhythm = Rhythm(self.limits, seen.command)
        motion = self.target or self._rhythm
        dt = to_ns(PERIOD_S / 2)
        times = (seen.time - self._begun + dt * np.arange(round(HORIZON_S * SECOND / dt))) / SECOND
        actions = np.stack([motion(time) for time in times])
        return TimedChunk(actions, seen.time, seen.time, dt, request_id, self.instruction())

    def _post(self, chunk: TimedChunk, delay: int) -> None:
        def arrive() -> None:
            if not self.stalled:
                self.sent.append(chunk)
                self.mail.send(chunk)

        self.clock.at(self.clock.now() + delay, arrive)


class Bench:
    """One session of a drill: what is tapped, and what goes wrong when.

    Args:
        faults: of the hardware.
        guards: of the loop.
        journal: where ticks are noted; a large one by default.
        camera: what a drilled camera shows at a time in ns; None for no such camera.
    """

    def __init__(
        self,
        make: Maker,
        *,
        faults: Faults | None = None,
        guards: Guards | None = None,
        mode: Mode = "aligned",
        journal: Journal | None = None,
        camera: Callable[[int], Any] | None = None,
    ) -> None:
        self.clock = VirtualClock(10 * SECOND)
        self.start = self.clock.now()
        self.tap = Tap(make(self.clock, faults or Faults()), self.clock)
        self.tap.camera = camera
        self.mail = LocalMail()
        self.journal = journal or Journal(1_000_000)
        self.loop = ControlLoop(
            self.tap, self.mail, guards=guards, mode=mode, clock=self.clock, journal=self.journal
        )
        self.limits = self.tap.limits
        self.thinker = Thinker(self.clock, self.mail, self.limits)
        self.at(0.01, self.thinker.think)
        self.at(ARM_S, lambda: self.mail.order(Event.ARM))
        self._ticks: list[Tick] = []

    def at(self, seconds: float, event: Callable[[], None]) -> None:
        """Something happens at a time of the session."""
        self.clock.at(self.start + to_ns(seconds), event)

    def stall(self) -> None:
        """The policy stops; what it was computing is lost."""
        self.thinker.stalled = True

    def go_on(self) -> None:
        """The policy works again."""
        self.thinker.stalled = False

    def run(self, seconds: float) -> Bench:
        """Runs the session until a time; itself."""
        self.at(seconds, self.loop.leave)
        self.loop.run()
        return self

    # What happened

    @property
    def ticks(self) -> list[Tick]:
        """All that the journal kept."""
        self._ticks += self.journal.take()
        return self._ticks

    @property
    def executed(self) -> list[Tick]:
        """The ticks in which a plan was followed."""
        return [tick for tick in self.ticks if tick.asked is not None]

    def seconds(self, time: int) -> float:
        """A time in s since the session began."""
        return (time - self.start) / SECOND

    def state_at(self, seconds: float) -> State:
        """The state at a time of the session."""
        state, time = State.IDLE, self.start + to_ns(seconds)
        for change in self.loop.watchdog.changes:
            state = change.after if change.time <= time else state
        return state

    def entered(self, state: State, *, after: float = 0.0) -> float | None:
        """When a state was first entered after a time, in s; None if it was not."""
        times = [
            self.seconds(change.time)
            for change in self.loop.watchdog.changes
            if change.after is state and self.seconds(change.time) >= after
        ]
        return times[0] if times else None
