"""Chunks and observations between the policy's process and the control process: shared memory.

A slot holds the newest message only. Its writer never waits, and its reader waits for no writer,
not even for one that was killed in the middle (a seqlock; Boehm 2012,
doi:10.1145/2247684.2247688). A checksum stands in for memory barriers, which Python does not have.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.deploy.chunks import TimedChunk
from embodied.deploy.limits import Limits
from embodied.deploy.mail import Seen
from embodied.deploy.robot import TIME, Features
from embodied.deploy.safety import MAX_HORIZON
from embodied.deploy.watchdog import State

_SEQUENCE = struct.Struct("<Q")  # odd while somebody writes
_HEADER = struct.Struct("<QII")  # sequence, length, checksum
_CHUNK = struct.Struct("<QQQQQII")
_SEEN = struct.Struct("<QI")
_TRIES = 8
_MEMORY = Path("/dev/shm")


class Slot:
    """A file in memory that one process writes and another reads.

    Args:
        size: of the longest message in bytes.
        creates: whether to make it, and to remove it when it is closed; else it must be there.
    """

    def __init__(self, path: Path, size: int, *, creates: bool) -> None:
        self.path, self.size, self._creates = Path(path), size, creates
        if creates:
            self.path.unlink(missing_ok=True)  # of a run that was killed
        flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if creates else 0)
        descriptor = os.open(self.path, flags, 0o600)
        try:
            if creates:
                os.ftruncate(descriptor, _HEADER.size + size)
            if os.fstat(descriptor).st_size != _HEADER.size + size:
                raise ValueError(
                    f"{path} has {os.fstat(descriptor).st_size} bytes, not {_HEADER.size + size}: "
                    "both sides need the same robot"
                )
            self._memory = mmap.mmap(descriptor, _HEADER.size + size)
        finally:
            os.close(descriptor)
        self._read = 0

    def write(self, *parts: bytes | memoryview) -> None:
        """Puts a message in place of the last one."""
        length = sum(len(part) for part in parts)
        if length > self.size:
            raise ValueError(f"a message of {length} bytes does not fit in {self.size}")
        (before,) = _SEQUENCE.unpack_from(self._memory, 0)
        writing = before | 1  # a writer that was killed may have left it odd
        _SEQUENCE.pack_into(self._memory, 0, writing)
        checksum, place = 0, _HEADER.size
        for part in parts:
            self._memory[place : place + len(part)] = part
            checksum, place = zlib.crc32(part, checksum), place + len(part)
        _HEADER.pack_into(self._memory, 0, writing, length, checksum)
        _SEQUENCE.pack_into(self._memory, 0, writing + 1)

    def read(self) -> bytes | None:
        """The newest message; None if it was read before, or is being written all the time."""
        for _ in range(_TRIES):
            sequence, length, checksum = _HEADER.unpack_from(self._memory, 0)
            if sequence == self._read:
                return None
            if sequence % 2 or length > self.size:
                continue
            message = self._memory[_HEADER.size : _HEADER.size + length]
            (after,) = _SEQUENCE.unpack_from(self._memory, 0)
            if after == sequence and zlib.crc32(message) == checksum:
                self._read = sequence
                return message
        return None

    def close(self) -> None:
        """Lets go of the memory; whoever made it removes it."""
        self._memory.close()
        if self._creates:
            self.path.unlink(missing_ok=True)


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

    # The control process

    def poll(self) -> TimedChunk | None:
        message = self._chunks.read()
        return None if message is None else unpack_chunk(message)

    def publish(self, seen: Seen) -> None:
        self._seen.write(*self.layout.pack(seen))

    # The policy's process

    def send(self, chunk: TimedChunk) -> None:
        """Puts a chunk in place of the last one, taken or not."""
        self._chunks.write(*pack_chunk(chunk))

    def observe(self) -> Seen | None:
        """The newest observation; None if there is none that was not seen before."""
        message = self._seen.read()
        return None if message is None else self.layout.unpack(message)

    def close(self) -> None:
        """Lets go of the memory."""
        self._chunks.close()
        self._seen.close()
