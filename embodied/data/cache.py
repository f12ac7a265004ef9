"""Recorded episodes end to end as columns: in memory, or decoded once into files mapped to memory.

A folder of the cache appears by a rename, whole or not at all, under a lock that the system drops
with its holder: a crash leaves nothing that is taken for data, and of two processes that want the
same columns one fills them and the other waits. `EMBODIED_CACHE` names the directory (by default
`$XDG_CACHE_HOME/embodied` or `~/.cache/embodied`); where it is empty, nothing is kept on disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embodied.data.asked import STYLES
from embodied.structs import Annotation, Episode, Episodes

Array = NDArray[Any]
_INDEX = "index.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """N frames of E episodes, end to end; episodes without steps are left out.

    Attributes:
        columns: "state" (N, S), "action" (N, A), "images.<camera>" (N, 3, h, w) uint8.
        lengths: of each episode, adding up to N.
        instructions: of each episode.
        wordings: of each episode, its instruction and the others recorded for it ("task_aug").
        numbers: of each episode, its index where it was read from.
        notes: of each episode, its annotations of the styles that windows can be asked by.
        scenes: of each episode, what it shares with those that began in the same arrangement.
    """

    columns: Mapping[str, Tensor]
    lengths: tuple[int, ...]
    instructions: tuple[str, ...]
    wordings: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]
    notes: tuple[tuple[Annotation, ...], ...] = ()
    scenes: tuple[str, ...] = ()


def cache_folder() -> Path | None:
    """Where decoded columns are kept; None where they are not."""
    chosen = os.environ.get("EMBODIED_CACHE")
    if chosen is not None:
        return Path(chosen).expanduser() / "windows" if chosen else None
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "embodied" / "windows"


def record(episodes: Episodes, *, label: str, cache: Path | None = None) -> Recording:
    """All episodes as columns, read one after another.

    Args:
        label: which recorded action becomes the column "action": "action" or "expert_action".
        cache: a folder for columns that are mapped to memory; it is filled once for each
            fingerprint and label, holding one episode in memory. None holds all in memory.
    """
    if label not in ("action", "expert_action"):
        raise ValueError(f"label must be 'action' or 'expert_action', got {label!r}")
    if cache is None:
        memory = _Memory()
        facts = _pour(episodes, label, memory)
        return _recording(facts, memory.columns())
    key = hashlib.sha256(f"3/{episodes.fingerprint}/{label}".encode()).hexdigest()[:24]
    folder = cache / key
    found = _open(folder)
    if found is None:
        with _locked(cache / f"{key}.lock"):
            found = _open(folder) or _fill(episodes, label, folder)
    return found


# Reading episodes


class _Sink(Protocol):
    def add(self, name: str, rows: Array) -> None: ...


@dataclass(frozen=True)
class _Facts:
    lengths: list[int]
    instructions: list[str]
    wordings: list[list[str]]
    numbers: list[int]
    notes: list[list[dict[str, Any]]]
    scenes: list[str]


def _pour(episodes: Episodes, label: str, sink: _Sink) -> _Facts:
    """Adds every episode's rows to the sink, and returns what is known of each."""
    facts = _Facts([], [], [], [], [], [])
    shapes: dict[str, str] = {}
    for number, episode in enumerate(episodes):
        if not len(episode):
            continue
        found: dict[str, str] = {}
        for name, rows in _columns(episode, label):
            found[name] = f"{rows.dtype} {list(rows.shape[1:])}"
            if len(rows) != len(episode):
                raise ValueError(
                    f"episode {number}: {name} has {len(rows)} rows, action {len(episode)}; "
                    "check the data set"
                )
            if shapes and shapes.get(name) != found[name]:
                break
            sink.add(name, rows)
        shapes = shapes or found
        if found != shapes:
            raise ValueError(
                f"episode {number} has the columns {found}, the first one {shapes}; leave out the "
                "cameras or episodes that differ"
            )
        facts.lengths.append(len(episode))
        facts.instructions.append(episode.instruction)
        facts.wordings.append(_wordings(episode))
        facts.numbers.append(number)
        facts.scenes.append(_scene(episode, number))
        facts.notes.append([vars(x) for x in episode.annotations if x.style in STYLES])
    if not facts.lengths:
        raise ValueError(
            f"none of {len(episodes)} episodes can be trained on (are all marked failed or empty?)"
        )
    return facts


def _columns(episode: Episode, label: str) -> Iterator[tuple[str, Array]]:
    action = episode.action if label == "action" else episode.expert_action
    if action is None:
        raise ValueError(f"label {label!r} is not recorded in these episodes; use label='action'")
    yield "state", episode.state
    yield "action", action
    for name, images in episode.images.items():  # one camera at a time is decoded
        yield f"images.{name}", np.moveaxis(images, -1, 1)


def _wordings(episode: Episode) -> list[str]:
    others = [each.content for each in episode.annotations if each.style == "task_aug"]
    return list(dict.fromkeys([episode.instruction, *others]))


def _scene(episode: Episode, number: int) -> str:
    """The goal of a suite whose arrangements do not depend on the task; else each has its own."""
    facts = [episode.info.get(name) for name in ("suite", "benchmark_seed", "goal")]
    return f"alone {number}" if None in facts else "/".join(map(str, facts))


def _recording(facts: _Facts, columns: Mapping[str, Tensor]) -> Recording:
    return Recording(
        columns,
        tuple(facts.lengths),
        tuple(facts.instructions),
        tuple(tuple(each) for each in facts.wordings),
        tuple(facts.numbers),
        tuple(tuple(Annotation(**x) for x in each) for each in facts.notes),
        tuple(facts.scenes),
    )


class _Memory:
    """Columns as lists of arrays."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Array]] = {}

    def add(self, name: str, rows: Array) -> None:
        # A copy, since a view would keep all that it looks at alive; and in the order of its axes,
        # since rows are gathered several times faster where each is one piece of memory.
        self._rows.setdefault(name, []).append(np.array(rows, order="C"))

    def columns(self) -> dict[str, Tensor]:
        # Emptied column by column, so that at most one is there twice.
        return {n: torch.from_numpy(np.concatenate(self._rows.pop(n))) for n in list(self._rows)}


# Files


class _Files:
    """Columns as files of plain rows, which grow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index: dict[str, dict[str, Any]] = {}
        self._files: dict[str, IO[bytes]] = {}

    def add(self, name: str, rows: Array) -> None:
        if name not in self._files:
            file = f"{len(self._files):02d}.bin"  # cameras may have names that no file can have
            self._files[name] = (self.folder / file).open("wb")
            row = {"file": file, "dtype": rows.dtype.str, "shape": list(rows.shape[1:])}
            self.index[name] = row
        self._files[name].write(np.ascontiguousarray(rows).data)

    def close(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()


def _fill(episodes: Episodes, label: str, folder: Path) -> Recording:
    """Writes the folder; the caller holds its lock."""
    partial = folder.with_name(f"{folder.name}.partial")
    for stale in (partial, folder):  # of a crash; or damaged, else it would have been opened
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    _log.info("decoding %d episodes once into %s", len(episodes), folder)
    try:
        files = _Files(partial)
        with contextlib.closing(files):
            facts = _pour(episodes, label, files)
        index = {"columns": files.index, "episodes": vars(facts)}
        with (partial / _INDEX).open("w", encoding="utf-8") as file:
            json.dump(index, file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    found = _open(folder)
    if found is None:
        raise OSError(errno.EIO, f"{folder} cannot be read back; is its file system sound?")
    return found


def _open(folder: Path) -> Recording | None:
    """What the folder holds; None where it is not there, or not whole."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        facts = _Facts(**index["episodes"])
        total = sum(facts.lengths)
        columns = {name: _map(folder, total, row) for name, row in index["columns"].items()}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("decoding again what %s should hold: %s", folder, error)
        return None
    return _recording(facts, columns)


def _map(folder: Path, total: int, row: Mapping[str, Any]) -> Tensor:
    path, dtype, shape = folder / row["file"], np.dtype(row["dtype"]), (total, *row["shape"])
    size = dtype.itemsize * int(np.prod(shape))
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes instead of {size}")
    # Copy-on-write: torch wants writable memory, and nothing must reach the cache.
    return torch.from_numpy(np.memmap(path, dtype, mode="c", shape=shape))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for the lock; where the file system has none, goes on without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for another process that fills %s", path.with_suffix(""))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield  # closing the file lets go
