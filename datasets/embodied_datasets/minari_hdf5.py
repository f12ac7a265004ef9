"""Minari's storage in one HDF5 file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from embodied_datasets.faults import DataError
from embodied_datasets.files import inside
from embodied_datasets.hdf5 import Hdf5, natural, subgroup
from embodied_datasets.hdf5_facts import Group
from embodied_datasets.minari_columns import Array, Columns, decode
from embodied_datasets.minari_spaces import Leaf
from embodied_datasets.minari_spaces import Path as Keys

HDF5_FILE = "main_data.hdf5"


class Hdf5Store:
    """Episodes in `main_data.hdf5`."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.files = [inside(root, HDF5_FILE)]
        self._hdf5 = Hdf5(self.files[0], max_bytes=max_bytes)
        with self._hdf5.open() as file:
            names = [name for name in file if name.startswith("episode_")]
            self._names = sorted(names, key=natural)

    def __len__(self) -> int:
        return len(self._names)

    @contextmanager
    def episode(self, index: int) -> Iterator[Columns]:
        """The columns of one episode, while its file is open."""
        with self._hdf5.open() as file:
            yield _Hdf5Columns(self._hdf5, subgroup(file, self._names[index]), index)


class _Hdf5Columns(Columns):
    def __init__(self, hdf5: Hdf5, group: Any, index: int) -> None:
        self._hdf5, self._group, self._index = hdf5, group, index

    def array(self, group: str, leaf: Leaf) -> Array:
        item = self._item(group, leaf.path)
        if item.shape[1:] != leaf.shape:
            raise self._misshapen(item, leaf)
        return self._hdf5.read(item)

    def frames(self, group: str, leaf: Leaf, start: int, stop: int) -> Array:
        item = self._item(group, leaf.path)
        if item.shape[1:] == leaf.shape:
            return self._hdf5.read(item, start, stop)
        if len(item.shape) not in (1, 2) or stop > item.shape[0]:
            raise self._misshapen(item, leaf)
        self._hdf5.check_budget(item.name, (stop - start) * leaf.size)
        rows = (self._hdf5.read_blob(item, row) for row in range(start, stop))
        return np.stack([decode(row, leaf, self) for row in rows])

    def scalars(self, name: str) -> Array:
        return self._hdf5.read(self._item(name, ()))

    def text(self, group: str, leaf: Leaf) -> str | None:
        return self._hdf5.first_string(self._item(group, leaf.path))

    def infos(self) -> dict[str, Array]:
        items = self._hdf5.arrays(subgroup(self._group, "infos"))
        return {name: self._hdf5.read(item) for name, item in items}

    def facts(self) -> dict[str, Any]:
        return Group(self._hdf5, self._group, episode=self._index).facts

    def seed(self) -> int | None:
        seed = self._hdf5.attribute(self._group, "seed") if hasattr(self._group, "attrs") else None
        return seed if isinstance(seed, int) else None

    def error(self, code: str, message: str, field: str) -> DataError:
        remedy = "record the episode again"
        return self._hdf5.fault(code, message, remedy, episode=self._index, field=field)

    def _item(self, group: str, path: Keys) -> Any:
        item = self._group
        for key in (group, *path):
            item = subgroup({"": item}, "").get(f"_index_{key}" if isinstance(key, int) else key)
        if not hasattr(item, "shape"):
            field = "/".join(map(str, (group, *path)))
            raise self.error("E_DATA_SHAPE", "is missing", field)
        return item

    def _misshapen(self, item: Any, leaf: Leaf) -> DataError:
        message = f"has shape {item.shape}, expected {('L', *leaf.shape)} by the space"
        return self.error("E_DATA_SHAPE", message, item.name)
