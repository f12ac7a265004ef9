"""The policy's side: newest in, timed chunk out, words at the next inference, failures survived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from embodied.conditions import Language, LanguageMotion, Row
from embodied.deploy.chunks import TimedChunk
from embodied.deploy.clock import SECOND, VirtualClock
from embodied.deploy.mail import LocalMail, Seen
from embodied.deploy.operator import Operator, Speech
from embodied.deploy.senses import policy_view
from embodied.deploy.thinker import Thinker, Thought
from embodied.deploy.watchdog import State
from embodied.people.terminal import Phrasebook

MS = SECOND // 1000
FEATURES: dict[str, Any] = {
    "x.pos": float,
    "y.pos": float,
    "front": (2, 2, 3),
    "state.time_ns": int,
}


class Listener:
    """A mind that notes what it sees and is told; its plan is what it saw, three times."""

    def __init__(self, clock: VirtualClock, takes: int = 0) -> None:
        self.clock, self.takes = clock, takes
        self.seen: list[Mapping[str, Any]] = []
        self.heard: list[tuple[str, Sequence[Any]]] = []
        self.said = "own"
        self.breaks = False
        self.elapsed: list[int] = []

    def infer(self, observation: Mapping[str, Any]) -> Any:
        self.seen.append(observation)
        self.clock.sleep_until(self.clock.now() + self.takes)
        if self.breaks:
            raise RuntimeError("out of memory")
        return np.repeat(observation["state"][None, :1], 3, axis=0)

    def elapse(self, steps: int) -> None:
        self.elapsed.append(steps)

    def tell(self, parts: Row) -> None:
        self.heard.append(("tell", parts))

    def correct(self, parts: Row) -> None:
        (part,) = parts
        if part == LanguageMotion("fly"):
            raise ValueError("the policy cannot be told 'fly'")
        self.heard.append(("correct", parts))
        self.said = part.text

    def release(self) -> None:
        self.heard.append(("release", ()))
        self.said = "own"


class Desk:
    """A thinker with all that it needs, and the chunks that it sent."""

    def __init__(self, *, takes: int = 0, every_s: float = 0.05, **fields: Any) -> None:
        self.clock, self.mail = VirtualClock(10 * SECOND), LocalMail()
        self.answers: list[str] = []
        self.thoughts: list[Thought] = []
        self.mind = Listener(self.clock, takes)
        book = Phrasebook((), is_open=True)
        self.operator = Operator(
            Speech(book, level="motion", hands=True),
            clock=self.clock,
            order=lambda event: None,
            say=self.answers.append,
        )
        self.thinker = Thinker(
            self.mind,
            self.mail,
            self.operator,
            features=FEATURES,
            dt_s=0.02,
            every_s=every_s,
            clock=self.clock,
            note=self.thoughts.append,
            **fields,
        )

    def see(self, value: float, ago: int = 0) -> Desk:
        values = {"x.pos": value, "y.pos": -value, "front": np.full((2, 2, 3), 7, np.uint8)}
        seen = Seen(self.clock.now() - ago, values, np.array([0.5, 0.25]), State.RUN)
        self.mail.publish(seen)
        return self

    def think(self, value: float = 0.0) -> TimedChunk | None:
        """A tenth of a second passes, something is seen, and thought about."""
        self.clock.sleep_until(self.clock.now() + 100 * MS)
        self.see(value).thinker.think()
        return self.mail.poll()


def test_a_chunk_bears_the_time_of_its_observation_and_the_policys_rate() -> None:
    desk = Desk(takes=30 * MS)
    desk.see(1.0, ago=5 * MS)
    assert desk.thinker.think()
    chunk = desk.mail.poll()
    assert chunk is not None
    assert (chunk.obs_time, chunk.t0) == (10 * SECOND - 5 * MS,) * 2
    assert (chunk.dt, chunk.request_id, chunk.instruction_id) == (20 * MS, 1, 0)
    np.testing.assert_array_equal(chunk.actions, [[1.0]] * 3)
    assert desk.thoughts == [Thought(1, "own", 10 * SECOND - 5 * MS, 0.035)]


def test_a_policy_sees_floats_in_their_order_cameras_and_what_was_commanded() -> None:
    desk = Desk()
    desk.think(2.0)
    (seen,) = desk.mind.seen
    np.testing.assert_array_equal(seen["state"], np.array([2.0, -2.0], np.float32))
    np.testing.assert_array_equal(seen["previous_action"], [0.5, 0.25])
    assert seen["front"].shape == (2, 2, 3)
    assert seen["time_ns"] == desk.clock.now()


def test_a_state_of_the_robots_own_goes_before_its_floats() -> None:
    state = np.array([1.0, 2.0, 3.0])
    seen = Seen(0, {"x.pos": 9.0, "state": state}, np.zeros(1), State.RUN)
    view = policy_view(seen, {"x.pos": float, "state": (3,)})
    assert view["state"].dtype == np.float32
    assert view["state"].tolist() == [1.0, 2.0, 3.0]


def test_nothing_is_thought_about_twice_nor_more_often_than_asked() -> None:
    desk = Desk(every_s=0.05)
    assert not desk.thinker.think()  # nothing was seen yet
    assert desk.see(1.0).thinker.think()
    assert not desk.thinker.think()
    desk.clock.sleep_until(desk.clock.now() + 20 * MS)
    assert not desk.see(2.0).thinker.think()  # too early
    desk.clock.sleep_until(desk.clock.now() + 30 * MS)
    assert desk.thinker.think()
    assert [seen["state"][0] for seen in desk.mind.seen] == [1.0, 2.0]


def test_the_delay_is_the_95th_percentile_of_the_last_hundred() -> None:
    desk = Desk()
    assert desk.thinker.delay_s == 0.0
    for number in range(150):
        desk.mind.takes = number * MS
        desk.think()
    assert desk.thinker.delay_s == pytest.approx(np.percentile(np.arange(50, 150), 95) / 1000)


def test_a_policy_that_fails_sends_nothing_and_may_work_again() -> None:
    desk = Desk()
    desk.mind.breaks = True
    assert desk.think() is None
    assert desk.think() is None
    desk.mind.breaks = False
    chunk = desk.think()
    assert chunk is not None
    assert chunk.request_id == 3
    assert desk.thinker.counts == {"errors": 2, "inferences": 1}


def test_words_are_obeyed_by_the_next_inference_and_its_chunk_says_so() -> None:
    desk = Desk()
    assert desk.think() is not None
    desk.operator.hear("move left")
    assert desk.mind.heard == []
    chunk = desk.think()
    assert chunk is not None
    assert (chunk.instruction_id, desk.thoughts[-1].said) == (1, "move left")
    desk.operator.hear("task sweep the floor")
    desk.operator.hear("ok")
    chunk = desk.think()
    assert chunk is not None
    assert (chunk.instruction_id, desk.thoughts[-1].said) == (3, "own")
    assert desk.mind.heard == [
        ("correct", (LanguageMotion("move left"),)),
        ("tell", (Language("sweep the floor"),)),
        ("release", ()),
    ]


def test_a_word_that_the_policy_refuses_is_answered_and_it_goes_on() -> None:
    desk = Desk()
    desk.operator.hear("fly")
    chunk = desk.think()
    assert chunk is not None
    assert desk.answers == ["the policy cannot be told 'fly'"]
    assert desk.thinker.counts["refused"] == 1
    assert desk.thoughts[-1].said == "own"


def test_who_takes_over_acts_until_the_controls_are_given_back() -> None:
    class Hands:
        def infer(self, observation: Mapping[str, Any]) -> Any:
            return np.full((2, 1), 9.0)

    desk = Desk(hands=Hands())
    desk.operator.hear("take")
    chunk = desk.think(1.0)
    assert chunk is not None
    assert chunk.actions.tolist() == [[9.0], [9.0]]
    assert desk.thoughts[-1].said == ""
    desk.operator.hear("task wait")  # told to the policy, and the hands keep the controls
    chunk = desk.think(1.0)
    assert chunk is not None
    assert chunk.actions[0, 0] == 9.0
    desk.operator.hear("give")
    chunk = desk.think(1.0)
    assert chunk is not None
    assert chunk.actions[0, 0] == 1.0


def test_a_mind_that_cannot_be_told_anything_refuses_words_and_goes_on() -> None:
    class Deaf:
        def infer(self, observation: Mapping[str, Any]) -> Any:
            return np.zeros((1, 1))

    desk = Desk()
    desk.thinker.mind = Deaf()
    desk.operator.hear("move left")
    assert desk.think() is not None
    desk.operator.hear("ok")
    assert desk.think() is not None
    assert desk.thinker.counts["refused"] == 1
    assert len(desk.answers) == 1


def test_a_mind_learns_how_many_of_its_steps_nobody_asked_about() -> None:
    desk = Desk()
    for _ in range(3):
        desk.think()  # every 100 ms, five steps of 20 ms, one of which the observation stands for
    assert desk.mind.elapsed == [4, 4]
