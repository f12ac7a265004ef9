"""Chunks and observations between the policy's process and the control process: shared memory."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.deploy.chunks import TimedChunk
from embodied.deploy.limits import Limits
from embodied.deploy.mail import Seen, check_order
from embodied.deploy.robot import TIME, Features
from embodied.deploy.safety import MAX_HORIZON
from embodied.deploy.slot import Slot
from embodied.deploy.watchdog import OPERATOR, Event, State

_CHUNK = struct.Struct("<QQQQQII")
_SEEN = struct.Struct("<QI")
_MEMORY = Path("/dev/shm")


def pack_chunk(chunk: TimedChunk) -> tuple[bytes, bytes]:
    """A chunk as bytes: float64, row by row."""
    actions = np.ascontiguousarray(chunk.actions, np.float64)
    numbers = (chunk.obs_time, chunk.t0, chunk.dt, chunk.request_id, chunk.instruction_id)
    return _CHUNK.pack(*numbers, *actions.shape), actions.tobytes()


def unpack_chunk(message: bytes) -> TimedChunk | None:
    """The chunk; None where the bytes are none."""
    if len(message) < _CHUNK.size:
        return None
    *numbers, height, width = _CHUNK.unpack_from(message)
    if len(message) != _CHUNK.size + 8 * height * width:
        return None
    values = np.frombuffer(message, np.float64, offset=_CHUNK.size)
    return TimedChunk(values.reshape(height, width), *numbers)


class Layout:
    """How the observations of a robot lie in memory.

    Args:
        features: of the robot; arrays of three dimensions are images (uint8), others float64.
        num_axes: A, of its commands.
    """

    def __init__(self, features: Features, num_axes: int) -> None:
        self.features, self.num_axes = dict(features), num_axes
        self.size = (
            _SEEN.size
            + 8 * num_axes
            + sum(
                self._type(kind).itemsize * int(np.prod(_shape(kind))) for kind in features.values()
            )
        )

    def pack(self, seen: Seen) -> list[bytes]:
        """An observation as bytes; times that the driver does not know are those of the floats."""
        parts = [_SEEN.pack(seen.time, list(State).index(seen.state))]
        parts.append(np.asarray(seen.command, np.float64).tobytes())
        for name, kind in self.features.items():
            value = seen.values.get(name, seen.time) if name.endswith(TIME) else seen.values[name]
            parts.append(np.asarray(value, self._type(kind)).tobytes())
        return parts

    def unpack(self, message: bytes) -> Seen | None:
        """The observation; None where the bytes are none."""
        if len(message) != self.size:
            return None
        time, state = _SEEN.unpack_from(message)
        place = _SEEN.size
        command: NDArray[np.float64] = np.frombuffer(message, np.float64, self.num_axes, place)
        place += command.nbytes
        values: dict[str, Any] = {}
        for name, kind in self.features.items():
            shape, dtype = _shape(kind), self._type(kind)
            array = np.frombuffer(message, dtype, int(np.prod(shape)), place).reshape(shape)
            values[name] = array if isinstance(kind, tuple) else array.item()
            place += array.nbytes
        return Seen(time, values, command, list(State)[state])

    def _type(self, kind: type | tuple[int, ...]) -> np.dtype[Any]:
        if kind is int:
            return np.dtype(np.int64)
        is_image = isinstance(kind, tuple) and len(kind) == 3
        return np.dtype(np.uint8 if is_image else np.float64)


def _shape(kind: type | tuple[int, ...]) -> tuple[int, ...]:
    return kind if isinstance(kind, tuple) else ()


class Orders:
    """What the operator wants, in a slot that keeps the last ones: none is lost to the next.

    Args:
        slot: of `SIZE` bytes.
    """

    KEPT = 32
    SIZE = 8 + KEPT

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._count = 0  # of all that were written, or read

    def write(self, event: Event) -> None:
        """Adds an order; of one writer, after those of earlier ones."""
        check_order(event)
        count, kept = self._kept()
        kept = (kept + bytes([list(Event).index(event)]))[-self.KEPT :]
        self._slot.write((count + 1).to_bytes(8, "little"), kept)

    def read(self) -> list[Event]:
        """Those that are new, oldest first."""
        message = self._slot.read()
        if message is None:
            return []
        count, kept = int.from_bytes(message[:8], "little"), message[8:]
        fresh = min(count - self._count, len(kept))
        self._count = count
        numbers = kept[len(kept) - fresh :] if fresh > 0 else b""
        events = [list(Event)[number] for number in numbers if number < len(Event)]
        return [event for event in events if event in OPERATOR]

    def _kept(self) -> tuple[int, bytes]:
        message = self._slot.peek()
        return (0, b"") if message is None else (int.from_bytes(message[:8], "little"), message[8:])


class SharedMail:
    """The mail between two processes; the control process makes it, and the other side joins.

    Args:
        name: of the robot.
        features, limits: of the robot, the same on both sides.
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
        folder: Path = _MEMORY,
    ) -> None:
        self.layout = Layout(features, len(limits.names))
        size = _CHUNK.size + 8 * MAX_HORIZON * len(limits.names)
        prefix = f"embodied-{os.getuid()}-{name}"
        self._chunks = Slot(folder / f"{prefix}-chunks", size, creates=creates)
        self._seen = Slot(folder / f"{prefix}-seen", self.layout.size, creates=creates)
        self._slot = Slot(folder / f"{prefix}-orders", Orders.SIZE, creates=creates)
        self._orders = Orders(self._slot)

    # The control process

    def poll(self) -> TimedChunk | None:
        message = self._chunks.read()
        return None if message is None else unpack_chunk(message)

    def publish(self, seen: Seen) -> None:
        self._seen.write(*self.layout.pack(seen))

    def orders(self) -> list[Event]:
        return self._orders.read()

    # The policy's process, and the operator's

    def order(self, event: Event) -> None:
        """What the operator wants."""
        self._orders.write(event)

    def send(self, chunk: TimedChunk) -> None:
        """Puts a chunk in place of the last one, taken or not."""
        self._chunks.write(*pack_chunk(chunk))

    def observe(self) -> Seen | None:
        """The newest observation; None if there is none that was not seen before."""
        message = self._seen.read()
        return None if message is None else self.layout.unpack(message)

    def close(self) -> None:
        """Lets go of the memory."""
        for slot in (self._chunks, self._seen, self._slot):
            slot.close()
