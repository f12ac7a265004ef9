"""Ticks on their way to the recorder: in order, whole, and lost rather than waited for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodied.deploy.feed import Feed, Moment, Packing, Wire, command_of
from embodied.deploy.journal import Tick
from embodied.deploy.mail import LocalMail, Seen
from embodied.deploy.ring import Ring
from embodied.deploy.safety import KINDS
from embodied.deploy.watchdog import State
from tests.robots import arm, limits


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Ring, Ring]]:
    writer = Ring(tmp_path / "ring", 8, 3, creates=True)
    reader = Ring(tmp_path / "ring", 8, 3, creates=False)
    yield writer, reader
    reader.close()
    writer.close()


def test_messages_come_out_in_their_order_and_once(ends: tuple[Ring, Ring]) -> None:
    writer, reader = ends
    assert reader.take() is None
    assert writer.put(b"a", b"bc")
    assert writer.put(b"")
    assert [reader.take(), reader.take(), reader.take()] == [b"abc", b"", None]


def test_what_finds_no_room_is_lost_and_counted_and_room_is_found_again(
    ends: tuple[Ring, Ring],
) -> None:
    writer, reader = ends
    assert [writer.put(bytes([i])) for i in range(5)] == [True, True, True, False, False]
    assert (writer.lost, reader.lost) == (2, 2)
    assert reader.take() == b"\x00"
    assert writer.put(b"new")
    assert [reader.take() for _ in range(4)] == [b"\x01", b"\x02", b"new", None]


@given(st.lists(st.booleans(), max_size=60))
def test_any_order_of_writing_and_reading_is_that_of_a_bounded_queue(turns: list[bool]) -> None:
    import tempfile
    from collections import deque

    queue: deque[bytes] = deque()
    with tempfile.TemporaryDirectory() as folder:
        ring = Ring(Path(folder) / "ring", 4, 3, creates=True)
        for number, writes in enumerate(turns):
            message = number.to_bytes(4, "little")
            if writes:
                assert ring.put(message) is (len(queue) < 3)
                if len(queue) < 3:
                    queue.append(message)
            else:
                assert ring.take() == (queue.popleft() if queue else None)
        ring.close()


def test_a_message_that_is_not_there_whole_is_waited_for(ends: tuple[Ring, Ring]) -> None:
    writer, reader = ends
    writer.put(b"whole")
    writer._memory[24 + 8] ^= 1  # the first byte of its text
    assert reader.take() is None
    writer._memory[24 + 8] ^= 1
    assert reader.take() == b"whole"


def test_too_long_a_message_and_the_memory_of_another_robot_are_refused(
    ends: tuple[Ring, Ring],
) -> None:
    with pytest.raises(ValueError, match="9 bytes does not fit in 8"):
        ends[0].put(b"x" * 9)
    with pytest.raises(ValueError, match="both sides need the same robot"):
        Ring(ends[0].path, 9, 3, creates=False)


FEATURES: dict[str, Any] = {"x.pos": float, "front": (2, 2, 3), "state.time_ns": int}
SEEN = Seen(
    3,
    {"x.pos": 0.5, "front": np.arange(12, dtype=np.uint8).reshape(2, 2, 3)},
    np.array([0.25]),
    State.RUN,
)
vectors = st.none() | st.floats(-1e3, 1e3).map(lambda x: np.array([x]))


@given(
    vectors,
    vectors,
    st.sampled_from(list(State)),
    st.sets(st.sampled_from(KINDS)),
    st.integers(-1, 2**60),
)
def test_a_moment_comes_back_as_it_was(
    asked: Any, sent: Any, state: State, flags: set[str], number: int
) -> None:
    packing = Packing(FEATURES, 1)
    kinds = tuple(kind for kind in KINDS if kind in flags)
    tick = Tick(9, state, asked, sent, kinds, number, number, number)
    message = b"".join(packing.pack(Moment(4, tick, SEEN)))
    assert len(message) == packing.size
    found = packing.unpack(message)
    assert found is not None
    assert (found.number, found.tick.time, found.tick.state) == (4, 9, state)
    assert (found.tick.flags, found.tick.age, found.tick.instruction_id) == (kinds, number, number)
    for before, after in ((asked, found.tick.asked), (sent, found.tick.sent)):
        assert (before is None) is (after is None)
        np.testing.assert_array_equal(before, after)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.seen.values["front"], SEEN.values["front"])
    np.testing.assert_array_equal(command_of(found), [0.25] if sent is None else sent)
    assert packing.unpack(message[1:]) is None


def test_a_feed_passes_the_mail_on_and_gives_each_tick_what_was_sensed_before_it() -> None:
    mail, kept = LocalMail(), list[Moment]()
    feed = Feed(mail, lambda moment: kept.append(moment) is None and len(kept) < 3)
    feed.put(Tick(0, State.IDLE, None, None))  # nothing was sensed yet: there is nothing to keep
    feed.publish(SEEN)
    assert mail.observe() is SEEN
    for time in (1, 2, 3):
        feed.put(Tick(time, State.IDLE, None, None))
    assert [(each.number, each.tick.time, each.seen) for each in kept] == [
        (0, 1, SEEN),
        (1, 2, SEEN),
        (2, 3, SEEN),
    ]
    assert feed.lost == 1


def test_both_ends_of_a_wire_agree(tmp_path: Path) -> None:
    robot = arm(camera=True)
    robot.connect()
    wires = [
        Wire("arm", robot.observation_features, limits(), creates=creates, folder=tmp_path)
        for creates in (True, False)
    ]
    seen = Seen(1, robot.get_observation(), np.zeros(2), State.RUN)
    for number in range(3):
        assert wires[0].put(Moment(number, Tick(number, State.RUN, None, None), seen))
    assert [each.number for each in wires[1].take()] == [0, 1, 2]
    assert wires[1].take() == []
    for wire in reversed(wires):
        wire.close()
    assert list(tmp_path.iterdir()) == []
