"""Episodes that are labelled as they are read, so that a task needs no step of its own for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

from embodied.structs import Episode, Episodes, Spec
from embodied_datasets.labels import Labeller, check, describe


class Relabelled:
    """Episodes with what labellers say of them; implements `embodied.structs.Episodes`.

    The same as `embodied_datasets.labels.Labelled`, but nothing is written: labels are made at each
    reading, and their settings are part of the fingerprint.

    Args:
        labellers: in the order in which they label; a later one sees the labels of those before.
    """

    def __init__(self, episodes: Episodes, labellers: Sequence[Labeller]) -> None:
        self._episodes = episodes
        self._labellers = tuple(labellers)

    @property
    def spec(self) -> Spec:
        return self._episodes.spec

    @property
    def fingerprint(self) -> str:
        parts = [self._episodes.fingerprint, *(describe(each) for each in self._labellers)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int) -> Episode:
        episode = self._episodes[index]
        for labeller in self._labellers:
            labels = labeller(episode, self.spec)
            check(labels, episode)
            episode = labels.put_on(episode)
        return episode

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))
