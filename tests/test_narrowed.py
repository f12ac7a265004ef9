"""Data damaged on purpose: which episodes stay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from embodied.structs import Episode, Spec
from embodied_datasets.narrowed import Narrowed


class Scenes:
    """Episodes that begin with the given numbers, of the tasks "push" and "open" in turn."""

    spec = Spec(2, 1, (-1.0,), (1.0,), 10.0)
    fingerprint = "scenes"

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Episode:
        state = np.array([[9.0, self.values[index]], [0.0, -99.0]], np.float32)
        info = {"task": ("push", "open")[index % 2]}
        return Episode(state, np.zeros((2, 1), np.float32), "go", info=info)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))


def starts(episodes: Narrowed) -> list[float]:
    return [float(each.state[0, 1]) for each in episodes]


def test_the_lowest_of_the_named_task_stay_in_their_order() -> None:
    # push begins at 5, 1, 4, 2; open at 8, 7, 6, 9.
    scenes = Scenes([5, 8, 1, 7, 4, 6, 2, 9])
    found = Narrowed(scenes, columns={"push": 1}, keep=0.5)
    assert starts(found) == [8, 1, 7, 6, 2, 9]
    assert len(found) == 6
    assert float(found[1].state[0, 1]) == 1
    assert starts(Narrowed(scenes, columns={"push": 1, "open": 1}, keep=0.25)) == [1, 6]
    assert starts(Narrowed(scenes, columns={"open": 1}, keep=1.0)) == scenes.values


def test_at_least_one_episode_of_a_task_stays() -> None:
    assert starts(Narrowed(Scenes([3, 0, 2, 0]), columns={"push": 1}, keep=0.01)) == [0, 2, 0]


def test_what_is_dropped_changes_the_fingerprint() -> None:
    scenes = Scenes([1, 2, 3, 4])
    views = [Narrowed(scenes, columns={"push": 1}, keep=keep) for keep in (0.5, 0.5, 1.0)]
    assert views[0].fingerprint == views[1].fingerprint != views[2].fingerprint


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no episode is of the tasks \['fold'\]"):
        Narrowed(Scenes([1, 2]), columns={"fold": 1}, keep=0.5)
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\], got 0"):
        Narrowed(Scenes([1, 2]), columns={"push": 1}, keep=0)
