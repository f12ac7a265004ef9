"""What an HDF5 file may consist of: a tree of groups and plain data sets, all in the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from embodied_datasets.faults import DataError

GZIP, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
_KNOWN_FILTERS = {GZIP, SHUFFLE, FLETCHER32, LZF}
_MAX_DEPTH = 16
_MAX_ITEMS = 500_000
_DAMAGED = "E_DATA_UNREADABLE"


def filters(dataset: Any) -> list[int]:
    """Codes of the filters that encode an h5py.h5d.DatasetID's chunks, in the order of writing."""
    properties = dataset.get_create_plist()
    return [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]


class Vetting:
    """One look through all objects of a file, along hard links, before any value is read.

    It works on h5py's identifiers, since its objects cost several times more and there are many.

    Args:
        fault: makes an error of code, message and remedy, with the field's name.
        h5py: the module.
    """

    def __init__(self, fault: Callable[..., DataError], h5py: Any) -> None:
        self._fault = fault
        self._h5py = h5py
        self._groups: set[Any] = set()
        self._soft: list[tuple[Any, bytes, str]] = []
        self._count = 0

    def run(self, file: Any) -> None:
        """Raises DataError for the first thing that is refused."""
        try:
            self._group(file["/"].id, "", 0)
            for group, name, path in self._soft:  # only now is it known that no path leaves
                self._soft_link(group, name, path)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            message, remedy = f"cannot be looked through ({error})", "fetch or write the file again"
            raise self._fault(_DAMAGED, message, remedy) from error

    def _group(self, group: Any, path: str, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise self._refused(path, f"is nested more than {_MAX_DEPTH} deep", "E_DATA_BUDGET")
        if group in self._groups:
            raise self._refused(path, "is reached by two paths, as groups in a circle are")
        self._groups.add(group)
        for name in group:
            self._count += 1
            if self._count > _MAX_ITEMS:
                raise self._refused(path, f"makes more than {_MAX_ITEMS} items", "E_DATA_BUDGET")
            try:
                inner = f"{path}/{name.decode()}".strip("/")
            except UnicodeDecodeError as error:
                message = f"has the name {name!r}, expected UTF-8"
                raise self._refused(path, message, _DAMAGED) from error
            self._member(group, name, inner, depth)

    def _member(self, group: Any, name: bytes, path: str, depth: int) -> None:
        h5py = self._h5py
        link = group.links.get_info(name).type
        if link == h5py.h5l.TYPE_SOFT:
            self._soft.append((group, name, path))
            return
        if link != h5py.h5l.TYPE_HARD:
            raise self._refused(path, "links to another file", "E_DATA_HDF5_EXTERNAL")
        item = h5py.h5o.open(group, name)
        if isinstance(item, h5py.h5g.GroupID):
            self._group(item, path, depth + 1)
        elif isinstance(item, h5py.h5d.DatasetID):
            self._dataset(item, path)
        else:
            raise self._refused(path, "is a type and no data", "E_DATA_DTYPE")

    def _soft_link(self, group: Any, name: bytes, path: str) -> None:
        try:
            item = self._h5py.h5o.open(group, name)
        except (KeyError, OSError, RuntimeError) as error:
            message = "is a soft link that leads nowhere or in a circle"
            raise self._refused(path, message) from error
        if not isinstance(item, self._h5py.h5d.DatasetID):
            raise self._refused(path, "is a soft link to a group")

    def _dataset(self, dataset: Any, path: str) -> None:
        h5py, properties = self._h5py, dataset.get_create_plist()
        if dataset.get_space().get_simple_extent_type() == h5py.h5s.NULL:
            raise self._refused(path, "is neither a value nor rows of them", "E_DATA_SHAPE")
        if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
            raise self._refused(path, "keeps its values in other files", "E_DATA_HDF5_EXTERNAL")
        unknown = sorted({*filters(dataset)} - _KNOWN_FILTERS)
        if unknown:
            message = (
                f"is encoded by the filters {unknown}, expected gzip, lzf, shuffle, fletcher32"
            )
            raise self._refused(path, message, "E_DATA_HDF5_FILTER")
        self._type(dataset.get_type(), path)

    def _type(self, kind: Any, path: str) -> None:
        """Bytes of variable length are fine: encoded images; other objects are not."""
        if kind.get_class() == self._h5py.h5t.STRING:
            return
        try:
            dtype = kind.dtype
        except (TypeError, ValueError) as error:
            raise self._refused(path, f"has a strange type ({error})", "E_DATA_DTYPE") from error
        if dtype.hasobject and self._h5py.check_vlen_dtype(dtype) != np.uint8:
            raise self._refused(path, f"holds objects ({dtype})", "E_DATA_DTYPE")

    def _refused(self, path: str, message: str, code: str = "E_DATA_HDF5_LINK") -> DataError:
        remedy = "copy the data into one plain file, for example with h5copy or h5repack"
        return self._fault(code, message, remedy, field=path or "/")
