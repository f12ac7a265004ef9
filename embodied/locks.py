"""One run per directory: a lock that the operating system drops when its holder dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import weakref
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self


class RunLocked(RuntimeError):
    """Another run holds the directory; the message names its process and host, as `holder` does."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


class RunLock:
    """Holds `<directory>/run.lock` for as long as the `with` block runs.

    The lock is the operating system's (`flock`), so the file of a killed run is no obstacle; its
    text (JSON: pid, host, started) only tells others who holds it.
    """

    def __init__(self, directory: Path) -> None:
        self.path = Path(directory) / "run.lock"
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Takes the lock, or raises RunLocked at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self.path, "a+", encoding="utf-8")
        try:
            _take(file, self.path)
        except BaseException:
            file.close()
            raise
        self._file = file
        _held.add(self)
        _sign(file)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.truncate(0)  # the file stays: removing it would let two runs lock two files
        self.close()

    def close(self) -> None:
        """Lets go of the file; the lock ends when no process has it open."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _take(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(file)
        raise RunLocked(
            f"E_RUN_LOCKED: {path.parent} is in use by {holder}. Wait for that run, stop it, or "
            "give this one another directory; do not delete the lock file",
            holder,
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        raise OSError(
            error.errno,
            f"E_RUN_LOCKED: the file system of {path.parent} has no locks ({error.strerror}); put "
            "the run directory on another one, or mount it with flock",
        ) from error


def _sign(file: IO[str]) -> None:
    file.truncate(0)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": started}, file)
    file.flush()


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        found = json.loads(file.read())
        return f"process {found['pid']} on {found['host']} since {found['started']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not signed the lock yet"


# A forked worker inherits the open file, and would keep the lock of a run that was killed.
_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _close_inherited() -> None:
    for lock in _held:
        lock.close()


os.register_at_fork(after_in_child=_close_inherited)
