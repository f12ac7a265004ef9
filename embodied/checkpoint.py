"""Checkpoints that are whole or absent, checked byte by byte on loading, with no pickle.

`<directory>/step-00001234/` holds one `<name>.safetensors` per group of tensors, one
`<name>.json` per document, and `manifest.json` with the size and SHA-256 of each. It is written
under a temporary name, forced to disk and renamed, so a crash at any moment leaves the earlier
checkpoints as they were. `latest` finds the newest good one; no link or pointer can be stale.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

SCHEMA = 1
_MANIFEST = "manifest.json"
_PINS = "pins.json"
_STEP = re.compile(r"step-(\d{8,})(-old)?")
_FILE = re.compile(r"\w[\w.-]*\.(safetensors|json)", re.ASCII)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, found or used."""


class CorruptCheckpoint(CheckpointError):
    """What is on disk is not what was saved; the message names everything that differs."""


class ConfigMismatch(CheckpointError):
    """A run would be resumed with another config than it was started with."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, its tensors on the CPU.

    Attributes:
        digest: SHA-256 of the manifest, which names the whole content.
    """

    path: Path
    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    documents: Mapping[str, Any]
    digest: str


# Writing


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
        _write_contents(temporary, step, tensors, documents)
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
        _write(temporary, _encode_json(_PINS, {**pins(directory), name: step}))
        os.replace(temporary, directory / _PINS)
        _sync_directory(directory)
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


def _write_contents(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
) -> None:
    files = {}
    for name, data in _encoded(tensors, documents):
        if not _FILE.fullmatch(name) or name == _MANIFEST:
            raise CheckpointError(f"E_CKPT_CONTENT: {name!r} cannot be a file name; rename it")
        _write(folder / name, data)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {"schema": SCHEMA, "step": step, "files": files}
    _write(folder / _MANIFEST, _encode_json(_MANIFEST, manifest))
    _sync_directory(folder)


def _encoded(
    tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any]
) -> Iterator[tuple[str, bytes]]:
    # One file at a time: the copy in memory is never larger than the largest group.
    for name, group in tensors.items():
        yield f"{name}.safetensors", _encode_tensors(name, group)
    for name, document in documents.items():
        yield f"{name}.json", _encode_json(name, document)


def _encode_tensors(name: str, group: Mapping[str, Tensor]) -> bytes:
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    try:
        for key, tensor in group.items():
            tensor = tensor.detach().cpu().contiguous()
            if tensor.untyped_storage().data_ptr() in storages:  # the format refuses sharing
                tensor = tensor.clone()
            storages.add(tensor.untyped_storage().data_ptr())
            plain[key] = tensor
        return safetensors.torch.save(plain)
    except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"E_CKPT_CONTENT: tensors {name!r}: {error}; save dense tensors of a common dtype"
        ) from error


def _encode_json(name: str, document: Any) -> bytes:
    try:
        _refuse_other_keys(document)
        return json.dumps(document, indent=1, allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"E_CKPT_CONTENT: document {name!r}: {error}; save arrays as tensors, the rest as "
            "strings, numbers, lists and dicts"
        ) from error


def _refuse_other_keys(value: Any) -> None:
    # json would turn the key 0 into "0" without a word, and the loaded state would differ.
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not a string")
            _refuse_other_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_other_keys(item)


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


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _commit(temporary: Path, final: Path) -> None:
    if final.exists():  # saved again at the same step: the former stays loadable until the swap
        old = final.with_name(f"{final.name}-old")
        if old.exists():
            _discard(old)
        os.rename(final, old)
    os.rename(temporary, final)
    _sync_directory(final.parent)


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
    matches = [match for path in paths if (match := _STEP.fullmatch(path.name))]
    matches.sort(key=lambda match: (int(match[1]), not match[2]), reverse=True)
    return [(int(match[1]), directory / match[0]) for match in matches]


def some(items: Collection[str], limit: int = 5) -> str:
    """The first few names in order, and how many more there are; for messages."""
    shown = ", ".join(sorted(items)[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


# Reading


def load(path: Path) -> Checkpoint:
    """Reads one checkpoint and verifies every byte of it.

    Raises:
        CheckpointError: there is no such directory.
        CorruptCheckpoint: a file is missing, extra, changed or unreadable; all are listed.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"E_CKPT_MISSING: {path} is no directory; give a step-* directory")
    files, step, digest = _read_manifest(path)
    tensors: dict[str, Mapping[str, Tensor]] = {}
    documents: dict[str, Any] = {}
    # Hidden files are left by file systems and desktops, and are never read.
    found = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
    problems = [f"extra file {name}" for name in sorted(found - {_MANIFEST, *files})]
    for name, entry in files.items():
        try:
            data, stem = _read_verified(path / name, entry), name.rpartition(".")[0]
            if name.endswith(".json"):
                documents[stem] = json.loads(data)
            else:
                tensors[stem] = safetensors.torch.load(data)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise _corrupt(path, "; ".join(problems))
    return Checkpoint(path, step, tensors, documents, digest)


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


def _read_manifest(path: Path) -> tuple[dict[str, dict[str, Any]], int, str]:
    file = path / _MANIFEST
    if not file.is_file():
        raise _corrupt(path, f"missing file {_MANIFEST}")
    data = file.read_bytes()
    try:
        manifest = json.loads(data)
        schema, step, files = manifest["schema"], manifest["step"], manifest["files"]
    except (ValueError, KeyError, TypeError) as error:
        what = "empty" if not data.strip() else f"truncated or damaged ({error!r})"
        raise _corrupt(path, f"{_MANIFEST} is {what}") from error
    if schema != SCHEMA:
        raise _corrupt(path, f"{_MANIFEST} has schema {schema!r}, this version reads {SCHEMA}")
    name = _STEP.fullmatch(path.name)  # a copy may have any other name
    if type(step) is not int or (name and int(name[1]) != step):
        raise _corrupt(path, f"{_MANIFEST} is of step {step!r}, the directory is {path.name}")
    listed = isinstance(files, dict)
    strange = {n for n in files if not _FILE.fullmatch(n)} if listed else {repr(files)}
    if strange:
        raise _corrupt(path, f"{_MANIFEST} lists files that no checkpoint holds: {some(strange)}")
    return files, step, hashlib.sha256(data).hexdigest()


def _read_verified(path: Path, entry: Mapping[str, Any]) -> bytes:
    if not path.is_file():
        raise ValueError("missing file")
    size = path.stat().st_size  # before reading, so that a lie costs no memory
    if size != entry["bytes"]:
        raise ValueError(f"wrong size, {size} bytes instead of {entry['bytes']}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError("wrong hash, the content has changed since it was saved")
    return data


def _corrupt(path: Path, what: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"E_CKPT_CORRUPT: {path}: {what}. Use another checkpoint, or copy this one again"
    )


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
