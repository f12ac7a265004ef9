"""Several data sets as one: shares, columns in pieces, and who each row is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from embodied.data.goals import Goals
from embodied.data.mixture import mix
from embodied.data.pieces import Pieces
from embodied.data.windows import Windows
from embodied.noise import BatchNoise
from embodied.policies.chunk import ChunkPolicy
from embodied.sources import Offline
from embodied.structs import Batch, Condition, Observation
from tests.test_windows import Recorded

HORIZONS = {"obs_horizon": 2, "pred_horizon": 2}


def mixed(weights: tuple[float, float] = (3.0, 1.0), images: bool = False) -> Windows:
    first, second = Recorded([2, 6], images=images), Recorded([4, 3, 5], images=images)
    second.episodes = [
        replace(e, state=e.state + 10, instruction=f"other {e.instruction}")
        for e in second.episodes
    ]
    sets = {"a": Windows.load(first), "b": Windows.load(second)}
    return mix({n: (x, w) for (n, x), w in zip(sets.items(), weights, strict=True)})


def rows_of(windows: Windows, size: int, seed: int = 0) -> torch.Tensor:
    return windows.draw(size, torch.Generator().manual_seed(seed))


def test_frames_of_a_mixture_are_those_of_its_parts_in_turn() -> None:
    windows = mixed(images=True)
    assert len(windows) == 20
    batch = windows.gather(torch.tensor([7, 8, 19]), **HORIZONS)
    assert batch.observation.state[:, -1].tolist() == [[1.0, 5.0], [10.0, 10.0], [12.0, 14.0]]
    assert batch.condition.language == ("text 1", "other text 0", "other text 0")
    assert batch.source == ("a", "b", "b")
    # No window of the second set reaches back into the first.
    assert batch.observation.state[1, 0].tolist() == [10.0, 10.0]


def test_one_data_set_names_no_source() -> None:
    batch = Windows.load(Recorded([3])).gather(torch.tensor([0]), **HORIZONS)
    assert batch.source is None


def test_data_sets_are_drawn_in_their_shares_and_their_episodes_alike() -> None:
    windows = mixed()
    episode = torch.bucketize(rows_of(windows, 24_000), windows.starts, right=True) - 1
    counts = torch.bincount(episode, minlength=5).double() / 24_000
    expected = torch.tensor([3 / 8, 3 / 8, 1 / 12, 1 / 12, 1 / 12], dtype=torch.float64)
    # Four standard deviations of the likelier share, sqrt(3/8 * 5/8 / 24000) = 0.0031.
    assert float((counts - expected).abs().max()) < 0.0125


@pytest.mark.parametrize("seed", range(5))
def test_every_run_of_rows_holds_every_data_set_in_its_share(seed: int) -> None:
    windows = mixed((0.75, 0.25))
    source = windows.source_index[rows_of(windows, 256, seed)]
    for start in range(0, 256, 16):  # a rank's rows, or a micro-batch
        assert 3 <= int((source[start : start + 16] == 1).sum()) <= 5


def test_the_first_row_is_of_each_data_set_in_its_share() -> None:
    windows = mixed()
    first = [int(windows.source_index[rows_of(windows, 1, seed)]) for seed in range(2000)]
    assert abs(sum(first) / 2000 - 0.25) < 0.04


def test_episodes_left_out_do_not_change_the_shares() -> None:
    windows = mixed().select([0, 3, 4])
    source = windows.source_index[rows_of(windows, 4000)]
    assert abs(float((source == 1).double().mean()) - 0.25) < 0.01
    frames = set(rows_of(windows, 4000).tolist())
    assert frames == {0, 1, *range(12, 20)}
    assert windows.frames().tolist() == sorted(frames)


def test_random_goals_are_of_the_same_data_set() -> None:
    windows = mixed().select([1, 2, 4])
    goals = Goals(p_randomgoal=1, p_trajgoal=0)
    index = torch.tensor([2, 8]).repeat(500)
    found = goals.draw(windows, index, torch.Generator().manual_seed(0))
    assert set(found[::2].tolist()) == set(range(2, 8))
    assert set(found[1::2].tolist()) == {*range(8, 12), *range(15, 20)}


def test_images_of_several_files_are_gathered_as_if_from_one() -> None:
    windows = mixed(images=True)
    column = windows.columns["images.top"]
    assert isinstance(column, Pieces)
    whole = torch.cat(list(column.pieces))
    index = torch.randint(20, (64,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(column.index_select(0, index), whole[index])
    assert torch.equal(column[6:11], whole[6:11])
    assert (column.nbytes, column.shape, len(column)) == (whole.nbytes, whole.shape, 20)
    assert column.to(torch.device("cpu")) is column


def test_rewordings_of_all_parts_are_kept() -> None:
    words = {"text 0": ("text 0", "go")}
    parts = {n: (Windows.load(Recorded([2]), rewordings=words), 1.0) for n in "ab"}
    assert mix(parts).told == ("text 0", "go")


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_weights_must_be_positive(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weights of data sets must be above 0, got {'b'"):
        mixed((1.0, weight))


def test_other_columns_are_refused_naming_both() -> None:
    parts = {n: (Windows.load(Recorded([2], images=n == "b")), 1.0) for n in "ab"}
    with pytest.raises(ValueError, match=r"same columns, got {'a'.*'b'.*images\.top"):
        mix(parts)


def test_a_source_of_a_mixture_resumes_and_splits() -> None:
    def source() -> Offline:
        return Offline(mixed(), batch_size=8, **HORIZONS)

    whole, halves = source(), [source().split(rank, 2) for rank in range(2)]
    batch = next(whole)
    assert batch.source == sum((next(half).source or () for half in halves), ())
    resumed = source()
    resumed.load_state_dict(whole.state_dict())
    assert torch.equal(next(resumed).action, next(whole).action)


def test_the_loss_of_each_data_set_is_reported(make_policy: Callable[..., ChunkPolicy]) -> None:
    policy = make_policy()
    batch = Batch(
        Observation(torch.rand(4, 1, 10)),
        Condition(("a",) * 4),
        torch.rand(4, 4, 2),
        torch.tensor([[True] * 4, [True] * 4, [True] * 2 + [False] * 2, [True] * 4]),
        source=("x", "y", "x", "x"),
    )
    metrics = loss_of(policy, batch)
    assert metrics.keys() == {"loss", "loss/x", "loss/y"}
    # 10 valid steps of x and 4 of y make up the mean over 14.
    mean = (10 * metrics["loss/x"] + 4 * metrics["loss/y"]) / 14
    assert metrics["loss"] == pytest.approx(mean, rel=1e-5)
    alone = loss_of(policy, replace(batch, source=None))
    assert alone == {"loss": metrics["loss"]}


def loss_of(policy: ChunkPolicy, batch: Batch) -> dict[str, Any]:
    noise = BatchNoise(torch.Generator().manual_seed(0))
    return {name: float(x) for name, x in policy.loss(batch, noise=noise)[1].items()}
