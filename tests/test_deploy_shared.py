"""Chunks and observations between processes: whole, newest, and never waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embodied.deploy.chunks import TimedChunk
from embodied.deploy.clock import SECOND, MonotonicClock
from embodied.deploy.loop import ControlLoop
from embodied.deploy.mail import Seen
from embodied.deploy.shared import Layout, Orders, SharedMail, pack_chunk, unpack_chunk
from embodied.deploy.slot import Slot
from embodied.deploy.watchdog import Event, State
from tests.robots import arm, chunk

ROOT = Path(__file__).parents[1]
FEATURES: dict[str, Any] = {
    "x.pos": float,
    "state": (3,),
    "front": (2, 2, 3),
    "state.time_ns": int,
}


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[tuple[Slot, Slot]]:
    writer = Slot(tmp_path / "slot", 64, creates=True)
    reader = Slot(tmp_path / "slot", 64, creates=False)
    yield writer, reader
    reader.close()
    writer.close()


def test_the_newest_message_is_read_once(slots: tuple[Slot, Slot]) -> None:
    writer, reader = slots
    assert reader.read() is None
    writer.write(b"first")
    writer.write(b"sec", b"ond")
    assert reader.read() == b"second"
    assert reader.read() is None


def test_a_message_under_way_is_not_read_and_the_one_before_is_not_read_again(
    slots: tuple[Slot, Slot],
) -> None:
    writer, reader = slots
    writer.write(b"whole")
    assert reader.read() == b"whole"
    writer._memory[0] |= 1  # a writer that was killed in the middle
    writer._memory[16:20] = b"torn"
    assert reader.read() is None
    writer.write(b"again")  # the next writer goes on from there
    assert reader.read() == b"again"


def test_a_torn_message_is_known_by_its_checksum(slots: tuple[Slot, Slot]) -> None:
    writer, reader = slots
    writer.write(b"whole")
    writer._memory[18] ^= 1
    assert reader.read() is None


def test_a_message_too_long_is_refused(slots: tuple[Slot, Slot]) -> None:
    with pytest.raises(ValueError, match="65 bytes does not fit in 64"):
        slots[0].write(b"x" * 65)


def test_the_memory_of_another_robot_is_refused(slots: tuple[Slot, Slot]) -> None:
    with pytest.raises(ValueError, match="both sides need the same robot"):
        Slot(slots[0].path, 63, creates=False)


def test_what_a_killed_run_left_is_replaced_and_an_ended_one_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "slot"
    path.write_bytes(b"left over")
    slot = Slot(path, 8, creates=True)
    assert slot.read() is None
    slot.close()
    assert not path.exists()


def test_a_link_in_place_of_the_memory_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(bytes(80))
    (tmp_path / "slot").symlink_to(target)
    with pytest.raises(OSError, match="slot"):
        Slot(tmp_path / "slot", 64, creates=False)


times = st.integers(0, 2**62)
actions = arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9))


@given(actions, st.tuples(times, times, times, times, times))
def test_a_chunk_comes_back_as_it_was(values: Any, numbers: tuple[int, ...]) -> None:
    found = unpack_chunk(b"".join(pack_chunk(TimedChunk(values, *numbers))))
    assert found is not None
    assert (found.obs_time, found.t0, found.dt, found.request_id, found.instruction_id) == numbers
    np.testing.assert_array_equal(found.actions, values)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_chunk_are_none_or_harmless(message: bytes) -> None:
    found = unpack_chunk(message)
    assert found is None or found.actions.ndim == 2


def test_an_observation_comes_back_as_it_was() -> None:
    layout = Layout(FEATURES, 2)
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    values = {"x.pos": 0.25, "state": np.array([1.0, -2.0, 3.0]), "front": image}
    seen = Seen(77, {**values, "state.time_ns": 70}, np.array([0.5, -0.5]), State.HOLD)
    message = b"".join(layout.pack(seen))
    assert len(message) == layout.size
    found = layout.unpack(message)
    assert found is not None
    assert (found.time, found.state, found.values["x.pos"]) == (77, State.HOLD, 0.25)
    assert found.values["state.time_ns"] == 70
    np.testing.assert_array_equal(found.values["front"], image)
    np.testing.assert_array_equal(found.values["state"], [1.0, -2.0, 3.0])
    np.testing.assert_array_equal(found.command, [0.5, -0.5])
    assert layout.unpack(message[1:]) is None


def test_both_sides_of_the_mail(tmp_path: Path) -> None:
    robot = arm()
    robot.connect()
    sides = [
        SharedMail(
            "arm", robot.observation_features, robot.limits, creates=creates, folder=tmp_path
        )
        for creates in (True, False)
    ]
    control, policy = sides
    assert policy.observe() is None
    control.publish(Seen(5, robot.get_observation(), np.zeros(2), State.RUN))
    seen = policy.observe()
    assert seen is not None
    assert seen.values["shoulder.pos"] == pytest.approx(0.1)
    assert control.poll() is None
    policy.send(chunk([[1.0, 2.0]], request_id=1))
    policy.send(chunk([[3.0, 4.0]], request_id=2))
    found = control.poll()
    assert found is not None
    assert (found.request_id, found.actions.tolist()) == (2, [[3.0, 4.0]])
    policy.close()
    control.close()
    assert list(tmp_path.iterdir()) == []


def test_no_order_is_lost_to_the_next_and_none_is_obeyed_twice(tmp_path: Path) -> None:
    slots = [Slot(tmp_path / "orders", Orders.SIZE, creates=creates) for creates in (True, False)]
    control, operator = Orders(slots[0]), Orders(slots[1])
    assert control.read() == []
    operator.write(Event.ARM)
    operator.write(Event.STOP)
    assert control.read() == [Event.ARM, Event.STOP]
    assert control.read() == []
    Orders(slots[1]).write(Event.RESET)  # of another operator's process
    assert control.read() == [Event.RESET]
    for _ in range(40):
        operator.write(Event.DISARM)
    assert control.read() == [Event.DISARM] * Orders.KEPT
    with pytest.raises(ValueError, match="nothing that an operator says"):
        operator.write(Event.FRESH)
    slots[1].write((99).to_bytes(8, "little"), bytes([250, list(Event).index(Event.FRESH)]))
    assert control.read() == []  # neither garbage nor what only the machine may tell


POLICY = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    import numpy as np
    from embodied.deploy.chunks import TimedChunk
    from embodied.deploy.shared import SharedMail
    from tests.robots import arm

    robot = arm()
    mail = SharedMail("arm", robot.observation_features, robot.limits,
                      creates=False, folder=Path(sys.argv[1]))
    request = 0
    while True:
        seen = mail.observe()
        if seen is not None:
            request += 1
            actions = np.repeat(seen.command[None], 50, axis=0)
            mail.send(TimedChunk(actions, seen.time, seen.time, 20_000_000, request))
        time.sleep(0.01)
""")


@pytest.mark.slow  # by the wall clock, which a busy machine stretches
def test_a_policy_that_is_killed_leaves_a_robot_that_holds(tmp_path: Path) -> None:
    """In three acts: it runs, its process is killed, it holds; and the loop is never disturbed."""
    robot = arm(MonotonicClock())
    mail = SharedMail(
        "arm", robot.observation_features, robot.limits, creates=True, folder=tmp_path
    )
    loop = ControlLoop(robot, mail)
    control = SharedMail(
        "arm", robot.observation_features, robot.limits, creates=False, folder=tmp_path
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    policy = subprocess.Popen([sys.executable, "-c", POLICY, str(tmp_path)], env=environment)
    begun = MonotonicClock().now()
    seen: list[State] = []

    def act(tick: Any) -> None:
        seen.append(tick.state)
        if tick.state is State.IDLE:
            control.order(Event.ARM)
        if seen[-5:] == [State.RUN] * 5:
            policy.kill()
        if tick.state is State.HOLD or MonotonicClock().now() - begun > 30 * SECOND:
            loop.leave()

    loop.journal.put = act  # type: ignore[method-assign]
    try:
        loop.run()
    finally:
        policy.kill()
        policy.wait()
        control.close()
        mail.close()
    assert State.RUN in seen
    assert seen[-1] in (State.HOLD, State.STOPPED)
    assert State.HOLD in seen
