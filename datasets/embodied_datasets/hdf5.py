"""Opening HDF5 files that nobody vouches for, and reading them in whole ranges.

A file can name other files (external links, external storage, virtual data sets), lead in circles,
hold types that only Python objects can represent, and declare or inflate to far more than its size.
All of that is looked for before a value is read. Ranges are read whole, since h5py is some fifty
times slower at picking single rows.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied_datasets.budget import check_budget
from embodied_datasets.faults import DataError, Fault
from embodied_datasets.hdf5_chunks import chunk_bytes, declares_too_much, inflates_too_much
from embodied_datasets.hdf5_vetting import Vetting

MAX_BYTES = 2 * 2**30
"""What one read may take in memory unless the caller says otherwise."""

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MAX_TEXT = 16 * 2**20


def load_h5py() -> Any:
    """The h5py module, or an ImportError that says how to get it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "reading and writing HDF5 needs h5py: pip install 'embodied-policies[data]'"
        ) from error
    return h5py


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 files do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


def member_names(path: Path, *groups: str) -> frozenset[str]:
    """Names in the file's root, or in the first member of each of the nested groups, by which
    formats know their files; empty where the file is not HDF5 or has no such group.

    Follows hard links alone, which lead nowhere but into the file.
    """
    if not is_hdf5(path):
        return frozenset()
    h5py = load_h5py()
    try:
        with h5py.File(path, "r") as file:
            group = file
            for name in groups:
                name = next(iter(group)) if name == "*" else name
                if not isinstance(group, h5py.Group):
                    return frozenset()
                if group.get(name, getclass=True, getlink=True) is not h5py.HardLink:
                    return frozenset()
                group = group[name]
            return frozenset(group) if isinstance(group, h5py.Group) else frozenset()
    except (OSError, KeyError, RuntimeError, StopIteration):
        return frozenset()


class Hdf5:
    """A file that is looked through whenever it is opened for the first time or has changed.

    Args:
        path: the file.
        max_bytes: what one read may take in memory.
        name: what errors call the file; its file name where None.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, name: Path | None = None) -> None:
        self.path = path
        self.name = name or Path(path.name)
        self.max_bytes = max_bytes
        self._vetted: tuple[int, ...] = ()
        self._inflated: set[str] = set()

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The open h5py.File. Raises DataError if it is damaged or leads out of itself."""
        h5py = load_h5py()
        if not is_hdf5(self.path):
            raise self.damaged("is no HDF5 file")
        try:
            file = h5py.File(self.path, "r")
        except (OSError, ValueError, RuntimeError) as error:
            raise self.damaged(f"cannot be opened ({error})") from error
        with file:
            status = self.path.stat()
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            if stamp != self._vetted:
                Vetting(self.fault, h5py).run(file)
                self._vetted = stamp
                self._inflated.clear()
            yield file

    def fault(self, code: str, message: str, remedy: str, **place: Any) -> DataError:
        """An error about this file; raise it."""
        return DataError(Fault(code, message, remedy, file=self.name, **place))

    def damaged(self, message: str, **place: Any) -> DataError:
        """The error for a file that is not what it says; raise it."""
        return self.fault("E_DATA_UNREADABLE", message, "fetch or write the file again", **place)

    def read(self, dataset: Any, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows [start, stop) of an h5py.Dataset of numbers, or all of one without rows.

        Raises DataError if they are no numbers, take more than `max_bytes`, or inflate to more
        than they declare.
        """
        field = self._field(dataset)
        if dataset.dtype.kind not in "biuf":
            message = f"has dtype {dataset.dtype}, expected numbers"
            raise self.fault("E_DATA_DTYPE", message, "write numbers", field=field)
        if not dataset.shape:
            return np.asarray(self._get(field, lambda: dataset[()]))
        stop = dataset.shape[0] if stop is None else min(stop, dataset.shape[0])
        row = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
        self._check_size(dataset, field, max(stop - start, 0) * row)
        self._check_chunks(dataset, field)
        return np.asarray(self._get(field, lambda: dataset[start:stop]))

    def read_text(self, dataset: Any) -> str | None:
        """The text of a scalar string, or of the bytes (n,) uint8; None where it is neither."""
        field = self._field(dataset)
        if dataset.shape == ():
            value = self._get(field, lambda: dataset[()]) if dataset.dtype.kind in "SO" else None
        elif dataset.dtype == np.uint8 and len(dataset.shape) == 1:
            if dataset.shape[0] > _MAX_TEXT:
                check_budget(self.name, dataset.shape[0], _MAX_TEXT, field=field)
            value = self.read(dataset).tobytes()
        else:
            value = None
        return _decoded(value)

    def read_strings(self, dataset: Any) -> list[str]:
        """All items of a vector of strings, of fixed or variable length."""
        field = self._field(dataset)
        if dataset.dtype.kind not in "SO" or len(dataset.shape) != 1:
            message = f"has dtype {dataset.dtype} and shape {dataset.shape}, expected strings (n,)"
            raise self.fault("E_DATA_DTYPE", message, "write a vector of strings", field=field)
        self._check_size(dataset, field, dataset.shape[0] * max(dataset.dtype.itemsize, 64))
        getters = (functools.partial(dataset.__getitem__, i) for i in range(dataset.shape[0]))
        return [_decoded(self._get(field, get)) or "" for get in getters]

    def first_string(self, dataset: Any) -> str | None:
        """The first item of a vector of strings; None where it is something else."""
        field = self._field(dataset)
        if dataset.dtype.kind not in "SO" or len(dataset.shape) != 1 or not dataset.shape[0]:
            return None
        return _decoded(self._get(field, lambda: dataset[0]))

    def read_blob(self, dataset: Any, row: int) -> bytes:
        """One row of encoded bytes: of a data set (L, n) uint8, or (L,) of variable length."""
        field = self._field(dataset)
        value = self._get(field, lambda: dataset[row])
        if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
            raise self.fault("E_DATA_DTYPE", "holds no encoded bytes", "write uint8", field=field)
        return value.tobytes()

    def attribute(self, item: Any, name: str) -> str | int | float | None:
        """A scalar attribute; None where there is none of a plain type."""
        value = self._get(f"{item.name}@{name}".strip("/"), lambda: self._scalar(item, name))
        value = value.reshape(-1)[0] if isinstance(value, np.ndarray) else value
        if isinstance(value, np.generic):
            value = value.item()
        return value if isinstance(value, int | float) else _decoded(value)

    def arrays(self, group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Every data set of numbers below a group, with its path relative to the group."""
        for name in group:
            item = group[name]
            if hasattr(item, "shape"):
                if item.dtype.kind in "biuf" and item.shape:
                    yield prefix + name, item
            else:
                yield from self.arrays(item, f"{prefix}{name}/")

    def _field(self, dataset: Any) -> str:
        name = str(dataset.name).strip("/")
        if not hasattr(dataset, "shape"):
            raise self.damaged("is a group, expected a data set", field=name)
        return name

    def _scalar(self, item: Any, name: str) -> Any:
        if name not in item.attrs:
            return None
        opened = load_h5py().h5a.open(item.id, name.encode())
        small = math.prod(opened.shape) == 1 and opened.dtype.itemsize <= _MAX_TEXT
        return item.attrs[name] if small else None

    def _get(self, field: str, get: Callable[[], Any]) -> Any:
        try:
            return get()
        except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
            raise self.damaged(f"cannot be read ({error})", field=field) from error

    def check_budget(self, field: str, wanted: int) -> None:
        """Raises DataError if decoding a field would take more memory than is allowed."""
        check_budget(self.name, wanted, self.max_bytes, field=field)

    def _check_size(self, dataset: Any, field: str, wanted: int) -> None:
        check_budget(self.name, max(wanted, chunk_bytes(dataset)), self.max_bytes, field=field)
        problem = declares_too_much(dataset, wanted)
        if problem:
            raise self.fault("E_DATA_BUDGET", *problem, field=field)

    def _check_chunks(self, dataset: Any, field: str) -> None:
        problem = None if field in self._inflated else inflates_too_much(dataset)
        if problem:
            raise self.fault("E_DATA_BUDGET", *problem, field=field)
        self._inflated.add(field)


def _decoded(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return str(value) if isinstance(value, str) else None


def subgroup(group: Any, name: str) -> Any:
    """The group of that name, or an empty mapping where there is none."""
    item = group.get(name)
    return item if hasattr(item, "keys") else {}


def natural(name: str) -> tuple[Any, ...]:
    """A key that sorts demo_2 before demo_10."""
    return tuple(int(x) if x.isdecimal() else x for x in re.split(r"([0-9]+)", name))
