"""Our facts in HDF5 files, beside what formats know.

An HDF5 group called "embodied" holds `facts`, JSON as bytes (attributes end at 64 KB), and the
arrays that the format does not know. Other readers pass it over.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied_datasets.facts import NAME
from embodied_datasets.faults import DataError
from embodied_datasets.files import parse_json
from embodied_datasets.hdf5 import Hdf5

Array = NDArray[Any]


def json_attribute(hdf5: Hdf5, item: Any, name: str) -> dict[str, Any]:
    """The JSON object in an attribute; an empty one where there is no text of that name."""
    text = hdf5.attribute(item, name)
    wrong = functools.partial(hdf5.damaged, field=name)
    return parse_json(text, wrong) if isinstance(text, str) else {}


def write_group(parent: Any, facts: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Adds the group to an h5py.Group. Arrays are numbered, since any name is a good one."""
    group = parent.create_group(NAME)
    text = json.dumps({**facts, "arrays": list(arrays)}, allow_nan=False)
    group["facts"] = np.frombuffer(text.encode(), np.uint8)
    for number, values in enumerate(arrays.values()):
        group[str(number)] = values


class Group:
    """The group that `write_group` added; without facts where there is none."""

    def __init__(self, source: Hdf5, parent: Any, *, episode: int | None = None) -> None:
        self._source = source
        self._episode = episode
        self._group = parent.get(NAME)
        self.facts = self._parse() if self._group is not None else {}

    def wrong(self, message: str) -> DataError:
        return self._source.damaged(message, field=NAME, episode=self._episode)

    def arrays(self) -> dict[str, Array]:
        """The arrays by role."""
        return {role: self._source.read(item) for role, item in self.items().items()}

    def items(self) -> dict[str, Any]:
        """The arrays by role, as h5py.Datasets."""
        roles = self.facts.get("arrays", [])
        if self._group is None or not isinstance(roles, list):
            return {}
        items = {str(x): self._group.get(str(i)) for i, x in enumerate(roles)}
        missing = [role for role, item in items.items() if not hasattr(item, "shape")]
        if missing:
            raise self.wrong(f"lacks the arrays {missing[:3]}")
        return items

    def _parse(self) -> dict[str, Any]:
        if not hasattr(self._group, "keys") or "facts" not in self._group:
            raise self.wrong("holds no facts")
        return parse_json(self._source.read_text(self._group["facts"]), self.wrong)


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError unless each name is one level of an HDF5 path, and no two are equal."""
    for name in names:
        if not name or "/" in name or name in (".", "..") or "\0" in name:
            raise ValueError(f"{name!r} cannot name HDF5 data; rename it, without '/'")
    if len(set(names)) != len(names):
        raise ValueError(f"{sorted(names)} name two things alike; rename one")
