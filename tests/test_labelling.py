"""The labelling page's server: what it keeps of an answer, whom it refuses, how one comes back."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from embodied.data.held_out import linked
from embodied.data.preferences import Preferences, Segments
from embodied.labelling.server import Film, LabelServer, montage
from embodied.labelling.session import Session, draw_questions

ROOT = Path(__file__).parents[1]
FIRST = Segments(np.array([0, 1, 2]), np.array([0, 3, 1]), 4)
SECOND = Segments(np.array([3, 4, 0]), np.array([2, 0, 5]), 4)


class Kept:
    """Remembers what it was given to save."""

    def __init__(self, fails: int = 0) -> None:
        self.last: Preferences | None = None
        self.fails = fails

    def __call__(self, preferences: Preferences) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError(28, "No space left on device")
        self.last = preferences


def session(kept: Kept, before: Preferences | None = None) -> Session:
    return Session(FIRST, SECOND, labeller="ann", save=kept, before=before)


def say(question: int, answer: str) -> bytes:
    return json.dumps({"question": question, "answer": answer}).encode()


def test_answers_become_labels_of_the_right_segments() -> None:
    kept = Kept()
    asked = session(kept)
    for question, word in enumerate(("left", "equal", "right")):
        asked.answer(say(question, word))
    assert kept.last is not None
    assert kept.last.second_better.tolist() == [0.0, 0.5, 1.0]
    assert kept.last.labeller == ("ann",) * 3
    np.testing.assert_array_equal(kept.last.first.episode, FIRST.episode)
    np.testing.assert_array_equal(kept.last.second.start, SECOND.start)
    assert asked.progress() == {"total": 3, "answered": 3, "skipped": 0, "next": None}


def test_each_answer_is_kept_before_the_page_is_told() -> None:
    kept = Kept()
    assert session(kept).answer(say(1, "right"))["answered"] == 1
    assert kept.last is not None
    assert kept.last.first.episode.tolist() == [1]


def test_what_is_skipped_is_not_kept_and_is_asked_again_another_time() -> None:
    kept = Kept()
    asked = session(kept)
    assert asked.answer(say(0, "skip")) == {"total": 3, "answered": 0, "skipped": 1, "next": 1}
    assert kept.last is None
    asked.answer(say(1, "left"))
    assert session(Kept(), kept.last).next() == 0


def test_an_answer_may_be_given_anew_or_taken_back() -> None:
    kept = Kept()
    asked = session(kept)
    asked.answer(say(0, "left"))
    asked.answer(say(0, "right"))
    assert kept.last is not None
    assert kept.last.second_better.tolist() == [1.0]
    asked.answer(say(0, "skip"))
    assert len(kept.last) == 0


def test_who_comes_back_goes_on_and_the_labels_of_others_stay() -> None:
    kept = Kept()
    theirs = Preferences(
        Segments(np.array([7]), np.array([0]), 4),
        Segments(np.array([8]), np.array([0]), 4),
        np.array([1.0], np.float32),
        ("bob",),
    )
    asked = session(kept, theirs)
    asked.answer(say(0, "equal"))
    again = session(kept, kept.last)
    assert again.next() == 1
    assert again.progress()["answered"] == 1
    again.answer(say(1, "left"))
    assert kept.last is not None
    assert kept.last.labeller == ("bob", "ann", "ann")
    assert kept.last.second_better.tolist() == [1.0, 0.5, 0.0]


def test_a_disk_that_refuses_changes_nothing() -> None:
    asked = session(Kept(fails=1))
    with pytest.raises(OSError, match="No space"):
        asked.answer(say(0, "left"))
    assert asked.progress()["answered"] == 0
    assert asked.answer(say(0, "left"))["answered"] == 1


@given(st.lists(st.integers(4, 30), min_size=10, max_size=30), st.integers(10, 40))
def test_questions_lie_in_episodes_and_some_share_none_with_the_others(
    lengths: list[int], count: int
) -> None:
    first, second = draw_questions(lengths, 4, count, held_out=0.2, seed=3)
    assert len(first) == len(second) == round(0.8 * count) + round(0.2 * count)
    for side in (first, second):
        side.check(lengths)
    answered = Preferences(first, second, np.zeros(len(first), np.float32), ("",) * len(first))
    assert len(set(linked(answered).tolist())) > 1


HOSTILE: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "must be JSON"),
    "no text": (b"\xff\xfe", "must be JSON"),
    "too deep": (b"[" * 100_000, "must be JSON"),
    "a list": (b"[0]", "an object of question and answer"),
    "a field too few": (b'{"question": 0}', "an object of question and answer"),
    "a field too many": (b'{"question": 0, "answer": "left", "who": 1}', "an object of"),
    "no such question": (say(3, "left"), "question must be a whole number from 0 to 2, got 3"),
    "a negative one": (say(-1, "left"), "from 0 to 2, got -1"),
    "true": (b'{"question": true, "answer": "left"}', "whole number"),
    "text": (b'{"question": "0", "answer": "left"}', "whole number"),
    "half of one": (b'{"question": 0.5, "answer": "left"}', "whole number"),
    "another word": (say(0, "both"), "answer must be one of left, right, equal, skip, got 'both'"),
    "a list of words": (b'{"question": 0, "answer": ["left"]}', "answer must be one of"),
}


class Served:
    """A server that runs."""

    def __init__(self, kept: Kept, draw: Film | None = None) -> None:
        self.kept = kept
        self.server = LabelServer(
            session(kept), draw or film, "127.0.0.1", 0, rate_hz=20.0, title="<b>open</b>", every=2
        )
        self.thread = threading.Thread(target=self.server.wait, daemon=True)
        self.thread.start()

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        connection = http.client.HTTPConnection(
            f"127.0.0.1:{self.server.server_address[1]}", timeout=10
        )
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":
            names = {"Content-Type": "application/json", **names}
        connection.request(method, path, body, names)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def answer(self, question: int, word: str) -> Any:
        status, body = self.call("POST", "/answer", say(question, word))
        return status, json.loads(body)

    def close(self) -> None:
        for question in range(3):
            if self.thread.is_alive():
                self.answer(question, "left")
        self.thread.join(5)
        assert not self.thread.is_alive()
        self.server.server_close()


def film(episode: int, start: int, length: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Frames whose grey tells their episode and step."""
    steps = np.arange(start, start + length)
    grey = (40 * episode + 10 * steps).astype(np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (length, 16, 24, 3))


@pytest.fixture
def served() -> Iterator[Served]:
    running = Served(Kept())
    yield running
    running.close()


def test_the_page_is_one_file_that_asks_nobody_else(served: Served) -> None:
    status, page = served.call("GET", "/")
    assert status == 200
    assert b"http://" not in page
    assert b"https://" not in page
    facts = json.loads(served.call("GET", "/facts")[1])
    assert (facts["frames"], facts["interval_ms"], facts["title"]) == (2, 100.0, "<b>open</b>")


def test_a_clip_shows_the_segment_in_order(served: Served) -> None:
    for question, side, episode, start in ((1, "left", 1, 3), (2, "right", 0, 5)):
        status, body = served.call("GET", f"/clip/{question}/{side}.jpg")
        sheet = np.asarray(Image.open(io.BytesIO(body)).convert("L")).astype(int)
        assert (status, sheet.shape) == (200, (16, 8 * 24))
        seen = [sheet[8, 24 * i + 12] for i in range(2)]
        np.testing.assert_allclose(seen, [40 * episode + 10 * (start + s) for s in (0, 2)], atol=4)


def test_the_thread_that_waits_draws_whoever_asks() -> None:
    """A context of OpenGL is of one thread."""
    threads = set()

    def draw(*segment: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        threads.add(threading.get_ident())
        return film(*segment)

    running = Served(Kept(), draw)
    paths = [f"/clip/{i}/{side}.jpg" for i in range(3) for side in ("left", "right")]
    with ThreadPoolExecutor(len(paths)) as people:
        answers = list(people.map(lambda path: running.call("GET", path), paths))
    waiting = running.thread.ident
    running.close()
    assert [status for status, _ in answers] == [200] * len(paths)
    assert threads == {waiting}


def test_frames_go_on_in_the_next_row() -> None:
    sheet = np.asarray(Image.open(io.BytesIO(montage(film(0, 0, 11)))).convert("L")).astype(int)
    assert sheet.shape == (32, 8 * 24)
    np.testing.assert_allclose([sheet[8, 12], sheet[24, 2 * 24 + 12]], [0, 100], atol=4)
    assert sheet[24, 5 * 24] < 8  # no frame


def test_the_program_ends_once_nothing_is_left_to_ask(served: Served) -> None:
    assert served.answer(0, "left")[1]["next"] == 1
    assert served.answer(1, "skip")[1]["next"] == 2
    assert served.thread.is_alive()
    assert served.answer(2, "equal")[1]["next"] is None
    served.thread.join(5)
    assert not served.thread.is_alive()
    assert served.kept.last is not None
    assert served.kept.last.second_better.tolist() == [0.0, 0.5]


@pytest.mark.parametrize("case", HOSTILE)
def test_a_message_that_is_no_answer_is_refused_and_keeps_nothing(
    case: str, served: Served
) -> None:
    message, says = HOSTILE[case]
    status, body = served.call("POST", "/answer", message)
    assert status == 400
    assert says in json.loads(body)["error"]
    assert len(json.loads(body)["error"]) < 200
    assert served.kept.last is None


REFUSED: dict[str, tuple[str, str, dict[str, str], int]] = {
    "another site": ("POST", "/answer", {"Origin": "http://evil.example"}, 403),
    "another local page": ("POST", "/answer", {"Origin": "http://127.0.0.1:1"}, 403),
    "a file": ("POST", "/answer", {"Origin": "null"}, 403),
    "a foreign host": ("GET", "/clip/0/left.jpg", {"Host": "evil.example"}, 403),
    "a form": ("POST", "/answer", {"Content_Type": "text/plain"}, 415),
    "no length": ("POST", "/answer", {"Content_Length": "x"}, 411),
    "too long": ("POST", "/answer", {"Content_Length": "9" * 12}, 413),
    "another path": ("GET", "/../secret", {}, 404),
    "a clip that is none": ("GET", "/clip/3/left.jpg", {}, 404),
    "a clip to post to": ("POST", "/clip/0/left.jpg", {}, 404),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_from_elsewhere_is_refused(case: str, served: Served) -> None:
    method, path, headers, status = REFUSED[case]
    body = say(0, "left") if method == "POST" else None
    assert served.call(method, path, body, **headers)[0] == status
    assert served.kept.last is None


def test_a_full_disk_is_told_and_the_answer_may_be_given_again() -> None:
    running = Served(Kept(fails=1))
    try:
        status, told = running.answer(0, "right")
        assert status == 500
        assert "No space left" in told["error"]
        assert running.answer(0, "right")[0] == 200
    finally:
        running.close()


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from embodied.data.preferences import Segments
from embodied.labelling import Session, ask_for_labels
from embodied.structs import Episode
from embodied_datasets.compared import load_preferences, save_preferences, sets

path = Path(sys.argv[1])
rng = np.random.default_rng(0)
episodes = [
    Episode(rng.normal(size=(9, 2)).astype("f4"), rng.normal(size=(9, 1)).astype("f4"), "go")
    for _ in range(5)
]
first = Segments(np.array([0, 1, 2]), np.array([0, 3, 1]), 4)
second = Segments(np.array([3, 4, 0]), np.array([2, 0, 5]), 4)
before = load_preferences(path, "mine", episodes) if "mine" in sets(path) else None
session = Session(
    first, second, labeller="ann", before=before,
    save=lambda said: save_preferences(path, "mine", said, episodes),
)
film = lambda episode, start, length: np.zeros((length, 8, 8, 3), np.uint8)
announce = lambda url: print(session.next(), url, flush=True)
ask_for_labels(session, film, announce=announce, rate_hz=10.0)
print(session.progress(), load_preferences(path, "mine", episodes).second_better.tolist())
"""


def test_a_program_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    def start() -> tuple[subprocess.Popen[str], str, str]:
        running = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert running.stdout is not None
        question, _, url = running.stdout.readline().strip().partition(" ")
        return running, question, url.removeprefix("http://").rstrip("/")

    def answer(address: str, question: int, word: str) -> int:
        connection = http.client.HTTPConnection(address, timeout=10)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/answer", say(question, word), headers)
        return connection.getresponse().status

    running, question, address = start()
    assert question == "0"
    assert answer(address, 0, "right") == 200
    running.send_signal(signal.SIGKILL)
    running.wait(10)
    running, question, address = start()
    assert question == "1"
    assert answer(address, 1, "equal") == 200
    assert answer(address, 2, "left") == 200
    told, _ = running.communicate(timeout=10)
    assert told.strip().endswith("[1.0, 0.5, 0.0]")
