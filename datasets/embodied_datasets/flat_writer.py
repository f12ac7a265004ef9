"""Writing formats of long arrays: episodes wait in a staging folder until all are known."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from embodied.structs import Episode, Spec
from embodied_datasets.episode_facts import Facts
from embodied_datasets.staging import Staged, Staging, sync


class Layout(Protocol):
    """How a format lays out episodes in a file or folder."""

    def write(self, path: Path, episodes: Sequence[Staged], spec: Spec) -> None:
        """Writes the whole data set to a new path."""
        ...

    def facts(self, path: Path) -> Facts | None:
        """What our writer noted in a finished data set; None if it is not ours."""
        ...


class FlatWriter:
    """Adds episodes to a data set that nobody else writes to; a `formats.Writer`.

    Args:
        path: of the finished data set. What is not finished stands beside it, hidden.
        spec: sizes, bounds, cameras and control rate of every episode.

    Raises ValueError if something stands at the path that this project did not write.
    """

    def __init__(self, path: Path, spec: Spec, layout: Layout) -> None:
        self.path, self._layout, self._facts = path, layout, None
        self._staging: Staging | None = None
        if not path.exists():
            self._staging = Staging(path, spec)
            return
        self._facts = layout.facts(path)
        if self._facts is None:
            raise ValueError(
                f"{path} exists, and no writer of this project left it; choose a new path"
            )
        shutil.rmtree(Staging.folder_of(path), ignore_errors=True)

    @property
    def keys(self) -> frozenset[str]:
        """Keys of all finished episodes."""
        if self._staging is not None:
            return frozenset(self._staging.keys)
        assert self._facts is not None
        return frozenset(self._facts.key(i) for i in range(len(self._facts)))

    def add(self, key: str, episode: Episode) -> None:
        """Writes a finished episode; on return it is on disk for good. An old key is replaced."""
        if self._staging is None:
            raise ValueError(f"{self.path} is finalised; record {key!r} to another path")
        self._staging.add(key, episode)

    def finalize(self) -> None:
        """Writes the data set, sorted by key, and moves it into place; once is enough."""
        if self._staging is None:
            return
        staging = self._staging
        episodes = staging.episodes()
        result = staging.folder / f".result-{self.path.name}"
        _remove(result)  # of a writer that was interrupted here
        self._layout.write(result, episodes, staging.spec)
        _sync_all(result)
        result.rename(self.path)
        sync(self.path.parent)
        self._facts, self._staging = self._layout.facts(self.path), None
        staging.remove()
        staging.close()

    def close(self) -> None:
        """Lets another writer go on. Episodes not yet finalised can be added to."""
        if self._staging is not None:
            self._staging.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_all(path: Path) -> None:
    """Waits until a file, or everything in a folder, is on disk."""
    for folder, _, files in os.walk(path):
        for name in files:
            sync(Path(folder, name))
    sync(path)
