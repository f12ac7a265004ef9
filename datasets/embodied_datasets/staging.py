"""Where episodes wait until a format that only knows whole arrays can be written at once.

Each is one npz file in a hidden folder beside the data set to be; the rename to its final name is
what makes it exist, so that a crash at any time costs no finished episode.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets import episode_facts
from embodied_datasets.npz_safe import Npz
from embodied_datasets.zip_safe import leads_out

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


class Staging:
    """The finished episodes of a data set that is not yet complete.

    Args:
        path: where the data set will stand.
        spec: of every episode.

    Raises ValueError if the folder was begun with another spec, BlockingIOError if another writer
    is at work in it.
    """

    def __init__(self, path: Path, spec: Spec) -> None:
        self.folder = self.folder_of(path)
        self.spec = spec
        self.folder.mkdir(parents=True, exist_ok=True)
        # The kernel drops this lock with the process, however it dies.
        self._lock = (self.folder / ".lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            message = f"another writer is at work in {self.folder}; wait or choose another path"
            raise BlockingIOError(message) from error
        self._begin()

    @staticmethod
    def folder_of(path: Path) -> Path:
        """Where the episodes of the data set at `path` wait."""
        return path.with_name(f".{path.name}.incoming")

    @property
    def keys(self) -> list[str]:
        """Keys of the finished episodes, sorted."""
        return sorted(path.stem for path in self.folder.glob("[!.]*.npz"))

    def add(self, key: str, episode: Episode) -> None:
        """Writes an episode; on return it is on disk for good. An old key is replaced."""
        arrays = episode_facts.roles(episode)
        check_episode(key, arrays, self.spec)
        facts = episode_facts.describe(key, episode, arrays)
        lines = episode_facts.to_bytes(self.spec, {}, [facts])
        final, temporary = self.folder / f"{key}.npz", self.folder / f".{key}.tmp"
        with temporary.open("wb") as file:
            everything: dict[str, Any] = arrays | {
                episode_facts.NAME: np.frombuffer(lines, np.uint8)
            }
            np.savez(file, allow_pickle=False, **everything)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(final)
        sync(self.folder)

    def episodes(self) -> list[Staged]:
        """All finished episodes, in the order of their keys."""
        return [Staged(self.folder / f"{key}.npz") for key in self.keys]

    def remove(self) -> None:
        """Deletes the folder; the data set is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Lets another writer go on."""
        self._lock.close()

    def _begin(self) -> None:
        path = self.folder / "recording.json"
        wanted = json.loads(json.dumps(dataclasses.asdict(self.spec)))
        if not path.exists():
            temporary = self.folder / ".recording.tmp"
            temporary.write_text(json.dumps(wanted))
            temporary.replace(path)
        found = json.loads(path.read_text())
        if found != wanted:
            names = sorted(name for name in wanted if found.get(name) != wanted[name])
            self._lock.close()
            raise ValueError(
                f"{self.folder} was begun with another spec ({', '.join(names)} differ); "
                "give the same settings, or remove that folder to begin again"
            )


class Staged:
    """One finished episode: its facts, and its arrays by role."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._npz = Npz(path, max_bytes=2**62)  # our own file
        self.headers = {
            name: header for name, header in self._npz.headers.items() if name != episode_facts.NAME
        }
        length = self.headers["action"].shape[0]
        self.length = int(length)

    def __getitem__(self, role: str) -> NDArray[Any]:
        return self._npz[role]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The episode's line."""
        return dict(json.loads(bytes(self._npz[episode_facts.NAME]).splitlines()[1]))

    @property
    def has_final(self) -> bool:
        """Whether anything was seen after the last action."""
        return any(role.startswith("final/") for role in self.headers)


@dataclass(frozen=True)
class Column:
    """One array of the data set to be, as far as an episode's length goes.

    Attributes:
        shape: of one row.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def rows(self, staged: Staged, role: str) -> NDArray[Any]:
        """An episode's rows; zeros where it lacks this array."""
        if role in staged.headers:
            return staged[role]
        return np.zeros((staged.length, *self.shape), self.dtype)

    def last(self, staged: Staged, role: str) -> NDArray[Any]:
        """(1, ...) what an episode saw in the end; zeros where it did not look."""
        if role in staged.headers:
            return staged[role][None]
        return np.zeros((1, *self.shape), self.dtype)


def plan(episodes: Sequence[Staged]) -> dict[str, Column]:
    """The columns that hold all episodes, by role.

    Raises ValueError if there is no episode, or if one array has two shapes or dtypes.
    """
    if not episodes:
        raise ValueError("no episode was added, and a data set needs at least one; add one")
    columns: dict[str, Column] = {}
    for staged in episodes:
        for role, header in staged.headers.items():
            shape = header.shape if role.startswith("final/") else header.shape[1:]
            found = Column(shape, header.dtype)
            if columns.setdefault(role, found) != found:
                raise ValueError(
                    f"{role} of episode {staged.facts['key']!r} is {found.dtype} {found.shape}, "
                    f"of others {columns[role].dtype} {columns[role].shape}; "
                    "this format needs one shape and dtype for all episodes"
                )
    return columns


def check_episode(key: str, arrays: Mapping[str, NDArray[Any]], spec: Spec) -> None:
    """Raises ValueError unless an episode's arrays, by role, are as its spec says."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} cannot name a file; use letters, digits, '_', '-', '.'")
    length = len(arrays["action"])
    if not length:
        raise ValueError(f"episode {key!r} has no steps; an episode needs at least one")
    cameras = {f"images/{name}" for name in spec.cameras}
    found = {role for role in arrays if role.startswith("images/")}
    if cameras != found:
        raise ValueError(
            f"images of episode {key!r} must be of the spec's cameras {sorted(spec.cameras)}, "
            f"got {sorted(found)}"
        )
    for role, dtype, shape in _wanted(length, spec):
        if role in arrays and (arrays[role].shape != shape or arrays[role].dtype != dtype):
            raise ValueError(
                f"{role} of episode {key!r} must be {dtype} {shape} as the spec says, "
                f"got {arrays[role].dtype} {arrays[role].shape}"
            )
    for role, values in arrays.items():
        _check_role(key, role, values, length)


def _wanted(length: int, spec: Spec) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    yield "state", "float32", (length, spec.state_dim)
    yield "action", "float32", (length, spec.action_dim)
    yield "expert_action", "float32", (length, spec.action_dim)
    yield "reward", "float32", (length,)
    yield "final/state", "float32", (spec.state_dim,)
    for camera, size in spec.cameras.items():
        yield f"images/{camera}", "uint8", (length, *size, 3)
        yield f"final/images.{camera}", "uint8", (*size, 3)


def _check_role(key: str, role: str, values: NDArray[Any], length: int) -> None:
    if leads_out(role) or not all(role.split("/")):
        raise ValueError(f"{role!r} of episode {key!r} cannot name an array; rename it")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{role} of episode {key!r} must hold numbers, got {values.dtype}")
    if role.startswith("extras/") and (not values.ndim or len(values) != length):
        raise ValueError(f"{role} of episode {key!r} must have {length} rows, got {values.shape}")
    core = role in ("state", "action", "expert_action", "reward")
    if core and not np.isfinite(values).all():
        frame = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(
            f"{role} of episode {key!r} is not finite at frame {frame}; drop or repair the episode"
        )


def sync(folder: Path) -> None:
    """Waits until a folder's list of names is on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
