"""The drawing page in a real browser: what a person does with mouse and keyboard, and its file."""

from __future__ import annotations

import base64
import io
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embodied.data.sketches import Trace, draw
from embodied.sketching import ask_for_sketch
from tests import browser as browsers

SIZE = (120, 160)
SMALL = (60, 80)
EXECUTABLE = browsers.find()
pytestmark = pytest.mark.skipif(
    EXECUTABLE is None, reason=f"no browser: none of {', '.join(browsers.NAMES)} is installed"
)


class Person:
    """Somebody at the page, whose places are pixels of the camera's image."""

    def __init__(self, browser: browsers.Browser, url: str) -> None:
        self.browser = browser
        browser.resize(1280, 860)
        browser.open(url)
        browser.wait("document.querySelector('#stage')?.style.height")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel's centre is in the window."""
        left, top, width, height = self.browser.box("#stage")
        return left + width * (x + 0.5) / SIZE[1], top + height * (y + 0.5) / SIZE[0]

    def stroke(self, *places: tuple[float, float]) -> None:
        self.browser.stroke([self.at(*place) for place in places])

    def click(self, x: float, y: float) -> None:
        self.stroke((x, y))

    def shown(self, name: str) -> np.ndarray:
        """A preview's pixels, once it shows the last change."""
        self.browser.wait("!asking && !changed && drawing.points.length > 1")
        url = self.browser.value(f"document.querySelector('#{name}').src")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))

    def number(self, metres: str) -> None:
        """Types a height into the field for it."""
        self.browser.click("#metres")
        self.browser.value("document.querySelector('#metres').select()")
        for key in metres:
            self.browser.press(key)

    def said(self) -> str:
        return str(self.browser.value("document.querySelector('#status').textContent"))


class Asked:
    """A program that waits for a sketch."""

    def __init__(self, output: Path) -> None:
        urls: queue.Queue[str] = queue.Queue()
        self.output = output
        self.trace: Trace | None = None
        self.thread = threading.Thread(target=self._ask, args=(urls.put,), daemon=True)
        self.thread.start()
        self.url = urls.get(timeout=10)

    def _ask(self, announce) -> None:
        image = np.full((*SIZE, 3), 90, np.uint8)
        self.trace = ask_for_sketch(
            image, announce=announce, title="<b>push</b>", sketch_size=SMALL, output=self.output
        )

    def saved(self) -> Trace:
        """The trace in the file, which is also what the program got."""
        self.thread.join(20)
        assert self.trace is not None
        text = self.output.read_text().strip()
        assert text == self.trace.to_json()
        return Trace.from_json(text)


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path / "sketch.json")


@pytest.fixture
def person(asked: Asked, tmp_path: Path) -> Iterator[Person]:
    assert EXECUTABLE is not None
    with browsers.browser(EXECUTABLE, tmp_path / "profile") as browser:
        yield Person(browser, asked.url)


def test_a_person_draws_sets_heights_marks_the_gripper_and_saves(
    person: Person, asked: Asked
) -> None:
    browser = person.browser
    assert browser.value("document.title") == "<b>push</b>"
    person.stroke((20, 100), (40, 90), (60, 70), (60, 40))
    person.stroke((100, 40))  # by mistake
    browser.click("#undo")
    browser.click("[data-tool=corner]")
    person.click(120, 20)
    person.number("0.3")
    browser.click("[data-tool=select]")
    person.click(20, 100)
    person.number("0.1")
    person.click(40, 90)
    browser.press("c")
    person.click(119, 20)
    browser.click("#opens")
    tall, flat = person.shown("tall"), person.shown("flat")
    browser.press("s", ctrl=True)
    trace = asked.saved()
    browser.wait("saved")
    assert person.said() == f"Saved to {asked.output}. You can close this page."

    corners = np.array([[20, 100], [40, 90], [60, 70], [60, 40], [120, 20]])
    gaps = np.linalg.norm(trace.points[:, None] - corners, axis=2).min(axis=0)
    assert gaps.max() < 0.5
    np.testing.assert_allclose(trace.points[[0, -1]], corners[[0, -1]], atol=0.5)
    assert trace.size == SIZE
    np.testing.assert_allclose(trace.heights[[0, -1]], [0.1, 0.3])
    assert (np.diff(trace.heights) > 0).all()
    assert trace.closes is not None
    np.testing.assert_allclose(trace.points[trace.closes], [40, 90], atol=0.5)
    assert trace.opens == len(trace.points) - 1
    np.testing.assert_array_equal(tall, draw(trace.scaled(SMALL)))
    np.testing.assert_array_equal(flat, draw(trace.scaled(SMALL), with_height=False))


def test_everything_can_be_done_without_a_mouse(person: Person, asked: Asked) -> None:
    browser = person.browser
    browser.value("document.querySelector('#stage').focus()")
    browser.press("Enter")  # in the middle of the image
    for _ in range(3):
        browser.press("ArrowRight", shift=True)
    browser.press("Enter")
    browser.press("ArrowUp", shift=True)
    browser.press("Enter")
    browser.press("ArrowLeft")
    browser.press("Enter")
    browser.press("z")
    for _ in range(5):
        browser.press("+")
    browser.press("o")
    browser.press(",")
    browser.press("c")
    browser.press("s", ctrl=True)
    trace = asked.saved()
    step = 2  # a hundredth of the image's width
    middle = np.array([79.5, 59.5])
    assert trace.closes is not None
    found = trace.points[[0, trace.closes, -1]] - middle
    np.testing.assert_allclose(found, [[0, 0], [30 * step, 0], [30 * step, -10 * step]])
    assert trace.opens == len(trace.points) - 1
    np.testing.assert_allclose(trace.heights, 0.05)  # one height makes it level


def test_heights_are_drawn_in_the_profile_and_a_mistake_is_explained(
    person: Person, asked: Asked
) -> None:
    browser = person.browser
    browser.press("p")
    person.click(10, 60)
    person.click(110, 60)
    left, top, width, height = browser.box("#profile")

    def place(share: float, metres: float) -> tuple[float, float]:
        x = left + 36 + share * (width - 46)
        return x, top + 10 + (1 - metres / 0.4) * (height - 20)

    browser.stroke([place(0, 0.1), place(0, 0.0)])
    browser.stroke([place(0.5, 0.1), place(0.5, 0.2), place(0.5, 0.4)])  # a new point
    browser.press("o")
    browser.stroke([place(1, 0.0), place(1, 0.2)])
    browser.press("c")
    assert person.said() == "The gripper must close before it opens: move the other mark first."
    browser.click("#save")
    trace = asked.saved()
    steps = (trace.points[:, 0] - 10) / 100
    expected = np.interp(steps, [0, 0.5, 1], [0, 0.4, 0.2])
    np.testing.assert_allclose(trace.heights, expected, atol=0.02)
    assert trace.closes is None
    assert trace.opens is not None
    np.testing.assert_allclose(trace.points[trace.opens], [60, 60], atol=0.5)
