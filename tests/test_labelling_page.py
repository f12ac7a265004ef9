"""The labelling page in a real browser: what a person does there, and what is kept."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embodied.data.preferences import Preferences, Segments
from embodied.labelling import Session, ask_for_labels
from tests import browser as browsers

EXECUTABLE = browsers.find()
pytestmark = pytest.mark.skipif(
    EXECUTABLE is None, reason=f"no browser: none of {', '.join(browsers.NAMES)} is installed"
)
FRAMES = 6


def film(episode: int, start: int, length: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Red tells the episode, green the step."""
    frames = np.zeros((length, 48, 64, 3), np.uint8)
    frames[..., 0] = 40 * episode
    frames[..., 1] = 30 * np.arange(length)[:, None, None]
    return frames


class Asked:
    """A program that waits for five answers, and the page in a browser."""

    def __init__(self) -> None:
        self.kept: list[Preferences] = []
        columns = np.arange(5)
        first, second = (
            Segments(x, np.zeros(5, np.int64), FRAMES) for x in (columns, (columns + 1) % 5)
        )
        self.session = Session(first, second, labeller="ann", save=self.kept.append)
        urls: queue.Queue[str] = queue.Queue()
        self.thread = threading.Thread(target=self._ask, args=(urls.put,), daemon=True)
        self.thread.start()
        self.url = urls.get(timeout=10)

    def _ask(self, announce: Any) -> None:
        ask_for_labels(
            self.session, film, announce=announce, rate_hz=20.0, title="<b>open</b> the drawer"
        )


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def page(asked: Asked, tmp_path: Path) -> Iterator[browsers.Browser]:
    assert EXECUTABLE is not None
    with browsers.browser(EXECUTABLE, tmp_path / "profile") as browser:
        browser.resize(1100, 800)
        browser.open(asked.url)
        browser.wait("typeof question !== 'undefined' && question === 0 && clips !== null")
        yield browser


def pixel(page: browsers.Browser, side: str) -> list[int]:
    """What a clip shows in its middle, (red, green, blue)."""
    code = f"""(() => {{
        const canvas = document.querySelector('#{side} canvas');
        return [...canvas.getContext('2d').getImageData(30, 20, 1, 1).data].slice(0, 3);
    }})()"""
    found: list[int] = page.value(code)
    return found


def test_five_pairs_are_compared_by_keys_and_mouse(page: browsers.Browser, asked: Asked) -> None:
    assert page.value("document.title") == "<b>open</b> the drawer"
    for question, act in enumerate(
        (
            lambda: page.press("ArrowLeft"),
            lambda: page.press("ArrowRight"),
            lambda: page.press("ArrowDown"),
            lambda: page.press("s"),
            lambda: page.click("#right"),
        )
    ):
        page.wait(f"question === {question} && clips !== null && !sending")
        act()
    page.wait("question === null")
    asked.thread.join(10)
    assert not asked.thread.is_alive()
    assert asked.kept[-1].second_better.tolist() == [0.0, 1.0, 0.5, 1.0]
    assert asked.kept[-1].first.episode.tolist() == [0, 1, 2, 4]
    assert "4 of 5 answered, 1 skipped. All is saved" in str(page.said())


def test_both_clips_always_show_the_same_step(page: browsers.Browser) -> None:
    """Read in one task of the page, so that no frame comes in between."""
    steps = set()
    for _ in range(30):
        left, right = page.value(
            "[...document.querySelectorAll('canvas')].map((each) => +each.dataset.frame)"
        )
        assert left == right
        steps.add(left)
        page.wait(f"+document.querySelector('canvas').dataset.frame !== {left}")
    assert steps == set(range(FRAMES))


def test_the_sides_are_not_confused_and_pause_holds_a_frame(page: browsers.Browser) -> None:
    page.press(" ")
    page.wait("paused !== null && document.querySelector('canvas').dataset.frame !== undefined")
    left, right = pixel(page, "left"), pixel(page, "right")
    frame = page.value("+document.querySelector('canvas').dataset.frame")
    assert left[0] == pytest.approx(0, abs=12)
    assert right[0] == pytest.approx(40, abs=12)
    assert left[1] == pytest.approx(30 * frame, abs=12)
    assert page.value("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"


def test_an_answer_is_taken_back_and_given_anew(page: browsers.Browser, asked: Asked) -> None:
    page.press("ArrowLeft")
    page.wait("question === 1 && clips !== null")
    page.press("z")
    page.wait("question === 0 && clips !== null")
    page.press("ArrowRight")
    page.wait("question === 1 && clips !== null && !sending")
    assert asked.kept[-1].second_better.tolist() == [1.0]


def test_a_reloaded_page_goes_on(page: browsers.Browser, asked: Asked) -> None:
    page.press("ArrowDown")
    page.wait("question === 1 && clips !== null")
    page.open(asked.url + "?again")  # another address, so that the old page is surely gone
    page.open(asked.url)
    page.wait("typeof question !== 'undefined' && question === 1 && clips !== null")
    assert page.value("document.querySelector('#progress').value") == 1


def test_a_key_that_is_held_answers_once(page: browsers.Browser, asked: Asked) -> None:
    facts = {"key": "ArrowLeft", "windowsVirtualKeyCode": 37}
    page.call("Input.dispatchKeyEvent", type="keyDown", **facts)
    for _ in range(3):
        page.call("Input.dispatchKeyEvent", type="keyDown", autoRepeat=True, **facts)
    page.wait("question === 1 && clips !== null && !sending")
    assert len(asked.kept) == 1
