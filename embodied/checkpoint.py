"""Checkpoints that are whole or absent.

`<directory>/step-00001234/` is one (see `checkpoint_files`). It is written under a temporary name,
forced to disk and renamed, so a crash at any moment leaves the earlier checkpoints as they were.
`latest` finds the newest good one; no link or pointer can be stale.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from embodied.checkpoint_files import (
    STEP_NAME,
    Checkpoint,
    CheckpointError,
    CorruptCheckpoint,
    encode_json,
    load,
    some,
    sync_directory,
    write,
    write_contents,
)

_PINS = "pins.json"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

logger = logging.getLogger(__name__)


class ConfigMismatch(CheckpointError):
    """A run would be resumed with another config than it was started with."""


def step_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return Path(directory) / f"step-{step:08d}"


def save(
    directory: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
    keep: int = 3,
    finite: Collection[str] = ("policy",),
) -> Path:
    """Writes the checkpoint of a step and returns its path; then prunes the directory.

    Args:
        tensors: file name -> name -> tensor, on any device, views and shared storage included.
        documents: file name -> anything JSON can hold exactly (string keys, no NaN).
        keep: how many of the newest to keep, at least 1; pinned ones are kept besides.
        finite: the groups of `tensors` in which NaN and infinity are refused.

    Raises:
        CheckpointError: the content cannot be saved, or the disk is full or read-only. Earlier
            checkpoints stay as they were.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step must be >= 0 and keep >= 1, got step={step}, keep={keep}")
    _refuse_nonfinite(tensors, finite)
    directory, final = Path(directory), step_path(directory, step)
    temporary = final.with_name(f".tmp-{final.name}")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _remove_stale(directory)
        temporary.mkdir()
        write_contents(temporary, step, tensors, documents)
        _commit(temporary, final)
    except OSError as error:
        raise _write_error(directory, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    try:
        _prune(directory, step, keep)
    except (OSError, CheckpointError) as error:  # the new checkpoint is safe; training goes on
        logger.warning("old checkpoints in %s were not removed: %s", directory, error)
    return final


def pin(directory: Path, name: str, step: int) -> None:
    """Keeps the checkpoint of a step for good under a name, such as "best"; replaces the former."""
    directory = Path(directory)
    if not step_path(directory, step).is_dir():
        raise CheckpointError(f"E_CKPT_MISSING: cannot pin {name!r}: no step {step} in {directory}")
    temporary = directory / f".tmp-{_PINS}"
    try:
        write(temporary, encode_json(_PINS, {**pins(directory), name: step}))
        os.replace(temporary, directory / _PINS)
        sync_directory(directory)
    except OSError as error:
        raise _write_error(directory, error) from error


def pins(directory: Path) -> dict[str, int]:
    """The pinned steps by name."""
    path = Path(directory) / _PINS
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
        return {str(name): int(step) for name, step in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(
            f"E_CKPT_CORRUPT: {path} is damaged ({error}); write it anew as {{name: step}}"
        ) from error


def _refuse_nonfinite(tensors: Mapping[str, Mapping[str, Tensor]], finite: Collection[str]) -> None:
    bad = [
        f"{group}/{name}"
        for group in finite
        for name, tensor in tensors.get(group, {}).items()
        if not tensor.isfinite().all()
    ]
    if bad:
        raise CheckpointError(
            f"E_CKPT_NONFINITE: NaN or infinity in {some(bad)}; nothing was saved. Go back to "
            "the last checkpoint and look for the step at which the loss stopped being finite"
        )


def _commit(temporary: Path, final: Path) -> None:
    if final.exists():  # saved again at the same step: the former stays loadable until the swap
        old = final.with_name(f"{final.name}-old")
        if old.exists():
            _discard(old)
        os.rename(final, old)
    os.rename(temporary, final)
    sync_directory(final.parent)


def _write_error(directory: Path, error: OSError) -> CheckpointError:
    code = "E_DISK_FULL" if error.errno in _FULL else "E_CKPT_WRITE"
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return CheckpointError(
        f"{code}: cannot write a checkpoint in {directory}: {error} "
        f"({shutil.disk_usage(existing).free} bytes free). Earlier checkpoints are intact; free "
        "space, make the directory writable, or choose another one"
    )


def _remove_stale(directory: Path) -> None:
    for path in directory.glob(".tmp-*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _discard(path: Path) -> None:
    # Renamed first, so that a crash half-way leaves rubbish and not a damaged checkpoint.
    rubbish = path.with_name(f".tmp-{path.name}")
    os.rename(path, rubbish)
    shutil.rmtree(rubbish)


def _prune(directory: Path, written: int, keep: int) -> None:
    saved = _saved(directory)
    current = dict(reversed(saved))  # of two saves of one step, the later
    kept = {written, *sorted(current)[-keep:], *pins(directory).values()}
    for step, path in saved:
        if step not in kept or current[step] != path:
            _discard(path)


def _saved(directory: Path) -> list[tuple[int, Path]]:
    """Steps and paths, newest first; the former of two saves of one step comes last."""
    paths = directory.iterdir() if directory.is_dir() else ()
    matches = [match for path in paths if (match := STEP_NAME.fullmatch(path.name))]
    matches.sort(key=lambda match: (int(match[1]), not match[2]), reverse=True)
    return [(int(match[1]), directory / match[0]) for match in matches]


def latest(directory: Path) -> Checkpoint | None:
    """The good checkpoint of the highest step, or None where there is none.

    A damaged one is renamed to `corrupt-<name>-<n>`, with a warning that names the damage, and
    the one before is taken. Trouble in reading (no permission, too many open files) is raised:
    it says nothing about the content.
    """
    for _, path in _saved(Path(directory)):
        try:
            return load(path)
        except CorruptCheckpoint as error:
            _quarantine(path, error)
    return None


def _quarantine(path: Path, error: CorruptCheckpoint) -> None:
    # Renamed, not only skipped: its name would stand in the way of the next save of that step.
    taken = {entry.name for entry in path.parent.iterdir()}
    number = next(n for n in range(1, len(taken) + 2) if f"corrupt-{path.name}-{n}" not in taken)
    target = path.with_name(f"corrupt-{path.name}-{number}")
    try:
        os.rename(path, target)
    except OSError as reason:
        logger.warning("%s. Skipped, but not moved aside: %s", error, reason)
    else:
        logger.warning("%s. Moved to %s; the checkpoint before it is used", error, target.name)
