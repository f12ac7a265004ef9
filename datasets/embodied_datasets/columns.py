"""The long arrays that hold all episodes of a data set end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied_datasets.staging import Staged


@dataclass(frozen=True)
class Column:
    """One array of the data set to be, as far as an episode's length goes.

    Attributes:
        shape: of one row.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def rows(self, staged: Staged, role: str) -> NDArray[Any]:
        """An episode's rows; zeros where it lacks this array."""
        if role in staged.headers:
            return staged[role]
        return np.zeros((len(staged), *self.shape), self.dtype)

    def last(self, staged: Staged, role: str) -> NDArray[Any]:
        """(1, ...) what an episode saw in the end; zeros where it did not look."""
        if role in staged.headers:
            return staged[role][None]
        return np.zeros((1, *self.shape), self.dtype)


def plan(episodes: Sequence[Staged]) -> dict[str, Column]:
    """The columns that hold all episodes, by role.

    Raises ValueError if one array has two shapes or dtypes.
    """
    columns: dict[str, Column] = {}
    for staged in episodes:
        for role, header in staged.headers.items():
            shape = header.shape if role.startswith("final/") else header.shape[1:]
            found = Column(shape, header.dtype)
            if columns.setdefault(role, found) != found:
                raise ValueError(
                    f"{role} of episode {staged.facts['key']!r} is {found.dtype} {found.shape}, "
                    f"of others {columns[role].dtype} {columns[role].shape}; "
                    "this format needs one shape and dtype for all episodes"
                )
    return columns
