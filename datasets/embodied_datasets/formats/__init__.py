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
from embodied_datasets.faults import DataError, Fault
from embodied_datasets.options import fitting


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

    Among the options of `open` is `report`: what is done with faults that leave something to be
    read, `faults.refuse` unless it is given. A format in which more can be wrong than reading tells
    also has a method `check` with the same arguments, which returns None where nothing can be read.
    Episodes may have a method `place(i)`: the number of an episode in its set, and its file.

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
        raise DataError(_unrecognised(path, sorted(each.name for each in found), sorted(known)))
    return found[0]


def _unrecognised(path: Path, found: Sequence[str], known: Sequence[str]) -> Fault:
    sets = [] if found else find_sets(path)
    if sets:
        names = ", ".join(each.relative_to(path).as_posix() for each in sets)
        return Fault(
            "E_DATA_UNREADABLE", f"{path} holds {len(sets)} data sets: {names}", "name one"
        )
    seen = f"looks like {found}" if found else "looks like none"
    message = f"{path} {seen} of the formats {known}"
    if not found and path.is_dir():
        message += ", nor does anything in it"
    return Fault("E_DATA_UNREADABLE", message, "say which with format=NAME")


def find_sets(path: Path, depth: int = 2) -> list[Path]:
    """The data set at a path, or else those in its folders down to a depth, sorted."""
    if any(each.matches(path) for each in all_formats().values()):
        return [path]
    if not depth or not path.is_dir():
        return []
    members = sorted(each for each in path.iterdir() if not each.name.startswith("."))
    return [found for each in members for found in find_sets(each, depth - 1)]


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

    Raises DataError where the data are not what they say, ValueError for an unknown option.
    """
    from embodied_datasets.labels import Labelled, layers

    path = Path(path)
    known = find_format(path, format)
    with fitting(known.name):
        episodes = known.open(path, **options)
    names = layers(path) if labels is None else labels
    return Labelled(path, episodes, names) if names else episodes
