"""One record for all corrections: kept in a data set, told in annotations, never trusted."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from embodied.conditions import GoalImage, GoalState, Language, LanguageMotion, Part, Sketch
from embodied.people.interventions import (
    Intervention,
    content_of,
    read_interventions,
    to_json,
)
from embodied.people.narration import Early, Skills, hastened, narrate, segments
from embodied.structs import Annotation, Episode, Spec
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.lerobot_writer import LeRobotWriter

SPEC = Spec(2, 2, (-1.0, -1.0), (1.0, 1.0), 10.0)
PICTURE = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
PARTS: dict[str, list[Part]] = {
    "motion": [LanguageMotion("move arm left and close gripper")],
    "subtask": [Language("öffne die Schublade")],
    "sketch": [Sketch(PICTURE)],
    "goal": [GoalState(np.array([0.1, -2.5e-9], np.float32)), GoalImage({"top": PICTURE})],
    "action": [],
}


def record(level: Any = "motion", **fields: Any) -> Intervention:
    usual = Intervention(2, 3, 5, level, content_of(PARTS[level]), "simulated", "hold still")
    return replace(usual, **fields)


def episode(length: int = 8, **fields: Any) -> Episode:
    state = np.linspace(0, 1, 2 * length, dtype=np.float32).reshape(length, 2)
    return Episode(state=state, action=state / 2, instruction="tidy up", truncated=True, **fields)


def read(facts: Any) -> tuple[Intervention, ...]:
    return read_interventions(episode(info={"interventions": facts}))


def is_same(a: Part, b: Part) -> bool:
    if isinstance(a, GoalImage) and isinstance(b, GoalImage):
        return all(np.array_equal(a.images[name], b.images[name]) for name in a.images | b.images)
    if isinstance(a, GoalState) and isinstance(b, GoalState):
        return np.array_equal(a.state, b.state)
    if isinstance(a, Sketch) and isinstance(b, Sketch):
        return np.array_equal(a.image, b.image)
    return a == b


@pytest.mark.parametrize("level", sorted(PARTS))
def test_a_record_and_its_parts_come_back_from_a_lerobot_data_set(
    level: str, tmp_path: Path
) -> None:
    written = (record(level), record(level, step=6, since=None, last=None))
    said = ["hold still"] * 8
    notes = narrate(said, written, level="motion")
    one = episode(info={"interventions": to_json(written)}, annotations=notes)
    with LeRobotWriter(tmp_path / "set", spec=SPEC) as writer:
        writer.add("one", one)
        writer.finalize()
    (found,) = LeRobotDataset(tmp_path / "set")
    assert read_interventions(found) == written
    assert found.annotations == notes
    for parts in (each.parts for each in read_interventions(found)):
        assert all(is_same(a, b) for a, b in zip(parts, PARTS[level], strict=True))


def test_an_episode_without_a_record_has_no_interventions() -> None:
    assert read_interventions(episode()) == ()


def hostile() -> Iterator[Any]:
    good = json.loads(json.dumps(to_json([record()])))[0]
    yield "text"
    yield {"0": good}
    yield [good] * 10_001
    yield ["text"]
    yield [{name: good[name] for name in good if name != "who"}]
    yield [good | {"__class__": "os.system"}]
    for name, values in {
        "level": ["shout", 1, None, ["motion"]],
        "step": [-1, 8, 1.0, True, "1", None],
        "since": [None, 1, 6, 8, "3"],
        "last": [None, 2, 8, 1e300],
        "who": [None, 3, "x" * 16_000_001],
        "said": [None, ["hold still"]],
        "content": [
            None,
            "move",
            {},
            {"Language": 3},
            {"Gesture": "wave"},
            {"Language": "x" * 16_000_001},
        ],
    }.items():
        for value in values:
            yield [good | {name: value}]
    yield [good | {"level": "action"}]


@pytest.mark.parametrize("facts", list(hostile()), ids=lambda facts: str(facts)[:80])
def test_a_record_that_no_writer_wrote_is_refused(facts: Any) -> None:
    with pytest.raises(ValueError, match="intervention"):
        read(facts)


def png(width: int, height: int) -> str:
    """A picture that says how large it is and has a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"x\x9c") + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(content).decode()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("GoalState", "[1, NaN]"),
        ("GoalState", "[1e999]"),
        ("GoalState", "[" + "1" * 400 + "]"),
        ("GoalState", "[[1, 2], [3, 4]]"),
        ("GoalState", "[true]"),
        ("GoalState", "{}"),
        ("GoalState", "[]"),
        ("GoalState", "[" * 100_000),
        ("GoalState", "__import__('os')"),
        ("GoalImage", "[1]"),
        ("GoalImage", '{"top": 3}'),
        ("Sketch", "file:///etc/passwd"),
        ("Sketch", "data:image/png;base64,%%%"),
        ("Sketch", "data:image/png;base64,AAAA"),
        ("Sketch", png(8, 8)),
        ("Sketch", png(5000, 5000)),
        ("Sketch", png(100_000, 100_000)),
    ],
)
def test_parts_that_nobody_gave_are_refused(kind: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"picture|content|Incorrect padding|base64"):
        _ = record("sketch", content={kind: text}).parts


def test_what_was_said_and_what_held_become_annotations() -> None:
    said = ["a", "a", "b", "left", "left", "left", "b", "b"]
    words = {"LanguageMotion": "left"}
    found = narrate(said, [record(content=words)], level="motion")
    assert found == (
        Annotation("motion", "a", 0),
        Annotation("motion", "b", 2),
        Annotation("interjection", "left", 2, role="user"),
        Annotation("motion", "left", 3, role="user"),
        Annotation("motion", "b", 6),
    )


def test_words_that_were_never_obeyed_were_said_but_did_not_hold() -> None:
    late = record(step=7, since=None, last=None, content={"LanguageMotion": "left"})
    found = narrate(["a"] * 8, [late], level="motion")
    assert found == (
        Annotation("motion", "a", 0),
        Annotation("interjection", "left", 7, role="user"),
    )


def test_corrections_of_a_policy_that_says_nothing_end_in_silence() -> None:
    found = narrate([""] * 8, [record("subtask", content={"Language": "stop"})])
    assert [(a.step, a.content, a.role) for a in found if a.style == "subtask"] == [
        (0, "", "assistant"),
        (3, "stop", "user"),
        (6, "", "assistant"),
    ]


def test_a_picture_is_not_narrated() -> None:
    assert narrate([""] * 8, [record("sketch")]) == ()


def corrected() -> Episode:
    """Ten steps at 10 Hz: "a" in [0, 3), "b" in [3, 6), corrected to "c" in [6, 8), "b" again."""
    said = ["a"] * 3 + ["b"] * 3 + ["c"] * 2 + ["b"] * 2
    one = record("subtask", step=5, since=6, last=7, content={"Language": "c"})
    return episode(
        10, annotations=narrate(said, [one]), info={"interventions": to_json([one]), "seed": 3}
    )


def test_segments_know_which_of_them_a_correction_ended() -> None:
    found = [(s.start, s.stop, s.words, s.role, s.mistaken) for s in segments(corrected())]
    assert found == [
        (0, 3, "a", "assistant", False),
        (3, 6, "b", "assistant", True),
        (6, 8, "c", "user", False),
        (8, 10, "b", "assistant", False),
    ]


@pytest.mark.parametrize(
    ("margin", "expected"),
    [(0, "aaabbbccbb"), (2, "aaabccccbb"), (4, "aaccccccbb"), (99, "ccccccccbb")],
)
def test_a_correction_should_have_been_said_some_steps_before(margin: int, expected: str) -> None:
    early = hastened(corrected(), margin)
    found = [(s.start, s.stop, s.words) for s in segments(early)]
    assert "".join(words * (stop - start) for start, stop, words in found) == expected
    assert [a for a in early.annotations if a.style == "interjection"] == [
        Annotation("interjection", "c", 5, role="user")
    ]


def test_a_margin_never_covers_what_a_person_said_before() -> None:
    said = ["a"] * 2 + ["c"] * 2 + ["d"] * 2 + ["a"] * 2
    first = record("subtask", step=2, since=2, last=3, content={"Language": "c"})
    second = record("subtask", step=4, since=4, last=5, content={"Language": "d"})
    early = hastened(episode(annotations=narrate(said, [first, second])), 3)
    assert [(s.start, s.words) for s in segments(early)] == [(0, "c"), (4, "d"), (6, "a")]


class Few:
    """Episodes in memory."""

    spec = SPEC
    fingerprint = "few"

    def __init__(self, *episodes: Episode) -> None:
        self._episodes = episodes

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int) -> Episode:
        return self._episodes[index]

    def __iter__(self) -> Iterator[Episode]:
        return iter(self._episodes)


def test_a_margin_is_given_in_seconds() -> None:
    early = Early(Few(corrected()), margin_s=0.2)
    assert early.margin == 2
    assert early[0].annotations == hastened(corrected(), 2).annotations
    fifty_hz = Few(corrected())
    fifty_hz.spec = replace(SPEC, rate_hz=50.0)
    assert Early(fifty_hz).margin == 100  # YAY Robot's


def test_skills_leave_out_mistakes_and_what_is_too_short() -> None:
    skills = Skills(Few(corrected(), episode(4)), min_steps=2)
    words = [("a", "assistant"), ("c", "user"), ("b", "assistant"), ("tidy up", "assistant")]
    assert [
        [(a.style, a.step, a.content, a.role) for a in each.annotations] for each in skills
    ] == [[("subtask", 0, *each)] for each in words]
    assert {each.instruction for each in skills} == {"tidy up"}
    assert [len(each) for each in skills] == [3, 2, 2, 4]
    np.testing.assert_array_equal(skills[1].state, corrected().state[6:8])
    assert [len(each) for each in Skills(Few(corrected()), min_steps=3)] == [3]


def test_some_tasks_alone_are_cut_and_their_words_may_be_the_instruction() -> None:
    whole, parted = (replace(corrected(), info={"task": name}) for name in ("sort", "tidy"))
    skills = Skills(Few(whole, parted), min_steps=2, tasks=["tidy"], told=True)
    assert [len(each) for each in skills] == [len(whole), 3, 2, 2]
    assert skills[0] is whole
    assert [each.instruction for each in skills] == ["tidy up", "a", "c", "b"]
    plain = Skills(Few(whole, parted), min_steps=2, tasks=["tidy"])
    assert len({each.fingerprint for each in (skills, plain, Skills(Few(whole, parted)))}) == 3
    with pytest.raises(ValueError, match=r"no episode is of the tasks \['fold'\]"):
        Skills(Few(whole), tasks=["fold"])


def test_a_skill_is_an_episode_that_goes_on() -> None:
    first, last = Skills(Few(corrected()), min_steps=3)[0], Skills(Few(corrected()), min_steps=2)[2]
    assert first.truncated
    assert not first.terminated
    assert first.info == {"seed": 3}
    assert last.truncated is corrected().truncated
