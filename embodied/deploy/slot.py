"""A place in memory with the newest message only, between two processes that never wait.

Its writer never waits, and its reader waits for no writer, not even for one that was killed in the
middle (a seqlock; Boehm 2012, doi:10.1145/2247684.2247688). A checksum stands in for memory
barriers, which Python does not have.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path

_SEQUENCE = struct.Struct("<Q")  # odd while somebody writes
_HEADER = struct.Struct("<QII")  # sequence, length, checksum
_TRIES = 8


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
        (sequence,) = _SEQUENCE.unpack_from(self._memory, 0)
        found = None if sequence == self._read else self._newest()
        if found is None:
            return None
        self._read, message = found
        return message

    def peek(self) -> bytes | None:
        """The newest message, read before or not; None if there is none."""
        found = self._newest()
        return None if found is None or found[0] == 0 else found[1]

    def _newest(self) -> tuple[int, bytes] | None:
        """Its number, and the message; None if it is being written all the time."""
        for _ in range(_TRIES):
            sequence, length, checksum = _HEADER.unpack_from(self._memory, 0)
            if sequence % 2 or length > self.size:
                continue
            message = self._memory[_HEADER.size : _HEADER.size + length]
            (after,) = _SEQUENCE.unpack_from(self._memory, 0)
            if after == sequence and zlib.crc32(message) == checksum:
                return sequence, message
        return None

    def close(self) -> None:
        """Lets go of the memory; whoever made it removes it."""
        self._memory.close()
        if self._creates:
            self.path.unlink(missing_ok=True)
