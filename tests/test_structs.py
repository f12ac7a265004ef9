"""The records: functions reach every tensor, rows stay together, nothing is changed in place."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from embodied.structs import Batch, Condition, Episode, Observation


def make_batch() -> Batch:
    goal = Observation(state=torch.arange(3.0)[:, None, None], images={})
    return Batch(
        observation=Observation(
            state=torch.arange(6.0).view(3, 1, 2),
            images={"top": torch.zeros(3, 1, 3, 2, 2, dtype=torch.uint8)},
        ),
        condition=Condition(
            language=("a", "b", "c"),
            goal=goal,
            present={"goal_state": torch.tensor([True, False, True])},
        ),
        action=torch.ones(3, 2, 1),
        mask=torch.tensor([[True, True], [True, False], [False, False]]),
    )


def test_map_reaches_every_tensor_and_leaves_words_alone() -> None:
    shapes: list[tuple[int, ...]] = []
    batch = make_batch().map(lambda x: (shapes.append(tuple(x.shape)), x.float() + 1)[1])
    assert shapes == [(3, 1, 2), (3, 1, 3, 2, 2), (3, 1, 1), (3,), (3, 2, 1), (3, 2)]
    assert batch.condition.language == ("a", "b", "c")
    assert batch.condition.sketch is None
    assert batch.observation.images["top"].unique().tolist() == [1.0]
    assert batch.condition.present["goal_state"].tolist() == [2.0, 1.0, 2.0]


def test_map_does_not_change_the_record() -> None:
    batch = make_batch()
    batch.map(lambda x: x.float() + 1)
    assert batch.action.unique().tolist() == [1.0]
    with pytest.raises(FrozenInstanceError):
        batch.action = torch.zeros(1)  # type: ignore[misc]


def test_rows_cut_tensors_and_words_alike() -> None:
    batch = make_batch().rows(1, 3)
    assert batch.condition.language == ("b", "c")
    assert batch.condition.goal is not None
    assert batch.condition.goal.state.flatten().tolist() == [1.0, 2.0]
    assert batch.condition.present["goal_state"].tolist() == [False, True]
    assert batch.observation.state.tolist() == [[[2.0, 3.0]], [[4.0, 5.0]]]
    assert batch.observation.images["top"].shape == (2, 1, 3, 2, 2)
    assert batch.mask.tolist() == [[True, False], [False, False]]


def test_rows_one_by_one_are_the_whole() -> None:
    batch = make_batch()
    parts = [batch.rows(i, i + 1) for i in range(3)]
    assert torch.equal(torch.cat([part.mask for part in parts]), batch.mask)
    assert [part.condition.language for part in parts] == [("a",), ("b",), ("c",)]


def test_to_moves_every_tensor() -> None:
    moved = make_batch().to("meta")
    devices: set[str] = set()
    moved.map(lambda x: (devices.add(x.device.type), x)[1])
    assert devices == {"meta"}


def test_an_episode_is_as_long_as_its_actions() -> None:
    episode = Episode(np.zeros((3, 2), np.float32), np.zeros((3, 1), np.float32), "wait")
    assert len(episode) == 3
    assert (episode.success, episode.terminated, episode.truncated) == (False, False, False)
