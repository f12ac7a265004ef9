"""The files of one checkpoint, written and checked byte by byte, with no pickle.

One `<name>.safetensors` per group of tensors, one `<name>.json` per document, and `manifest.json`
with the size and SHA-256 of each.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

SCHEMA = 1
STEP_NAME = re.compile(r"step-(\d{8,})(-old)?")
"""A checkpoint's directory; "-old" is the former of two saves of one step."""

_MANIFEST = "manifest.json"
_FILE = re.compile(r"\w[\w.-]*\.(safetensors|json)", re.ASCII)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, found or used."""


class CorruptCheckpoint(CheckpointError):
    """What is on disk is not what was saved; the message names everything that differs."""


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


def write_contents(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
) -> None:
    """Writes the files of a checkpoint into an empty folder and forces them to disk."""
    files = {}
    for name, data in _encoded(tensors, documents):
        if not _FILE.fullmatch(name) or name == _MANIFEST:
            raise CheckpointError(f"E_CKPT_CONTENT: {name!r} cannot be a file name; rename it")
        write(folder / name, data)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {"schema": SCHEMA, "step": step, "files": files}
    write(folder / _MANIFEST, encode_json(_MANIFEST, manifest))
    sync_directory(folder)


def _encoded(
    tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any]
) -> Iterator[tuple[str, bytes]]:
    # One file at a time: the copy in memory is never larger than the largest group.
    for name, group in tensors.items():
        yield f"{name}.safetensors", _encode_tensors(name, group)
    for name, document in documents.items():
        yield f"{name}.json", encode_json(name, document)


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


def encode_json(name: str, document: Any) -> bytes:
    """A document as JSON that is read as it was; raises CheckpointError where there is none."""
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


def write(path: Path, data: bytes) -> None:
    """Writes a file and forces it to disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Forces a directory's list of names to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    name = STEP_NAME.fullmatch(path.name)  # a copy may have any other name
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


def some(items: Collection[str], limit: int = 5) -> str:
    """The first few names in order, and how many more there are; for messages."""
    shown = ", ".join(sorted(items)[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
