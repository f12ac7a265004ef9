"""Writing replay buffers with the zarr library, in its v2 format."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Spec
from embodied_datasets.budget import array_bytes
from embodied_datasets.columns import Column, plan
from embodied_datasets.fact_lines import to_lines
from embodied_datasets.facts import NAME
from embodied_datasets.formats.zarr_replay import read_facts
from embodied_datasets.staging import Staged
from embodied_datasets.zarr_safe import Archive, Folder

_CHUNK_BYTES = 2**20
_CORE = ("state", "action", "reward", "expert_action")


class ZarrLayout:
    """`data/*` and `meta/episode_ends`, and our own facts in `meta/embodied`."""

    def keys(self, path: Path) -> Sequence[str] | None:
        facts = read_facts(Archive(path) if path.is_file() else Folder(path))
        return None if facts is None else facts.keys

    def write(self, path: Path, episodes: Sequence[Staged], spec: Spec) -> None:
        packed = path.suffix == ".zip"
        folder = path.with_name(f"{path.name}.folder") if packed else path
        shutil.rmtree(folder, ignore_errors=True)  # of a writer that was interrupted here
        _write_folder(folder, episodes, spec)
        if packed:
            _pack(folder, path)
            shutil.rmtree(folder)


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        message = (
            "writing zarr needs a library; install it with: pip install 'embodied-policies[data]'"
        )
        raise ImportError(message) from error
    return zarr


def _write_folder(folder: Path, episodes: Sequence[Staged], spec: Spec) -> None:
    zarr = _zarr()
    root = zarr.create_group(zarr.storage.LocalStore(folder), zarr_format=2)
    data, meta = root.create_group("data"), root.create_group("meta")
    columns = plan(episodes)
    names = _names(columns)
    ends = np.cumsum([len(staged) for staged in episodes], dtype=np.int64)
    for role, column in columns.items():
        final = role.startswith("final/")
        take = column.last if final else column.rows
        rows = len(episodes) if final else int(ends[-1])
        chunks = (take(staged, role) for staged in episodes)
        _write_array(meta if final else data, names[role], column, rows, chunks)
    facts = (staged.facts for staged in episodes)
    lines = to_lines(spec, {name: role for role, name in names.items()}, facts)
    for name, values in (
        ("episode_ends", ends),
        (NAME, lines),
    ):
        _write_array(meta, name, Column((), values.dtype), len(values), [values])


def _names(roles: Iterable[str]) -> dict[str, str]:
    """Role -> name of its array: what users call it, or longer where two would be the same."""
    names: dict[str, str] = {}
    for role in sorted(roles, key=lambda role: (role not in _CORE, role)):
        kind, _, rest = role.partition("/")
        plain = rest.replace("/", ".")
        name = kind if not rest else f"final.{plain}" if kind == "final" else plain
        name = name if not name.startswith(".") and name not in names.values() else f"{kind}.{name}"
        while name in names.values():
            name += "_"
        names[role] = name
    return names


def _write_array(
    group: Any, name: str, column: Column, rows: int, parts: Iterable[NDArray[Any]]
) -> None:
    """Adds an array, one chunk of about a megabyte at a time."""
    from numcodecs import Blosc

    row_bytes = max(1, array_bytes(column.shape, column.dtype))
    size = min(max(1, _CHUNK_BYTES // row_bytes), max(1, rows))
    array = group.create_array(
        name,
        shape=(rows, *column.shape),
        chunks=(size, *(max(1, n) for n in column.shape)),
        dtype=column.dtype,
        compressors=Blosc(cname="zstd", clevel=5, shuffle=Blosc.SHUFFLE),
    )
    for start, block in _blocks(parts, size):
        array[start : start + len(block)] = block


def _blocks(parts: Iterable[NDArray[Any]], size: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, rows) of whole chunks, cut from parts of any length."""
    start, waiting = 0, []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= size:
            rows = np.concatenate(waiting)
            whole = len(rows) // size * size
            yield start, rows[:whole]
            start, waiting = start + whole, [rows[whole:]]
    rest = np.concatenate(waiting)
    if len(rest):
        yield start, rest


def _pack(folder: Path, path: Path) -> None:
    """One archive of a folder's files; chunks are compressed already."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            member = zipfile.ZipInfo(file.relative_to(folder).as_posix())  # bears no date
            archive.writestr(member, file.read_bytes())
