"""Writers whose episodes survive any crash, for formats that are written in one go.

Each episode becomes one file in a folder beside the target, by rename. `finalize` lets the format
write all of them, ordered by key, under a temporary name, and renames that into place.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets.hdf5_facts import arrays_of, describe

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_SETTINGS = "recording.json"
_LOCK = ".lock"
_FACTS = "facts"


class Staged:
    """An episode that waits in the folder: facts at hand, arrays when asked for.

    Attributes:
        facts: what `describe` gave, and "arrays": role -> [dtype, shape].
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with np.load(path, allow_pickle=False) as file:
            self.facts: dict[str, Any] = json.loads(file[_FACTS].tobytes())

    def __len__(self) -> int:
        return int(self.facts["length"])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by role, as `arrays_of` gives them."""
        with np.load(self._path, allow_pickle=False) as file:
            return {role: file[f"a{i}"] for i, role in enumerate(self.facts["arrays"])}


Compact = Callable[[Path, Sequence[Staged]], None]
"""Writes all episodes to a path where nothing is yet: a file or a folder."""
Keys = Callable[[Path], Sequence[str] | None]
"""The keys of a complete data set, None where it was not written by us."""


class StagedWriter:
    """Adds episodes beside the target that nobody else writes to; a context manager.

    Args:
        path: the data set to be, a file or folder.
        spec: sizes, bounds, cameras and control rate of every episode.
        compact, keys: the format's part.
        settings: whatever else all episodes share, JSON-able.

    Raises ValueError if the path holds something else or the recording was begun with other
    settings, BlockingIOError if another writer is at work.
    """

    def __init__(
        self,
        path: str | Path,
        spec: Spec,
        *,
        compact: Compact,
        keys: Keys,
        settings: Mapping[str, Any],
    ) -> None:
        self.path = Path(path)
        self.spec = spec
        self._compact = compact
        self._keys = keys
        self.incoming = self.path.with_name(f"{self.path.name}.incoming")
        if self.is_final and keys(self.path) is None:
            raise ValueError(f"{self.path} exists and was not written by this project; move it")
        if self.is_final:
            _remove(self.incoming)  # left by a crash right after the rename
        else:
            self._lock = self._begin({"spec": dataclasses.asdict(spec), **settings})

    @property
    def is_final(self) -> bool:
        """Whether `finalize` has completed."""
        return self.path.exists()

    @property
    def keys(self) -> frozenset[str]:
        """Keys of all finished episodes."""
        if self.is_final:
            return frozenset(self._keys(self.path) or ())
        return frozenset(path.stem for path in self._files())

    def add(self, key: str, episode: Episode) -> None:
        """Writes a finished episode; on return it is on disk for good. An old key is replaced."""
        if self.is_final:
            raise ValueError(f"{self.path} is finalised; write {key!r} to another path")
        if not _NAME.fullmatch(key):
            raise ValueError(f"key {key!r} must be letters, digits, '_', '-' and '.'")
        arrays = arrays_of(episode)
        check(key, episode, arrays, self.spec)
        facts = describe(key, episode)
        facts["arrays"] = {role: [str(x.dtype), list(x.shape)] for role, x in arrays.items()}
        text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        numbered: dict[str, Any] = {f"a{i}": values for i, values in enumerate(arrays.values())}
        temporary = self.incoming / f".tmp-{key}.npz"
        np.savez(temporary, **{_FACTS: text, **numbered})  # numbers all: `check` has seen to it
        _move(temporary, self.incoming / f"{key}.npz")

    def finalize(self) -> None:
        """Turns all episodes into the format, sorted by key; nothing is left to do twice."""
        if self.is_final:
            return
        episodes = [Staged(path) for path in self._files()]
        if not episodes:
            raise ValueError(f"{self.path} would hold no episode; add one")
        temporary = self.path.with_name(f".tmp-{self.path.name}")
        _remove(temporary)
        self._compact(temporary, episodes)
        _move(temporary, self.path)
        self.close()
        _remove(self.incoming)

    def close(self) -> None:
        """Releases the path. Episodes not yet finalised stay and can be added to."""
        if hasattr(self, "_lock"):
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _files(self) -> list[Path]:
        files = (path for path in self.incoming.glob("*.npz") if not path.name.startswith("."))
        return sorted(files, key=lambda path: path.stem)

    def _begin(self, settings: Mapping[str, Any]) -> IO[str]:
        self.incoming.mkdir(parents=True, exist_ok=True)
        lock = (self.incoming / _LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel drops it with the process
            self._settle(json.loads(json.dumps(settings)))
        except BlockingIOError as error:
            lock.close()
            message = f"another writer is at work on {self.path}; wait or choose another path"
            raise BlockingIOError(message) from error
        except BaseException:
            lock.close()
            raise
        return lock

    def _settle(self, settings: dict[str, Any]) -> None:
        path = self.incoming / _SETTINGS
        if not path.exists():
            temporary = self.incoming / f".tmp-{_SETTINGS}"
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            _move(temporary, path)
        found = json.loads(path.read_text(encoding="utf-8"))
        differences = [
            f"{name}: {found.get(name)} in the folder, {settings.get(name)} now"
            for name in sorted(settings.keys() | found.keys())
            if found.get(name) != settings.get(name)
        ]
        if differences:
            raise ValueError(
                f"{self.incoming} was begun differently; choose another path or the same "
                "settings. " + "; ".join(differences)
            )


def check(key: str, episode: Episode, arrays: Mapping[str, NDArray[Any]], spec: Spec) -> None:
    """Raises ValueError where an episode does not fit the spec or is not finite."""
    length = len(episode)
    if not length:
        raise ValueError(f"episode {key!r} has no steps; an episode needs at least one")
    if episode.images.keys() != spec.cameras.keys():
        raise ValueError(
            f"images of episode {key!r} must be of the spec's cameras {sorted(spec.cameras)}, "
            f"got {sorted(episode.images)}"
        )
    for role, shape in _shapes(length, arrays, spec):
        values = arrays[role]
        if values.shape != shape or values.dtype.kind not in "biuf":
            raise ValueError(
                f"{role} of episode {key!r} must be numbers of shape {shape}, "
                f"got {values.dtype} {values.shape}"
            )
        if values.dtype.kind == "f" and not role.startswith("extras/"):
            bad = np.argwhere(~np.isfinite(np.atleast_1d(values)))
            if len(bad):
                raise ValueError(
                    f"{role} of episode {key!r} is not finite at frame {bad[0][0]}; "
                    "drop or repair the episode"
                )


def _shapes(
    length: int, arrays: Mapping[str, NDArray[Any]], spec: Spec
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for role, values in arrays.items():
        group, _, name = role.partition("/")
        if group in ("action", "expert_action"):
            yield role, (length, spec.action_dim)
        elif group == "state":
            yield role, (length, spec.state_dim)
        elif group == "reward":
            yield role, (length,)
        elif group == "images":
            yield role, (length, *spec.cameras[name], 3)
        elif role == "final/state":
            yield role, (spec.state_dim,)
        elif group == "extras":
            yield role, (length, *values.shape[1:])
        elif name.removeprefix("images.") in spec.cameras and name.startswith("images."):
            yield role, (*spec.cameras[name.removeprefix("images.")], 3)
        elif f"extras/{name}" in arrays:
            yield role, arrays[f"extras/{name}"].shape[1:]
        else:
            raise ValueError(f"final {name!r} is no state, camera or extra of the episode")


def _move(temporary: Path, path: Path) -> None:
    """Renames to `path` once all bytes are on disk."""
    inner = temporary.rglob("*") if temporary.is_dir() else ()
    for each in (*inner, temporary):
        _sync(each)
    temporary.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
