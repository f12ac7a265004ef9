"""Reading zarr v2 arrays that nobody vouches for, from a folder or from a zip archive.

The zarr library decodes whatever a chunk unpacks to, with any codec that a file names; here only
named codecs run, and each chunk's size is known before it is unpacked.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embodied_datasets.budget import array_bytes, check_numbers, damaged
from embodied_datasets.chunk_codecs import unpack
from embodied_datasets.faults import DataError, Fault
from embodied_datasets.zip_safe import data_offset, leads_out, open_zip

_MAX_JSON = 2**20
_MAX_CHUNK = 2**28
_MAX_MEMBERS = 200_000
_META = ".zarray"


class Store(Protocol):
    """Bytes by key, such as "data/action/0.0"."""

    path: Path

    def get(self, key: str, max_bytes: int) -> bytes | None:
        """The bytes of a key; None if there are none, DataError if there are more."""
        ...

    def arrays(self, group: str) -> list[str]:
        """Names of the arrays in a group, those of groups in it with a slash."""
        ...


class Folder:
    """A zarr folder; refuses what links lead out of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, key: str, max_bytes: int) -> bytes | None:
        path = self.path / key
        if leads_out(key) or not path.resolve().is_relative_to(self.path.resolve()):
            raise _outside(self.path, key)
        if not path.is_file():
            return None
        _check_stored(self.path, key, path.stat().st_size, max_bytes)
        return path.read_bytes()

    def arrays(self, group: str) -> list[str]:
        root = self.path / group
        found = {*root.glob(f"*/{_META}"), *root.glob(f"*/*/{_META}")}
        return sorted(path.parent.relative_to(root).as_posix() for path in found)


class Archive:
    """A zarr folder in a zip archive, of which only the directory is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_zip(path, max_entries=_MAX_MEMBERS) as archive:
            self._members = {member.filename: member for member in archive.infolist()}

    def get(self, key: str, max_bytes: int) -> bytes | None:
        member = self._members.get(key)
        if member is None:
            return None
        _check_stored(self.path, key, member.file_size, max_bytes)
        with self.path.open("rb") as file:  # anew each time, so that processes can share this
            file.seek(data_offset(self.path, member))
            packed = file.read(member.compress_size)
        if member.compress_type == zipfile.ZIP_STORED:
            return packed
        return unpack("deflate", packed, member.file_size, self.path, key)

    def arrays(self, group: str) -> list[str]:
        start, end = f"{group}/", f"/{_META}"
        names = [name for name in self._members if name.startswith(start) and name.endswith(end)]
        return sorted(name.removeprefix(start).removesuffix(end) for name in names)


def _outside(path: Path, key: str) -> DataError:
    message = f"{key!r} leads out of the data set's folder"
    remedy = "copy the file into the folder; nothing was read"
    return DataError(Fault("E_DATA_PATH", message, remedy, file=path))


def _check_stored(path: Path, key: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise damaged(path, f"takes {size} bytes, expected at most {max_bytes}", field=key)


def read_json(store: Store, key: str) -> dict[str, Any] | None:
    """The JSON object of a key; None if there is none."""
    data = store.get(key, _MAX_JSON)
    if data is None:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(store.path, f"is no JSON ({error})", field=key) from error
    if not isinstance(value, dict):
        raise damaged(store.path, "is no JSON object", field=key)
    return value


@dataclass(frozen=True)
class ZarrArray:
    """An array whose rows are read by slice.

    Attributes:
        chunks: shape of one chunk; chunks at the end are filled up.
        codec: name of the compressor, "" for none.
        order: "C" or "F", of the numbers in a chunk.
        separator: between the numbers in a chunk's key.
        max_bytes: that one slice may take.
    """

    store: Store
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    codec: str
    order: str
    fill: Any
    separator: str
    max_bytes: int

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: slice | int) -> NDArray[Any]:
        if isinstance(rows, int):
            row: NDArray[Any] = self[rows : rows + 1][0]
            return row
        start, stop, _ = rows.indices(len(self))
        shape = (max(0, stop - start), *self.shape[1:])
        size = array_bytes(shape, self.dtype)
        if size > self.max_bytes:
            message = f"takes {size} bytes, more than max_bytes = {self.max_bytes}"
            remedy = "raise max_bytes if you trust the data and have the memory"
            fault = Fault("E_DATA_BUDGET", message, remedy, file=self.store.path)
            raise DataError(fault)
        out = np.full(shape, self.fill, self.dtype)
        grid = [-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True)]
        first, last = start // self.chunks[0], -(-stop // self.chunks[0])
        for place in np.ndindex(max(0, last - first), *grid[1:]):
            self._copy((place[0] + first, *place[1:]), out, start, stop)
        return out

    def _copy(self, place: tuple[int, ...], out: NDArray[Any], start: int, stop: int) -> None:
        """Copies what a chunk holds of rows [start, stop)."""
        data = self._chunk(place)
        if data is None:
            return
        lows = [index * size for index, size in zip(place, self.chunks, strict=True)]
        sizes = zip(lows, self.chunks, self.shape, strict=True)
        highs = [min(low + chunk, size) for low, chunk, size in sizes]
        begin, end = max(lows[0], start), min(highs[0], stop)
        rest = list(zip(lows[1:], highs[1:], strict=True))
        target = (slice(begin - start, end - start), *(slice(low, high) for low, high in rest))
        source = (
            slice(begin - lows[0], end - lows[0]),
            *(slice(0, high - low) for low, high in rest),
        )
        out[target] = data[source]

    def _chunk(self, place: tuple[int, ...]) -> NDArray[Any] | None:
        size = array_bytes(self.chunks, self.dtype)
        key = f"{self.name}/{self.separator.join(map(str, place)) or '0'}"
        packed = self.store.get(key, size + size // 8 + 2**16)
        if packed is None:
            return None
        plain = unpack(self.codec, packed, size, self.store.path, key)
        order: Any = self.order
        return np.frombuffer(plain, self.dtype).reshape(self.chunks, order=order)


def open_array(store: Store, name: str, max_bytes: int) -> ZarrArray:
    """The array of that name. Raises DataError unless its metadata are sound and harmless."""
    meta = read_json(store, f"{name}/{_META}")
    if meta is None:
        raise damaged(store.path, "is missing", field=name)
    try:
        return _parse(store, name, meta, max_bytes)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise damaged(
            store.path, f"has metadata that make no sense ({error!r})", field=name
        ) from error


def _parse(store: Store, name: str, meta: dict[str, Any], max_bytes: int) -> ZarrArray:
    if not isinstance(meta["dtype"], str):
        raise TypeError(f"dtype {meta['dtype']}")
    dtype = np.dtype(meta["dtype"])
    shape, chunks = _sizes(meta["shape"]), _sizes(meta["chunks"])
    check_numbers(store.path, name, shape, dtype)
    if not shape or len(shape) != len(chunks) or min(chunks) < 1 or min(shape) < 0:
        raise ValueError(f"shape {shape} in chunks {chunks}")
    if array_bytes(chunks, dtype) > _MAX_CHUNK:
        raise damaged(
            store.path, f"has chunks {chunks} of more than {_MAX_CHUNK} bytes", field=name
        )
    if math.prod(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)) > 2**31:
        raise ValueError(f"too many chunks {chunks} in {shape}")
    if meta.get("filters"):
        raise ValueError(f"filters {meta['filters']}, which are not read")
    separator = meta.get("dimension_separator", ".")
    if separator not in (".", "/") or meta["order"] not in ("C", "F"):
        raise ValueError(f"separator {separator!r}, order {meta['order']!r}")
    compressor = meta["compressor"]
    codec = "" if compressor is None else str(compressor["id"])
    fill = np.asarray(meta.get("fill_value") or 0, np.float64).astype(dtype)
    return ZarrArray(
        store, name, shape, dtype, chunks, codec, meta["order"], fill, separator, max_bytes
    )


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or not all(type(size) is int for size in value):
        raise TypeError(f"sizes {value}")
    return tuple(value)
