"""Demonstrations of which some tasks' do not show how to begin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator

from embodied.structs import Episode, Episodes, Spec


class Late:
    """Training data that are damaged on purpose; implements `embodied.structs.Episodes`.

    Of each successful episode of the named tasks only the end stays, of others nothing, so that a
    policy has never seen the task as it is when it is asked for, and must be corrected there.
    Annotations of those are dropped.

    Args:
        tasks: by `info["task"]`.
        skip: which share of such an episode's steps is left out, in [0, 1).
    """

    def __init__(self, episodes: Episodes, *, tasks: Collection[str], skip: float) -> None:
        if not 0 <= skip < 1:
            raise ValueError(f"skip must lie in [0, 1), got {skip}")
        self._episodes, self._tasks, self._skip = episodes, frozenset(tasks), skip
        known: set[str] = set()
        self._kept: list[int] = []
        for i, each in enumerate(episodes):
            task = str(each.info.get("task"))
            known.add(task)
            if task not in self._tasks or each.success:
                self._kept.append(i)
        if unknown := sorted(self._tasks - known):
            raise ValueError(f"no episode is of the tasks {unknown}; there are {sorted(known)}")

    @property
    def spec(self) -> Spec:
        return self._episodes.spec

    @property
    def fingerprint(self) -> str:
        parts = [self._episodes.fingerprint, sorted(self._tasks), self._skip]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Episode:
        return self._late(self._episodes[self._kept[index]])

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def _late(self, episode: Episode) -> Episode:
        first = int(self._skip * len(episode))
        if str(episode.info.get("task")) not in self._tasks or not first:
            return episode
        return episode.between(first, len(episode))
