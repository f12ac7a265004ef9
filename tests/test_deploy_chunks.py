"""Which chunks are taken, and what of them is executed at a moment."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodied.deploy.chunks import ChunkQueue, TimedChunk
from tests.robots import MS, chunk

RAMP = [[0.0], [1.0], [2.0], [3.0], [4.0]]  # 10 ms apart: ends 50 ms after it began


def target(queue: ChunkQueue, now: int) -> float | None:
    plan = queue.plan(now)
    return None if plan is None else float(plan.target[0])


def test_the_aligned_queue_drops_past_steps_and_interpolates() -> None:
    queue = ChunkQueue(mode="aligned")
    assert queue.offer(chunk(RAMP), 24 * MS) is None
    assert target(queue, 24 * MS) == pytest.approx(2.4)
    assert target(queue, 30 * MS) == pytest.approx(3.0)
    assert target(queue, 49 * MS) == 4.0  # the last action lasts for its dt
    assert target(queue, 50 * MS) is None


def test_the_naive_queue_begins_at_the_beginning_and_executes_whole_steps() -> None:
    queue = ChunkQueue(mode="naive")
    queue.offer(chunk(RAMP), 24 * MS)
    found = [target(queue, (24 + ms) * MS) for ms in (0, 9, 10, 45, 50)]
    assert found == [0.0, 0.0, 1.0, 4.0, None]


def test_the_newest_chunk_that_has_begun_counts() -> None:
    queue = ChunkQueue()
    queue.offer(chunk(RAMP), 0)
    queue.offer(chunk([[9.0]] * 9, obs_time=10 * MS, t0=30 * MS, request_id=2), 20 * MS)
    assert target(queue, 20 * MS) == 2.0
    assert target(queue, 30 * MS) == 9.0


def test_the_ensemble_weighs_by_age_rank_as_in_act() -> None:
    queue = ChunkQueue(mode="ensemble", decay=0.5)
    for i, value in enumerate((1.0, 2.0, 4.0)):
        queue.offer(chunk([[value]] * 10, obs_time=i * MS, request_id=i + 1), 2 * MS)
    weights = [1.0, math.exp(-0.5), math.exp(-1.0)]  # the oldest first
    wanted = (1.0 * weights[0] + 2.0 * weights[1] + 4.0 * weights[2]) / sum(weights)
    assert target(queue, 5 * MS) == pytest.approx(wanted)


def test_nothing_is_averaged_over_two_instructions() -> None:
    queue = ChunkQueue(mode="ensemble")
    queue.offer(chunk([[1.0]] * 10, request_id=1), 0)
    queue.offer(chunk([[5.0]] * 10, obs_time=MS, request_id=2, instruction_id=1), 2 * MS)
    assert target(queue, 3 * MS) == 5.0


def test_a_plan_from_an_old_observation_expires_however_long_it_is() -> None:
    queue = ChunkQueue(expiry_ns=100 * MS)
    queue.offer(chunk([[1.0]] * 1000), 0)
    assert target(queue, 100 * MS) == 1.0
    assert target(queue, 100 * MS + 1) is None


REFUSED: dict[str, TimedChunk] = {
    "duplicate": chunk(RAMP, obs_time=200 * MS, request_id=5),
    "out of order": chunk(RAMP, obs_time=210 * MS, request_id=4),
    "from the future": chunk(RAMP, obs_time=221 * MS, request_id=6),
    "stale": chunk([[0.0]] * 99, obs_time=205 * MS, request_id=6),
    "exhausted": chunk([[0.0]], obs_time=210 * MS, request_id=6),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_each_reason_to_refuse_is_counted_and_changes_nothing(reason: str) -> None:
    queue = ChunkQueue(expiry_ns=1000 * MS)
    queue.offer(chunk(RAMP, obs_time=200 * MS, request_id=5), 200 * MS)
    if reason == "stale":
        queue.forget(206 * MS)
    assert queue.offer(REFUSED[reason], 220 * MS) == reason
    assert queue.refused == {reason: 1}
    assert target(queue, 220 * MS) == (None if reason == "stale" else 2.0)


@pytest.mark.parametrize(
    "later",
    [chunk(RAMP, obs_time=-1, request_id=9), chunk(RAMP, request_id=9, instruction_id=0)],
    ids=["observation", "instruction"],
)
def test_a_later_request_about_something_older_is_out_of_order(later: TimedChunk) -> None:
    queue = ChunkQueue()
    queue.offer(chunk(RAMP, instruction_id=3), 0)
    assert queue.offer(later, MS) == "out of order"


def test_what_was_forgotten_does_not_come_back() -> None:
    queue = ChunkQueue()
    queue.offer(chunk(RAMP), 0)
    queue.forget(10 * MS)
    assert target(queue, 10 * MS) is None
    assert queue.offer(chunk(RAMP, obs_time=9 * MS, request_id=2), 11 * MS) == "stale"
    assert queue.offer(chunk(RAMP, obs_time=10 * MS, request_id=3), 11 * MS) is None


def test_numbers_may_begin_anew_when_the_robot_is_armed() -> None:
    queue = ChunkQueue()
    queue.offer(chunk(RAMP, request_id=700, instruction_id=5), 0)
    queue.begin(10 * MS)
    assert queue.offer(chunk(RAMP, obs_time=9 * MS, request_id=0), 11 * MS) == "stale"
    assert queue.offer(chunk(RAMP, obs_time=10 * MS, request_id=0), 11 * MS) is None


arrivals = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 40), st.integers(1, 60), st.integers(0, 3)),
    max_size=40,
)


@given(arrivals, st.sampled_from(["aligned", "naive", "ensemble"]))
def test_plans_never_go_back_nor_grow_too_old(
    offers: list[tuple[int, int, int, int]], mode: str
) -> None:
    queue = ChunkQueue(mode=mode, expiry_ns=100 * MS)  # type: ignore[arg-type]
    last = (-1, -1)
    for now in range(0, 400, 5):
        for obs_ms, request_id, steps, instruction_id in offers:
            if obs_ms // 5 * 5 == (now + 37 * request_id) % 400:
                each = chunk(np.full((steps, 1), request_id), obs_time=obs_ms * MS, dt=5 * MS)
                each = TimedChunk(
                    each.actions, each.obs_time, each.t0, each.dt, request_id, instruction_id
                )
                queue.offer(each, now * MS)
        plan = queue.plan(now * MS)
        if plan is not None:
            found = (plan.chunk.instruction_id, plan.chunk.request_id)
            assert found >= last
            assert 0 <= now * MS - plan.chunk.obs_time <= 100 * MS
            assert now * MS < plan.chunk.end
            last = found


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be one of aligned, naive, ensemble"):
        ChunkQueue(mode="fast")  # type: ignore[arg-type]
