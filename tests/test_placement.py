"""Wherever data live, batches are those of plain windows; streaming keeps each row's law."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from embodied.data import placement
from embodied.data.blocks import Blocks
from embodied.data.goals import Goals
from embodied.data.placement import choose, free_memory, make_source
from embodied.data.prefetch import Prefetch
from embodied.data.windows import Windows
from embodied.sources import Offline, Source
from embodied.structs import Batch
from tests.test_windows import Recorded

CPU, GPU = torch.device("cpu"), torch.device("cuda")
HORIZONS = {"obs_horizon": 2, "pred_horizon": 3}


def windows(cache: Path | None = None) -> Windows:
    return Windows.load(Recorded([5, 7, 3, 4], images=True), cache=cache)


def source(kind: str, seed: int = 0, **changes: Any) -> Source:
    arguments = {"batch_size": 8, "seed": seed, "goals": Goals(), **HORIZONS, **changes}
    return make_source(windows(), CPU, placement=kind, **arguments)  # type: ignore[arg-type]


def same(a: Batch, b: Batch) -> bool:
    assert a.condition.goal is not None
    assert b.condition.goal is not None
    pairs = [
        (a.observation.state, b.observation.state),
        (a.observation.images["top"], b.observation.images["top"]),
        (a.condition.goal.state, b.condition.goal.state),
        (a.action, b.action),
        (a.mask, b.mask),
    ]
    return a.condition.language == b.condition.language and all(torch.equal(x, y) for x, y in pairs)


def test_batches_made_ahead_are_the_same_batches() -> None:
    plain, ahead = source("device"), source("host")
    assert isinstance(plain, Offline)
    assert isinstance(ahead, Prefetch)
    assert all(same(next(plain), next(ahead)) for _ in range(10))
    ahead.close()


@pytest.mark.parametrize("kind", ["device", "host", "stream"])
def test_a_resume_repeats_none_and_skips_none(kind: str) -> None:
    unbroken, before = source(kind), source(kind)
    for _ in range(5):
        next(unbroken), next(before)
    state = json.loads(json.dumps(before.state_dict()))
    assert state["position"] == 5  # however many were made ahead
    after = source(kind)
    next(after)
    after.load_state_dict(state)
    assert all(same(next(unbroken), next(after)) for _ in range(10))
    for each in (unbroken, before, after):
        each.close()


@pytest.mark.parametrize("kind", ["host", "stream"])
def test_shards_made_ahead_are_the_batch(kind: str) -> None:
    whole, halves = source(kind), [source(kind).split(rank, 2) for rank in range(2)]
    for _ in range(3):
        batch, parts = next(whole), [next(half) for half in halves]
        assert torch.equal(torch.cat([part.action for part in parts]), batch.action)
    for each in (whole, *halves):
        each.close()


def test_an_error_in_making_a_batch_comes_at_its_turn() -> None:
    class Failing(Offline):
        def __next__(self) -> Batch:
            if self.position == 2:
                raise OSError("the disk is gone")
            return super().__next__()

    ahead = Prefetch(Failing(windows(), batch_size=4, **HORIZONS), CPU)
    next(ahead), next(ahead)
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    ahead.close()


def test_batches_are_ready_while_the_training_step_computes() -> None:
    class Slow(Offline):
        def __next__(self) -> Batch:
            time.sleep(0.05)
            return super().__next__()

    ahead = Prefetch(Slow(windows(), batch_size=4, **HORIZONS), CPU)
    next(ahead)
    waited = 0.0
    for _ in range(5):
        time.sleep(0.1)  # the step
        start = time.perf_counter()
        next(ahead)
        waited += time.perf_counter() - start
    assert waited < 0.1  # of 0.25 s that the batches take
    ahead.close()


def test_a_closed_source_leaves_no_thread() -> None:
    before = threading.active_count()
    for kind in ("host", "stream"):
        each = source(kind)
        next(each)
        each.close()
    assert threading.active_count() == before


def test_a_state_of_another_law_is_refused() -> None:
    state = source("device").state_dict()
    streamed = source("stream")
    with pytest.raises(ValueError, match="saved with seed 0; now it has seed 0, blocks 1"):
        streamed.load_state_dict(state)
    streamed.close()


# Blocks


def blocks(num_episodes: int = 40, **changes: Any) -> Blocks:
    lengths = [2 + 3 * (i % 3) for i in range(num_episodes)]
    data = Windows.load(Recorded(lengths), label="action")
    frame = 3 * 4  # bytes of a state and an action
    arguments = {"batch_size": 16, "seed": 0, "block_bytes": 20 * frame, "pool_blocks": 3}
    return Blocks(data, **{**arguments, **changes})


def test_blocks_are_of_consecutive_episodes_and_about_the_asked_size() -> None:
    streamed = blocks()
    assert streamed.num_blocks == 10  # 199 frames by 20
    block = streamed._block
    assert bool((block.diff() >= 0).all())
    frames = torch.zeros(10, dtype=torch.int64).index_add(0, block, streamed.windows.lengths)
    assert 12 <= int(frames.min()) <= int(frames.max()) <= 28


def test_each_row_is_drawn_as_without_blocks() -> None:
    streamed = blocks()
    counts = torch.zeros(40, dtype=torch.float64)
    turns = 4000
    for turn in range(turns):
        episodes, weights = streamed.choose(turn)
        assert float(weights.sum()) == pytest.approx(streamed.pool_blocks)
        counts[episodes] += weights / weights.sum()
    # The mean of 4000 pools of three blocks drawn from ten; each episode should have 1/40.
    assert float((counts / turns - 1 / 40).abs().max()) < 0.0025
    streamed.close()


def test_weights_of_episodes_hold_through_blocks() -> None:
    streamed = blocks()
    streamed.windows.weights = torch.arange(1.0, 41.0, dtype=torch.float64) / 820
    weighted = Blocks(streamed.windows, batch_size=16, seed=0, block_bytes=20 * 12, pool_blocks=3)
    counts = torch.zeros(40, dtype=torch.float64)
    for turn in range(4000):
        episodes, weights = weighted.choose(turn)
        counts[episodes] += weights / weights.sum() / 4000
    assert float((counts - streamed.windows.weights).abs().max()) < 0.004


def test_a_pool_holds_whole_episodes_and_their_windows_are_the_same() -> None:
    streamed = blocks()
    pool = streamed.at(0)
    episodes, _ = streamed.choose(0)
    assert pool.lengths.tolist() == streamed.windows.lengths[episodes].tolist()
    mine = streamed.windows.select(episodes)
    ours = pool.gather(torch.arange(len(pool)), **HORIZONS)
    theirs = mine.gather(mine.frames(), **HORIZONS)
    assert torch.equal(ours.observation.state, theirs.observation.state)
    assert torch.equal(ours.action, theirs.action)
    assert ours.condition.language == theirs.condition.language
    streamed.close()


def test_a_pool_serves_batches_for_about_its_frames_and_then_another_comes() -> None:
    streamed = blocks()
    assert streamed.batches == 3 * (199 // 10) // 16 + 0
    pools = [streamed.at(position) for position in range(3 * streamed.batches)]
    assert len({id(pool) for pool in pools}) == 3
    assert pools[0] is pools[streamed.batches - 1]
    streamed.close()


# Choosing


def test_auto_takes_the_fastest_place_that_holds_the_data() -> None:
    sizes = {"device_bytes": 100, "host_bytes": 1000}
    assert choose("auto", 100, GPU, **sizes) == "device"
    assert choose("auto", 101, GPU, **sizes) == "host"
    assert choose("auto", 1001, GPU, **sizes) == "stream"
    assert choose("auto", 1000, CPU, **sizes) == "device"
    assert choose("auto", 1000, CPU, **sizes, images=True) == "host"
    assert choose("auto", 1001, CPU, **sizes) == "stream"
    assert choose("host", 10**18, GPU) == "host"
    with pytest.raises(ValueError, match=r"placement must be one of .* got 'disk'"):
        choose("disk", 1, CPU)


def test_the_budget_is_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 200))
    assert choose("auto", 50, GPU) == "device"
    assert choose("auto", 51, GPU) == "host"
    monkeypatch.setattr(placement, "free_memory", lambda: 100)
    assert choose("auto", 51, GPU) == "stream"


def test_free_memory_is_what_the_container_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   4 kB\n"}
    monkeypatch.setattr(placement, "_read", lambda path: files.get(path, ""))
    assert free_memory() == 4096
    files |= {"/sys/fs/cgroup/memory.max": "3000\n", "/sys/fs/cgroup/memory.current": "1000\n"}
    assert free_memory() == 2000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert free_memory() == 4096


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_on_a_gpu_are_the_same_from_anywhere() -> None:
    kinds = ("device", "host")
    arguments: dict[str, Any] = {"batch_size": 8, "seed": 0, "goals": Goals(), **HORIZONS}
    first, second = (make_source(windows(), GPU, placement=kind, **arguments) for kind in kinds)
    for _ in range(5):
        a, b = next(first), next(second)
        assert a.action.device.type == "cuda"
        assert same(a, b)
    second.close()
