"""What the commands have in common: errors are one clear message, and bars do not flood a log."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_EXPECTED = (ValueError, RuntimeError, ImportError, OSError)
_PACKAGES = ("embodied", "embodied_envs", "embodied_datasets")
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

if not sys.stderr.isatty():  # in a file each move of a bar stays; tqdm reads this when imported
    os.environ.setdefault("TQDM_MININTERVAL", "10")


@contextmanager
def clear_errors(*, exits: bool = True) -> Iterator[None]:
    """Prints an expected error as one message on stderr and exits with status 1.

    An error is expected if this project's own code raised it, since then its text says what to
    do, or if the operating system refused something. All others are bugs, ours or a library's,
    and keep their traceback, as do all of them under HYDRA_FULL_ERROR=1.

    Args:
        exits: False hands the error on after printing it; a sweep goes on with its other jobs.
    """
    try:
        yield
    except Exception as error:
        expected = None if os.environ.get("HYDRA_FULL_ERROR") == "1" else _expected(error)
        if expected is None:
            raise
        print(f"error: {_message(expected)}", file=sys.stderr)
        if not exits:
            raise
        sys.exit(1)


def _expected(error: BaseException | None) -> Exception | None:
    """The first error along the chain of causes that the user can do something about."""
    while error is not None:
        if isinstance(error, OSError) or (isinstance(error, _EXPECTED) and _is_ours(error)):
            return error
        error = error.__cause__  # Hydra wraps what constructors raise
    return None


def _is_ours(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in _PACKAGES


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return (
            f"E_DISK_FULL: {error}; what was saved before is intact. Free space and give the same "
            "command again: the run goes on from its last checkpoint"
        )
    return str(error)
