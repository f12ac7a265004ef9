"""Episodes of which some tasks' begin in a narrower range of places than they are asked from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

import numpy as np

from embodied.structs import Episode, Episodes, Spec


class Narrowed:
    """Training data that are damaged on purpose; implements `embodied.structs.Episodes`.

    Of each named task only the episodes stay whose first state is lowest in one number, so that a
    policy has never seen the other places, and must be corrected there.

    Args:
        columns: task (`info["task"]`) -> that number of the state, such as an object's x.
        keep: which share of the task's episodes stays, in (0, 1].
    """

    def __init__(self, episodes: Episodes, *, columns: Mapping[str, int], keep: float) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"keep must lie in (0, 1], got {keep}")
        self._episodes, self._columns, self._keep = episodes, dict(columns), keep
        first = [(str(each.info.get("task")), each.state[0]) for each in episodes]
        if unknown := sorted(columns.keys() - {task for task, _ in first}):
            raise ValueError(f"no episode is of the tasks {unknown}; correct `columns`")
        dropped: set[int] = set()
        for task, column in columns.items():
            mine = [i for i, (name, _) in enumerate(first) if name == task]
            order = np.argsort([first[i][1][column] for i in mine], kind="stable")
            dropped |= {mine[i] for i in order[max(1, round(keep * len(mine))) :]}
        self._numbers = [i for i in range(len(first)) if i not in dropped]

    @property
    def spec(self) -> Spec:
        return self._episodes.spec

    @property
    def fingerprint(self) -> str:
        parts = [self._episodes.fingerprint, sorted(self._columns.items()), self._keep]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Episode:
        return self._episodes[self._numbers[index]]

    def __iter__(self) -> Iterator[Episode]:
        return (self._episodes[i] for i in self._numbers)
