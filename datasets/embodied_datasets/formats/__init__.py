"""The file formats of robot data, one module each: a new file in this folder is a new format.

Each module defines `FORMAT`. Importing one imports no library of its format; opening does.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from embodied.structs import Episode, Episodes, Spec


class Writer(Protocol):
    """Writes a data set, episode by episode; a context manager.

    Every episode added is there for good. A writer that is opened where an earlier one was
    interrupted goes on: `keys` are those that need not be added again.
    """

    @property
    def keys(self) -> frozenset[str]: ...
    def add(self, key: str, episode: Episode) -> None: ...
    def finalize(self) -> None:
        """Completes the data set; until then nothing stands at its path that claims to be one."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Format(Protocol):
    """A file format.

    Attributes:
        name: what users call it.
    """

    name: str

    def matches(self, path: Path) -> bool:
        """Whether the files at the path look like this format, by names and first bytes alone."""
        ...

    def open(self, path: Path, **options: Any) -> Episodes:
        """The episodes at the path. Raises DataError where they are not what they say."""
        ...

    def create(self, path: Path, spec: Spec, **options: Any) -> Writer:
        """A writer; raises NotImplementedError where the format is only read."""
        ...

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        """What of an episode this format cannot hold, each in a few words for the user."""
        ...


def all_formats() -> dict[str, Format]:
    """Every format by its name."""
    modules = [
        importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)
    ]
    return {module.FORMAT.name: module.FORMAT for module in modules if hasattr(module, "FORMAT")}


def find_format(path: Path, name: str | None = None) -> Format:
    """The format called `name`, or else the one that the files at the path look like."""
    known = all_formats()
    if name is not None:
        if name not in known:
            raise ValueError(f"format must be one of {sorted(known)}, got {name!r}")
        return known[name]
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; name a file or folder with recorded episodes"
        )
    found = [each for each in known.values() if each.matches(path)]
    if len(found) != 1:
        seen = f"looks like {sorted(each.name for each in found)}" if found else "looks like none"
        raise ValueError(
            f"{path} {seen} of the formats {sorted(known)}; say which with format=NAME"
        )
    return found[0]


def open_episodes(
    path: str | Path,
    *,
    format: str | None = None,
    labels: Sequence[str] | None = None,
    **options: Any,
) -> Episodes:
    """The episodes in a file or folder of any readable format.

    Args:
        format: the name of its format; None looks.
        labels: which layers of labels are put on them, in this order (see
            `embodied_datasets.labels`); None means all, the oldest first.
        options: what that format's reader takes.
    """
    from embodied_datasets.labels import Labelled, layers

    path = Path(path)
    episodes = find_format(path, format).open(path, **options)
    names = layers(path) if labels is None else labels
    return Labelled(path, episodes, names) if names else episodes
