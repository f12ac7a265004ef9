"""A queue in memory between two processes, whose writer never waits.

What finds no room is lost, and counted: a reader that is stopped costs messages and nothing else.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path

_NUMBER = struct.Struct("<Q")
_ENTRY = struct.Struct("<II")  # length, checksum
_WRITTEN, _TAKEN, _LOST, _HEADER = 0, 8, 16, 24


class Ring:
    """A file in memory with room for some messages, of one writer and one reader.

    Args:
        size: of the longest message in bytes.
        capacity: how many messages it holds.
        creates: whether to make it, and to remove it when it is closed; else it must be there.
    """

    def __init__(self, path: Path, size: int, capacity: int, *, creates: bool) -> None:
        self.path, self.size, self.capacity, self._creates = Path(path), size, capacity, creates
        self._stride = _ENTRY.size + size
        total = _HEADER + capacity * self._stride
        if creates:
            self.path.unlink(missing_ok=True)  # of a run that was killed
        flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if creates else 0)
        descriptor = os.open(self.path, flags, 0o600)
        try:
            if creates:
                os.ftruncate(descriptor, total)
            if os.fstat(descriptor).st_size != total:
                raise ValueError(
                    f"{path} has {os.fstat(descriptor).st_size} bytes, not {total}: both sides "
                    "need the same robot"
                )
            self._memory = mmap.mmap(descriptor, total)
        finally:
            os.close(descriptor)

    @property
    def lost(self) -> int:
        """How many messages found no room."""
        return self._number(_LOST)

    def put(self, *parts: bytes) -> bool:
        """Adds a message, or counts it as lost; whether it was added."""
        length = sum(len(part) for part in parts)
        if length > self.size:
            raise ValueError(f"a message of {length} bytes does not fit in {self.size}")
        written = self._number(_WRITTEN)
        if written - self._number(_TAKEN) >= self.capacity:
            _NUMBER.pack_into(self._memory, _LOST, self.lost + 1)
            return False
        start = _HEADER + written % self.capacity * self._stride
        checksum, place = 0, start + _ENTRY.size
        for part in parts:
            self._memory[place : place + len(part)] = part
            checksum, place = zlib.crc32(part, checksum), place + len(part)
        _ENTRY.pack_into(self._memory, start, length, checksum)
        _NUMBER.pack_into(self._memory, _WRITTEN, written + 1)
        return True

    def take(self) -> bytes | None:
        """The oldest message; None if there is none, or not yet all of it."""
        taken = self._number(_TAKEN)
        if taken >= self._number(_WRITTEN):
            return None
        start = _HEADER + taken % self.capacity * self._stride
        length, checksum = _ENTRY.unpack_from(self._memory, start)
        if length > self.size:
            return None
        message = self._memory[start + _ENTRY.size : start + _ENTRY.size + length]
        if zlib.crc32(message) != checksum:  # another core does not see it whole yet
            return None
        _NUMBER.pack_into(self._memory, _TAKEN, taken + 1)
        return message

    def close(self) -> None:
        """Lets go of the memory; whoever made it removes it."""
        self._memory.close()
        if self._creates:
            self.path.unlink(missing_ok=True)

    def _number(self, place: int) -> int:
        number: int = _NUMBER.unpack_from(self._memory, place)[0]
        return number
