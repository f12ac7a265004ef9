"""The facts of all episodes in one array of bytes, for formats that only know arrays.

The first line tells of the whole set: its spec, and the role of each array. One line of JSON for
each episode follows; lines are parsed one at a time, when asked for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Spec
from embodied_datasets.budget import damaged
from embodied_datasets.facts import NAME, fields_from, roles_from, spec_from
from embodied_datasets.faults import DataError
from embodied_datasets.files import parse_json

VERSION = 1
_MAX_LINE = 2**22


def to_lines(
    spec: Spec, columns: Mapping[str, str], episodes: Iterable[Mapping[str, Any]]
) -> NDArray[np.uint8]:
    """The array; `columns` says which array of the file has which role."""
    head = {"version": VERSION, "spec": dataclasses.asdict(spec), "columns": dict(columns)}
    lines = "\n".join(json.dumps(each) for each in [head, *episodes])
    return np.frombuffer(lines.encode(), np.uint8)


class FactLines:
    """The lines of a file.

    Attributes:
        spec: that the set was written with.
        columns: array name -> role.

    Raises DataError where the lines do not say what they should.
    """

    def __init__(self, data: NDArray[np.uint8], file: Path) -> None:
        self._file, self._bytes = file, data
        ends = np.append(np.flatnonzero(data == ord("\n")), len(data))
        self._ends, self._starts = ends, np.append(0, ends[:-1] + 1)
        head = self._line(0)
        if head.get("version") != VERSION or not isinstance(head.get("columns"), dict):
            message = f"misdescribes itself (version {head.get('version')}; this is {VERSION})"
            raise self._wrong(message)
        self.columns = {name: str(role) for name, role in head["columns"].items()}
        self.spec = spec_from(head.get("spec"), self._wrong)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def keys(self) -> list[str]:
        """The key under which each episode was added."""
        return [str(self._line(i + 1).get("key")) for i in range(len(self))]

    def roles(self, index: int) -> frozenset[str]:
        """Which arrays an episode has; those of the others are filled with zeros."""
        return roles_from(self._line(index + 1), self._wrong)

    def fields(self, index: int) -> dict[str, Any]:
        """The fields of an `Episode` besides its arrays."""
        return fields_from(self._line(index + 1), self._wrong)

    def _line(self, number: int) -> dict[str, Any]:
        start, end = int(self._starts[number]), int(self._ends[number])
        if end - start > _MAX_LINE:
            raise self._wrong(f"has a line of {end - start} bytes")
        return parse_json(
            self._bytes[start:end].tobytes(), lambda text: self._wrong(f"line {number} {text}")
        )

    def _wrong(self, message: str) -> DataError:
        return damaged(self._file, message, field=NAME)
