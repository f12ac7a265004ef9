"""Writing formats that are written in one go: episodes wait until all of them are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from embodied.structs import Episode, Spec
from embodied_datasets.files import move_into_place, remove
from embodied_datasets.staging import Staged, Staging


class Layout(Protocol):
    """How a format lays out episodes in a file or folder."""

    def write(self, path: Path, episodes: Sequence[Staged], spec: Spec) -> None:
        """Writes the whole data set to a new path."""
        ...

    def keys(self, path: Path) -> Sequence[str] | None:
        """The keys of a finished data set; None if it is not ours."""
        ...


class StagedWriter:
    """Adds episodes to a data set that nobody else writes to; a `formats.Writer`.

    Args:
        path: of the finished data set. What is not finished stands beside it, hidden.
        spec: sizes, bounds, cameras and control rate of every episode.
        settings: whatever else decides what is written, JSON-able; who goes on gives the same.

    Raises ValueError if something stands at the path that this project did not write.
    """

    def __init__(
        self, path: str | Path, spec: Spec, layout: Layout, settings: Mapping[str, Any]
    ) -> None:
        self.path, self._layout = Path(path), layout
        self._staging: Staging | None = None
        if not self.path.exists():
            self._staging = Staging(self.path, spec, settings)
            return
        keys = layout.keys(self.path)
        if keys is None:
            raise ValueError(
                f"{path} exists and was not written by this project; choose a new path"
            )
        self._keys = frozenset(keys)
        remove(Staging.folder_of(self.path))  # left by a crash right after the rename

    @property
    def keys(self) -> frozenset[str]:
        """Keys of all finished episodes."""
        return self._keys if self._staging is None else frozenset(self._staging.keys)

    def add(self, key: str, episode: Episode) -> None:
        """Writes a finished episode; on return it is on disk for good. An old key is replaced."""
        if self._staging is None:
            raise ValueError(f"{self.path} is finalised; record {key!r} to another path")
        self._staging.add(key, episode)

    def finalize(self) -> None:
        """Writes the data set, sorted by key, and moves it into place; once is enough."""
        if self._staging is None:
            return
        staging, episodes = self._staging, self._staging.episodes()
        if not episodes:
            raise ValueError("no episode was added, and a data set needs at least one; add one")
        result = staging.folder / f".result-{self.path.name}"
        remove(result)  # of a writer that was interrupted here
        self._layout.write(result, episodes, staging.spec)
        move_into_place(result, self.path)
        self._keys, self._staging = frozenset(staging.keys), None
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
