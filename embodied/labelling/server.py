"""Serves the labelling page to one person, with nothing but the standard library and Pillow."""

from __future__ import annotations

import contextlib
import functools
import io
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embodied.data.preferences import Segments
from embodied.labelling.session import Session
from embodied.sketching.gate import EVERYWHERE, Answer, Refusal, json_answer
from embodied.sketching.handler import PageHandler, Reads, Writes

Film = Callable[[int, int, int], NDArray[np.uint8]]
"""(episode, first step, number of steps) -> frames (steps, h, w, 3)."""
_POLL_S = 0.1
_COLUMNS = 8
"""Frames side by side in a clip's picture: one long strip would outgrow what JPEG can hold."""
_AHEAD = 6
"""Clips kept: of the question that is shown, and of those around it."""


def ask_for_labels(
    session: Session,
    film: Film,
    *,
    announce: Callable[[str], object],
    rate_hz: float,
    title: str = "",
    every: int = 1,
    host: str = "127.0.0.1",
    port: int = 0,
) -> None:
    """Serves the page until every question is answered or skipped.

    Args:
        film: draws a segment; asked by this thread alone, as contexts of OpenGL are of one.
        announce: is given the page's address, for the person to open.
        rate_hz: steps per second that clips are played at.
        title: what was to be done.
        every: steps between the frames that are shown.
        host: the address to listen at; any other than the default lets other machines label.
        port: 0 takes a free one.

    Raises OSError where the address cannot be listened at.
    """
    with LabelServer(session, film, host, port, rate_hz=rate_hz, title=title, every=every) as page:
        announce(page.url)
        page.wait()


class LabelServer(ThreadingHTTPServer):
    """Offers a session's questions at `url`; `wait` returns once none is left."""

    daemon_threads = True

    def __init__(
        self,
        session: Session,
        film: Film,
        host: str,
        port: int,
        *,
        rate_hz: float,
        title: str = "",
        every: int = 1,
    ) -> None:
        if every < 1 or rate_hz <= 0:
            raise ValueError(f"every must be >= 1 and rate_hz > 0, got {every} and {rate_hz}")
        self.session, self.host, self.title = session, host, title
        self.every, self.rate_hz = every, rate_hz
        self._film = film
        self._asked: queue.SimpleQueue[tuple[Future[bytes], int, str]] = queue.SimpleQueue()
        self._clip = functools.lru_cache(_AHEAD)(self._draw)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._done = threading.Event()
        super().__init__((host, port), PageHandler)

    @property
    def url(self) -> str:
        name = socket.gethostname() if self.host in EVERYWHERE else self.host
        return f"http://{f'[{name}]' if ':' in name else name}:{self.server_address[1]}/"

    def wait(self) -> None:
        """Draws what the page asks for until no question is left."""
        self.finish()  # all may be answered already
        threading.Thread(target=self.serve_forever, args=(_POLL_S,), daemon=True).start()
        try:
            while not self._done.is_set():
                self._draw_next()
        finally:
            self.shutdown()

    def _draw_next(self) -> None:
        with contextlib.suppress(queue.Empty):
            drawn, question, side = self._asked.get(timeout=_POLL_S)
            try:
                drawn.set_result(self._clip(question, side))
            except Exception as error:  # the request says so
                drawn.set_exception(error)

    def reads(self) -> Reads:
        """What can be asked for, by its path."""
        pages: dict[str, Callable[[], Answer]] = {
            "/": lambda: Answer(_page(), "text/html; charset=utf-8"),
            "/facts": self.facts,
        }
        for question in range(len(self.session)):
            for side in ("left", "right"):
                path = f"/clip/{question}/{side}.jpg"
                pages[path] = functools.partial(self.clip, question, side)
        return pages

    def writes(self) -> Writes:
        """What can be sent, by its path."""
        return {"/answer": self.answer}

    def facts(self) -> Answer:
        """What the page needs to know."""
        length = -(-self.session.first.length // self.every)
        return json_answer(
            {
                "title": self.title,
                "frames": length,
                "columns": _COLUMNS,
                "interval_ms": 1000 * self.every / self.rate_hz,
                "progress": self.session.progress(),
            }
        )

    def clip(self, question: int, side: str) -> Answer:
        """All frames of a segment in one picture, row by row."""
        drawn: Future[bytes] = Future()
        self._asked.put((drawn, question, side))
        return Answer(drawn.result(), "image/jpeg")

    def _draw(self, question: int, side: str) -> bytes:
        segments: Segments = self.session.first if side == "left" else self.session.second
        episode, start = int(segments.episode[question]), int(segments.start[question])
        return montage(self._film(episode, start, segments.length)[:: self.every])

    def answer(self, body: bytes) -> Answer:
        """Keeps an answer; where that fails, the page may try again."""
        try:
            return json_answer(self.session.answer(body))
        except OSError as error:
            raise Refusal(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                f"not saved: {error}; mend that and answer again",
            ) from error

    def finish(self) -> None:
        """Lets `wait` return once no question is left and the page has been told."""
        if self.session.next() is None:
            self._done.set()


def montage(frames: NDArray[np.uint8]) -> bytes:
    """Frames (T, h, w, 3) as one JPEG of `_COLUMNS` columns."""
    count, height, width = frames.shape[:3]
    rows = -(-count // _COLUMNS)
    sheet = np.zeros((rows * height, _COLUMNS * width, 3), np.uint8)
    for i, frame in enumerate(frames):
        y, x = divmod(i, _COLUMNS)
        sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] = frame
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "jpeg", quality=85)
    return buffer.getvalue()


def _page() -> bytes:
    return (resources.files("embodied.labelling") / "assets" / "page.html").read_bytes()
