"""A session as an episode: which step each tick is, who moved the robot, and what was said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodied.conditions import Language, LanguageMotion
from embodied.deploy.clock import SECOND
from embodied.deploy.episodes import SOURCES, Setting, Tape
from embodied.deploy.feed import Moment
from embodied.deploy.journal import Tick
from embodied.deploy.mail import Seen
from embodied.deploy.thinker import Thought
from embodied.deploy.watchdog import State
from embodied.deploy.words import Kind, Word
from embodied.people.interventions import read_interventions
from embodied.people.narration import held
from embodied.structs import Episode, Spec

MS = SECOND // 1000
START = 5 * SECOND
FEATURES: dict[str, Any] = {"x.pos": float, "top": (1, 1, 3), "side": (1, 1, 3)}
SPEC = Spec(1, 1, (-1.0,), (1.0,), 50.0, {"top": (1, 1)})
SETTING = Setting(SPEC, FEATURES, "go", level="motion", info={"robot": "arm"})


def moment(
    number: int, *, at: int | None = None, state: State = State.RUN, **fields: Any
) -> Moment:
    """Tick `number` at 50 Hz, which was asked and sent a tenth of its number."""
    time = START + number * 20 * MS if at is None else START + at
    image = np.full((1, 1, 3), number % 256, np.uint8)
    values = {"x.pos": float(number), "top": image, "side": image}
    action = np.array([number / 10])
    tick = Tick(time, state, action, action, (), 30 * MS, number, 0)
    return Moment(number, replace(tick, **fields), Seen(time, values, action, state))


def tape(moments: list[Moment], *heard: Word | Thought) -> Tape:
    found = Tape()
    for each in (*moments, *heard):
        found.note(each)
    return found


def made(found: Tape, **fields: Any) -> Episode:
    given = {"success": True, "terminated": False, "info": {"why": "asked"}}
    episode = found.episode(SETTING, **{**given, **fields})
    assert episode is not None
    return episode


def said(number: int, at: int, text: str, kind: Kind = Kind.CORRECTION, **fields: Any) -> Word:
    level = {Kind.CORRECTION: "motion", Kind.TAKE_OVER: "action"}.get(kind)
    parts = (LanguageMotion(text),) if kind is Kind.CORRECTION else ()
    given: dict[str, Any] = {"level": level, "parts": parts, "who": "ada", **fields}
    return Word(number, START + at * MS, kind, text, **given)


def test_an_episode_goes_from_the_first_plan_to_the_last_tick_that_moved_or_held() -> None:
    quiet = {"asked": None, "sent": None, "age": -1, "request_id": -1, "instruction_id": -1}
    moments = [
        *(moment(i, state=State.IDLE, **quiet) for i in range(3)),
        moment(3, state=State.ARMED, **quiet),
        *(moment(i) for i in range(4, 8)),
        moment(8, state=State.HOLD, asked=None, age=-1, request_id=-1, instruction_id=-1),
        *(moment(i, state=State.STOPPED, asked=None) for i in range(9, 12)),
    ]
    episode = made(tape(moments))
    assert episode.state[:, 0].tolist() == [4, 5, 6, 7, 8]
    np.testing.assert_allclose(episode.action[:, 0], [0.4, 0.5, 0.6, 0.7, 0.8], rtol=1e-6)
    assert episode.final["state"].tolist() == [9]
    assert episode.images.keys() == {"top"}
    assert episode.images["top"][:, 0, 0, 0].tolist() == [4, 5, 6, 7, 8]
    assert episode.extras["holds"].tolist() == [False] * 4 + [True]
    assert [SOURCES[i] for i in episode.extras["source"]] == ["policy"] * 4 + ["safety"]
    np.testing.assert_allclose(episode.extras["chunk_age_s"], [0.03] * 4 + [-1.0])
    assert (episode.success, episode.terminated, episode.truncated) == (True, False, True)
    assert (episode.info["robot"], episode.info["why"]) == ("arm", "asked")


def test_where_no_plan_was_followed_there_is_no_episode() -> None:
    moments = [moment(i, state=State.ARMED, asked=None, sent=None) for i in range(5)]
    assert tape(moments).episode(SETTING, success=False, terminated=False, info={}) is None


def test_steps_are_equally_far_apart_though_ticks_come_late_or_are_missing() -> None:
    late = [moment(i, at=i * 20 * MS + (3 * MS if i % 2 else 0)) for i in range(10)]
    assert made(tape(late)).state[:, 0].tolist() == list(range(10))
    missing = [moment(i) for i in (0, 1, 4, 5)]
    episode = made(tape(missing))
    assert episode.state[:, 0].tolist() == [0, 1, 1, 1, 4, 5]
    assert (episode.info["lost_ticks"], episode.info["filled_steps"]) == (2, 2)


def test_a_lower_rate_keeps_the_tick_nearest_to_each_step() -> None:
    setting = replace(SETTING, spec=replace(SPEC, rate_hz=10.0))
    episode = tape([moment(i) for i in range(21)]).episode(
        setting, success=False, terminated=False, info={}
    )
    assert episode is not None
    assert episode.state[:, 0].tolist() == [0, 5, 10, 15, 20]


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=60))
def test_ticks_within_half_a_step_of_their_time_are_all_kept_in_order(jitters: list[int]) -> None:
    moments = [moment(i, at=i * 20 * MS + late * MS) for i, late in enumerate(jitters)]
    first = jitters[0]
    near = all(abs(late - first) < 10 for late in jitters)
    steps = made(tape(moments)).state[:, 0].tolist()
    assert steps == sorted(steps)
    if near:
        assert steps == list(range(len(jitters)))


def test_what_was_limited_is_told_from_what_was_asked() -> None:
    moments = [moment(0), moment(1, asked=np.array([0.9]), flags=("velocity", "box"))]
    episode = made(tape(moments))
    np.testing.assert_allclose(episode.extras["asked"][:, 0], [0.0, 0.9], rtol=1e-6)
    np.testing.assert_allclose(episode.action[:, 0], [0.0, 0.1], rtol=1e-6)
    assert episode.extras["clipped"].tolist() == [[False] * 4, [False, True, False, True]]
    assert [SOURCES[i] for i in episode.extras["source"]] == ["policy", "safety"]


def test_a_correction_is_kept_with_the_steps_that_were_executed_under_it() -> None:
    """Said at step 2, taken up at step 4, released at step 6 and so no longer obeyed from 7."""
    numbers = [0, 0, 0, 0, 1, 1, 1, 2, 2]
    moments = [moment(i, instruction_id=number) for i, number in enumerate(numbers)]
    phrases = ["own", "own", "own", "own", "move left", "move left", "move left", "mine", "mine"]
    thoughts = [Thought(i, phrase, 0, 0.02) for i, phrase in enumerate(phrases)]
    words = [said(1, 40, "move left"), said(2, 120, "ok", Kind.RELEASE)]
    episode = made(tape(moments, *thoughts, *words))
    (found,) = read_interventions(episode)
    assert (found.step, found.since, found.last) == (2, 4, 6)
    assert (found.level, found.words, found.who, found.said) == (
        "motion",
        "move left",
        "ada",
        "own",
    )
    assert episode.extras["is_intervention"].tolist() == [x == 1 for x in numbers]
    assert held(episode, "motion") == [
        *[("own", "assistant")] * 4,
        *[("move left", "user")] * 3,
        *[("mine", "assistant")] * 2,
    ]
    spoken = [(x.step, x.content) for x in episode.annotations if x.style == "interjection"]
    assert spoken == [(2, "move left"), (6, "ok")]
    assert episode.info["delay_p95_s"] == pytest.approx(0.02)


def test_a_correction_that_came_too_late_was_executed_at_no_step() -> None:
    moments = [moment(i) for i in range(4)]
    episode = made(tape(moments, said(1, 60, "move left"), said(2, 5000, "move right")))
    (found,) = read_interventions(episode)
    assert (found.step, found.since, found.last) == (3, None, None)
    assert not episode.extras["is_intervention"].any()
    spoken = [(x.step, x.content) for x in episode.annotations]
    assert spoken == [(3, "move left"), (3, "move right")]  # what was said last of all is kept too


def test_what_the_persons_hands_did_is_theirs_and_another_task_does_not_end_it() -> None:
    numbers = [0, 1, 1, 2, 2, 3]
    moments = [moment(i, instruction_id=number) for i, number in enumerate(numbers)]
    words = [
        said(1, 10, "take", Kind.TAKE_OVER),
        said(2, 50, "tidy up", Kind.TASK, parts=(Language("tidy up"),)),
        said(3, 90, "give", Kind.RELEASE),
    ]
    episode = made(tape(moments, *words))
    (found,) = read_interventions(episode)
    assert (found.level, found.content, found.since, found.last) == ("action", {}, 1, 4)
    sources = [SOURCES[i] for i in episode.extras["source"]]
    assert sources == ["policy", *["person"] * 4, "policy"]
    assert episode.info["tasks"] == [[2, "tidy up"]]


def test_demonstrations_are_the_persons_and_correct_nobody() -> None:
    setting = replace(SETTING, actor="person")
    moments = [moment(0), moment(1, flags=("box",))]
    episode = tape(moments).episode(setting, success=True, terminated=False, info={})
    assert episode is not None
    assert [SOURCES[i] for i in episode.extras["source"]] == ["person", "safety"]
    assert not episode.extras["is_intervention"].any()


def test_a_stop_word_is_part_of_the_record() -> None:
    moments = [moment(i) for i in range(3)]
    episode = made(tape(moments, said(0, 70, "stop", Kind.NOTE)))
    assert [(x.step, x.style, x.content, x.role) for x in episode.annotations] == [
        (2, "interjection", "stop", "user")
    ]
    assert read_interventions(episode) == ()
