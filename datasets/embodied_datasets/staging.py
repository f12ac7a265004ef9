"""Where episodes wait until a format that is written in one go can be written.

Each is one npz file in a hidden folder beside the data set to be; the rename to its final name is
what makes it exist, so that a crash at any time costs no finished episode.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets import facts
from embodied_datasets.files import read_json, write_atomically, write_json
from embodied_datasets.fitting import check_episode
from embodied_datasets.npz_safe import Npz


class Staging:
    """The finished episodes of a data set that is not yet complete.

    Args:
        path: where the data set will stand.
        spec: of every episode.
        settings: whatever else decides what will be written, JSON-able.

    Raises ValueError if the folder was begun with another spec or other settings, BlockingIOError
    if another writer is at work in it.
    """

    def __init__(self, path: Path, spec: Spec, settings: Mapping[str, Any]) -> None:
        self.folder = self.folder_of(path)
        self.spec = spec
        self.folder.mkdir(parents=True, exist_ok=True)
        # The kernel drops this lock with the process, however it dies.
        self._lock = (self.folder / ".lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._begin(dataclasses.asdict(spec) | dict(settings))
        except BlockingIOError as error:
            self._lock.close()
            message = f"another writer is at work in {self.folder}; wait or choose another path"
            raise BlockingIOError(message) from error
        except BaseException:
            self._lock.close()
            raise

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
        arrays: dict[str, Any] = facts.arrays_of(episode)
        check_episode(key, arrays, self.spec)
        text = json.dumps(facts.describe(key, episode, arrays)).encode()
        arrays[facts.NAME] = np.frombuffer(text, np.uint8)

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)

        write_atomically(self.folder / f"{key}.npz", save)

    def episodes(self) -> list[Staged]:
        """All finished episodes, in the order of their keys."""
        return [Staged(self.folder / f"{key}.npz") for key in self.keys]

    def remove(self) -> None:
        """Deletes the folder; the data set is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Lets another writer go on."""
        self._lock.close()

    def _begin(self, settings: Mapping[str, Any]) -> None:
        path = self.folder / "recording.json"
        wanted = json.loads(json.dumps(settings))
        if not path.exists():
            write_json(path, wanted)
        found = read_json(path)
        differences = [
            f"{name}: {found.get(name)} in the folder, {wanted.get(name)} now"
            for name in sorted(found.keys() | wanted.keys())
            if found.get(name) != wanted.get(name)
        ]
        if differences:
            raise ValueError(
                f"{self.folder} was begun with another spec or other settings: "
                f"{'; '.join(differences)}; give the same, or remove that folder to begin again"
            )


class Staged:
    """One finished episode: its facts, and its arrays by role.

    Attributes:
        headers: shapes and dtypes of its arrays, by role.
    """

    def __init__(self, path: Path) -> None:
        self._npz = Npz(path, max_bytes=2**62)  # our own file
        self.headers = {k: header for k, header in self._npz.headers.items() if k != facts.NAME}

    def __len__(self) -> int:
        return int(self.headers["action"].shape[0])

    def __getitem__(self, role: str) -> NDArray[Any]:
        return self._npz[role]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of them, in memory."""
        return {role: self[role] for role in self.headers}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What `facts.describe` told of it."""
        return dict(json.loads(self._npz[facts.NAME].tobytes()))

    @property
    def has_final(self) -> bool:
        """Whether anything was seen after the last action."""
        return any(role.startswith("final/") for role in self.headers)
