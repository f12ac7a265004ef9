"""Batches depend on seed and position alone, however they are shared out."""

from __future__ import annotations

import json

import pytest
import torch

from embodied.data.windows import Windows
from embodied.sources import Offline
from embodied.structs import Batch


def make_source(seed: int = 0, batch_size: int = 12) -> Offline:
    lengths = torch.tensor([5, 7])
    columns = {
        "state": torch.arange(12.0)[:, None],
        "action": torch.arange(12.0)[:, None] / 100,
    }
    windows = Windows(columns, lengths, ["left", "right"])
    return Offline(windows, batch_size=batch_size, obs_horizon=2, pred_horizon=3, seed=seed)


def frames(batch: Batch) -> list[float]:
    return batch.observation.state[:, -1, 0].tolist()


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_shards_of_a_batch_are_the_batch(num_ranks: int) -> None:
    whole = make_source()
    shards = [make_source().split(rank, num_ranks) for rank in range(num_ranks)]
    for _ in range(3):
        batch, parts = next(whole), [next(shard) for shard in shards]
        assert all(len(part.action) == 12 // num_ranks for part in parts)
        assert torch.equal(torch.cat([part.action for part in parts]), batch.action)
        assert torch.equal(torch.cat([part.mask for part in parts]), batch.mask)
        words = [text for part in parts for text in part.condition.language or ()]
        assert tuple(words) == batch.condition.language


def test_a_batch_holds_windows_of_the_asked_sizes() -> None:
    batch = next(make_source())
    assert batch.observation.state.shape == (12, 2, 1)
    assert batch.action.shape == (12, 3, 1)
    for frame, word in zip(frames(batch), batch.condition.language or (), strict=True):
        assert word == ("left" if frame < 5 else "right")


def test_a_source_goes_on_where_its_state_was_saved() -> None:
    source = make_source()
    for _ in range(3):
        next(source)
    state = json.loads(json.dumps(source.state_dict()))
    fresh = make_source()
    fresh.load_state_dict(state)
    assert [frames(next(fresh)) for _ in range(2)] == [frames(next(source)) for _ in range(2)]


def test_seeds_and_positions_draw_differently() -> None:
    source = make_source()
    drawn = [frames(next(source)), frames(next(source)), frames(next(make_source(seed=1)))]
    assert drawn[0] != drawn[1]
    assert drawn[0] != drawn[2]


def test_a_state_of_another_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="saved with seed 1; now it has seed 0"):
        make_source(seed=0).load_state_dict(make_source(seed=1).state_dict())


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the number of processes, got 12 and 5"):
        make_source().split(0, 5)
