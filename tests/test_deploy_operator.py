"""What people say to a running robot: stop words first, the rest numbered or refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodied.conditions import Language, LanguageMotion, Sketch
from embodied.deploy.clock import SECOND, VirtualClock
from embodied.deploy.instructions import MAX_CHARACTERS
from embodied.deploy.operator import Operator, Speech
from embodied.deploy.watchdog import Event
from embodied.deploy.words import Kind, Word, points_in, sketch_of, with_duration
from embodied.people.terminal import Phrasebook

PHRASES = ("move left", "move right", "close gripper")


class Ear:
    """An operator, and all that it did."""

    def __init__(self, **speech: Any) -> None:
        self.clock = VirtualClock(SECOND)
        self.orders: list[Event] = []
        self.answers: list[str] = []
        self.notes: list[Word] = []
        self.ends: list[bool | None] = []
        given = {"book": Phrasebook(PHRASES, is_open=False), "level": "motion", **speech}
        self.operator = Operator(
            Speech(**given),
            clock=self.clock,
            order=self.orders.append,
            say=self.answers.append,
            note=self.notes.append,
            end=self.ends.append,
            who="ada",
        )

    def hear(self, *lines: str) -> list[Word]:
        for line in lines:
            self.operator.hear(line)
        return self.operator.due()


@pytest.mark.parametrize("line", ["stop", " STOP!\n", "Freeze.", "halt", "emergency stop"])
def test_a_stop_word_stops_before_anything_else_is_looked_at(line: str) -> None:
    ear = Ear()
    ear.operator.speech = None  # type: ignore[assignment]  # who looked would fail
    assert ear.hear(line) == []
    assert ear.orders == [Event.STOP]
    assert [(word.kind, word.number) for word in ear.notes] == [(Kind.NOTE, 0)]


def test_a_stop_word_stops_while_the_policy_is_being_told_something() -> None:
    ear = Ear()
    with ear.operator._lock:  # the order is out before the lock is asked for
        import threading

        speaker = threading.Thread(target=ear.operator.hear, args=("stop",), daemon=True)
        speaker.start()
        speaker.join(0.2)
        assert ear.orders == [Event.STOP]
    speaker.join(5)


def test_a_phrase_is_a_correction_with_a_new_number_until_it_is_released() -> None:
    ear = Ear()
    (word,) = ear.hear("move left")
    assert (word.number, word.kind, word.level) == (1, Kind.CORRECTION, "motion")
    assert (word.parts, word.until, word.who) == ((LanguageMotion("move left"),), None, "ada")
    (word,) = ear.hear("ok")
    assert (word.number, word.kind) == (2, Kind.RELEASE)
    assert ear.hear("", "ok") == []  # nothing holds that could be released
    assert [each.number for each in ear.notes] == [1, 2]


def test_a_phrase_holds_for_as_long_as_is_said_and_then_releases_itself() -> None:
    ear = Ear(hold_s=5.0)
    (word,) = ear.hear("move left for 1.5 s")
    assert (word.text, word.until) == ("move left", SECOND + 1_500_000_000)
    ear.clock.sleep_until(word.until - 1)
    assert ear.operator.due() == []
    ear.clock.sleep_until(word.until)
    assert [(each.number, each.kind) for each in ear.operator.due()] == [(2, Kind.RELEASE)]
    assert ear.operator.due() == []
    (word,) = ear.hear("move right")
    assert word.until == ear.clock.now() + 5 * SECOND


def test_an_unknown_phrase_gets_the_nearest_known_and_changes_nothing() -> None:
    ear = Ear()
    assert ear.hear("mvoe left") == []
    assert "did you mean 'move left'" in ear.answers[0]
    assert ear.operator.number == 0
    assert [(each.kind, each.text) for each in ear.notes] == [(Kind.NOTE, "mvoe left")]


def test_policies_without_phrases_are_given_instructions_in_any_words() -> None:
    ear = Ear(book=Phrasebook((), is_open=True), level="task")
    (word,) = ear.hear("pick up the red cup")
    assert (word.level, word.parts) == ("subtask", (Language("pick up the red cup"),))


def test_another_task_is_told_for_good_and_corrects_nothing() -> None:
    ear = Ear()
    ear.hear("move left")
    (word,) = ear.hear("task go to the blue pad")
    assert (word.kind, word.level, word.text) == (Kind.TASK, None, "go to the blue pad")
    assert word.parts == (Language("go to the blue pad"),)
    (release,) = ear.hear("ok")  # the correction still holds beside it
    assert release.kind is Kind.RELEASE


def test_a_drawn_path_becomes_a_sketch_of_the_policys_size() -> None:
    ear = Ear(sketch=(8, 16))
    (word,) = ear.hear("draw 0,0 1,1")
    (sketch,) = word.parts
    assert isinstance(sketch, Sketch)
    assert (word.level, sketch.image.shape) == ("sketch", (8, 16, 3))
    assert sketch.image[0, 0].any()
    assert sketch.image[7, 15].any()
    assert not sketch.image[7, 0].any()
    refused = Ear()
    assert refused.hear("draw 0,0 1,1") == []
    assert "takes no sketches" in refused.answers[0]


@pytest.mark.parametrize("text", ["0.5,0.5", "0,0 2,1", "0,0 a,b", "", "0,0 0.1;0.1"])
def test_what_is_no_path_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no point|needs 2 points"):
        points_in(text)
    ear = Ear(sketch=(8, 8))
    assert ear.hear(f"draw {text}") == []
    assert ear.operator.number == 0


def test_heights_of_a_path_are_drawn_in_green() -> None:
    low_to_high = sketch_of(points_in("0,0.5,0 1,0.5,1"), (9, 9)).image
    greens = low_to_high[4, :, 1]
    assert greens[0] < greens[8]
    assert (
        not sketch_of(points_in("0,0.5,0 1,0.5,1"), (9, 9), with_height=False).image[..., 1].any()
    )


def test_controls_are_taken_where_there_are_some() -> None:
    ear = Ear(hands=True)
    (word,) = ear.hear("take")
    assert (word.kind, word.level) == (Kind.TAKE_OVER, "action")
    assert [each.kind for each in ear.hear("give")] == [Kind.RELEASE]
    nobody = Ear()
    assert nobody.hear("take") == []
    assert "teleop=keyboard" in nobody.answers[0]


def test_orders_and_endings_reach_those_whom_they_concern() -> None:
    ear = Ear()
    assert ear.hear("arm", "Disarm", "reset", "good", "bad", "quit") == []
    assert ear.orders == [Event.ARM, Event.DISARM, Event.RESET]
    assert ear.ends == [True, False, None]
    assert [each.text for each in ear.notes] == ["arm", "Disarm", "reset", "good", "bad", "quit"]
    ear.hear("help")
    assert any("move left" in answer for answer in ear.answers)


@given(st.lists(st.text(max_size=40) | st.sampled_from([*PHRASES, "ok", "stop", "take", "draw"])))
def test_whatever_is_said_is_bounded_numbered_upwards_and_never_raises(lines: list[str]) -> None:
    ear = Ear(hands=True)
    ear.hear(*lines)
    numbers = [word.number for word in ear.notes]
    assert numbers == sorted(numbers)
    assert all(len(word.text) <= MAX_CHARACTERS and word.text.isprintable() for word in ear.notes)
    assert ear.operator.number == max(numbers, default=0)


def test_durations_are_told_from_words() -> None:
    assert with_duration("move left for 2 s") == ("move left", 2.0)
    assert with_duration("move left for 0.5s") == ("move left", 0.5)
    assert with_duration("wait for it") == ("wait for it", None)
