"""From the control loop to the recorder: each tick with what was sensed before it.

The loop's side is a `Journal` and a `Mail` in one: it passes the mail on and never waits.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embodied.deploy.chunks import TimedChunk
from embodied.deploy.journal import Journal, Tick
from embodied.deploy.limits import Array, Limits
from embodied.deploy.mail import Mail, Seen
from embodied.deploy.ring import Ring
from embodied.deploy.robot import Features
from embodied.deploy.safety import KINDS
from embodied.deploy.shared import Layout
from embodied.deploy.watchdog import Event, State

_TICK = struct.Struct("<QIIIQqqq")  # time, state, what is there, flags, number, age, two ids
_ASKED, _SENT = 1, 2
_ROOM = 64 * 2**20  # bytes
_LEAST, _MOST = 16, 1000  # moments


@dataclass(frozen=True, eq=False)
class Moment:
    """A tick, and the newest sound observation when it was over.

    Attributes:
        number: of the tick, from 0; gaps were lost on their way.
    """

    number: int
    tick: Tick
    seen: Seen


class Packing:
    """How the moments of a robot lie in memory; observations as in `Layout`."""

    def __init__(self, features: Features, num_axes: int) -> None:
        self.layout, self.num_axes = Layout(features, num_axes), num_axes
        self.size = _TICK.size + 2 * 8 * num_axes + self.layout.size

    def pack(self, moment: Moment) -> list[bytes]:
        """A moment as bytes."""
        tick = moment.tick
        has = _ASKED * (tick.asked is not None) | _SENT * (tick.sent is not None)
        flags = sum(1 << KINDS.index(flag) for flag in tick.flags)
        head = _TICK.pack(
            tick.time,
            list(State).index(tick.state),
            has,
            flags,
            moment.number,
            tick.age,
            tick.request_id,
            tick.instruction_id,
        )
        nothing = np.zeros(self.num_axes)
        values = [nothing if x is None else x for x in (tick.asked, tick.sent)]
        arrays = [np.asarray(value, np.float64).tobytes() for value in values]
        return [head, *arrays, *self.layout.pack(moment.seen)]

    def unpack(self, message: bytes) -> Moment | None:
        """The moment; None where the bytes are none."""
        if len(message) != self.size:
            return None
        time, state, has, flags, number, age, request, instruction = _TICK.unpack_from(message)
        seen = self.layout.unpack(message[_TICK.size + 16 * self.num_axes :])
        if seen is None or state >= len(State):
            return None
        pair: NDArray[np.float64] = np.frombuffer(
            message, np.float64, 2 * self.num_axes, _TICK.size
        ).reshape(2, self.num_axes)
        tick = Tick(
            time,
            list(State)[state],
            pair[0] if has & _ASKED else None,
            pair[1] if has & _SENT else None,
            tuple(kind for i, kind in enumerate(KINDS) if flags >> i & 1),
            age,
            request,
            instruction,
        )
        return Moment(number, tick, seen)


class Feed(Journal):
    """What a control loop is given as its mail and as its journal.

    Args:
        mail: the real one.
        put: takes each moment and never waits; whether it found room.
        then: called after each tick.

    Attributes:
        lost: how many ticks found no room.
    """

    def __init__(
        self,
        mail: Mail,
        put: Callable[[Moment], bool],
        then: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._mail, self._put, self._then = mail, put, then
        self._seen: Seen | None = None
        self._count = 0

    def put(self, tick: Tick) -> None:
        if self._seen is not None:
            moment = Moment(self._count, tick, self._seen)
            self._count += 1
            self.lost += not self._put(moment)
        self._then()

    def poll(self) -> TimedChunk | None:
        return self._mail.poll()

    def publish(self, seen: Seen) -> None:
        self._seen = seen
        self._mail.publish(seen)

    def orders(self) -> list[Event]:
        return self._mail.orders()


class Wire:
    """A feed's moments through shared memory: as many as `_ROOM` bytes hold, in bounds.

    Args:
        creates: True for the control process.
        folder: where the memory is named.
    """

    def __init__(
        self,
        name: str,
        features: Features,
        limits: Limits,
        *,
        creates: bool,
        folder: Path,
    ) -> None:
        self.packing = Packing(features, len(limits.names))
        size = self.packing.size
        capacity = min(max(_ROOM // size, _LEAST), _MOST)
        path = folder / f"embodied-{os.getuid()}-{name}-ticks"
        self._ring = Ring(path, size, capacity, creates=creates)

    @property
    def lost(self) -> int:
        """How many found no room."""
        return self._ring.lost

    def put(self, moment: Moment) -> bool:
        """Whether it found room."""
        return self._ring.put(*self.packing.pack(moment))

    def take(self) -> list[Moment]:
        """All that came since the last call, oldest first."""
        found = []
        while (message := self._ring.take()) is not None:
            if (moment := self.packing.unpack(message)) is not None:
                found.append(moment)
        return found

    def close(self) -> None:
        """Lets go of the memory."""
        self._ring.close()


def command_of(moment: Moment) -> Array:
    """(A,) what the robot was to do in a tick: what it was sent, or was sent last."""
    sent = moment.tick.sent
    return moment.seen.command if sent is None else sent
