"""Serves the drawing page to one person, with nothing but the standard library."""

from __future__ import annotations

import base64
import io
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embodied.data.sketches import Trace
from embodied.results import write_atomically
from embodied.sketching.drawing import Drawing, DrawingError, Sheet
from embodied.sketching.gate import EVERYWHERE, Answer, Refusal, json_answer
from embodied.sketching.handler import PageHandler, Reads, Writes

_POLL_S = 0.1


def ask_for_sketch(
    image: NDArray[np.uint8],
    *,
    announce: Callable[[str], object],
    title: str = "",
    heights: tuple[float, float] = (0.0, 0.4),
    sketch_size: tuple[int, int] | None = None,
    width: int = 2,
    output: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> Trace:
    """Serves the page until a person has saved a drawing, and returns it.

    Args:
        image: (h, w, 3) uint8 to draw over.
        announce: is given the page's address, for the person to open.
        title: what shall be done, in words.
        heights: the lowest and the highest that can be drawn, m.
        sketch_size: (height, width) of the policy's sketch in pixels; None: the image's.
        width: of the sketch's line in pixels.
        output: where the trace is written as JSON besides; a file there is replaced whole.
        host: the address to listen at; any other than the default lets other machines draw.
        port: 0 takes a free one.

    Raises:
        ValueError: an argument is out of its range.
        OSError: the address cannot be listened at.
    """
    sheet = Sheet(image, title, heights, sketch_size or image.shape[:2], width)
    with SketchServer(sheet, host, port, output=output) as server:
        announce(server.url)
        return server.wait()


class SketchServer(ThreadingHTTPServer):
    """Offers one sheet at `url`; `wait` returns what was drawn on it."""

    daemon_threads = True

    def __init__(self, sheet: Sheet, host: str, port: int, *, output: Path | None = None) -> None:
        self.sheet, self.host, self.output = sheet, host, output
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.timeout = _POLL_S
        self._saving = threading.Lock()
        self._saved: Trace | None = None
        self._done = threading.Event()
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        name = socket.gethostname() if self.host in EVERYWHERE else self.host
        return f"http://{f'[{name}]' if ':' in name else name}:{self.server_address[1]}/"

    def wait(self) -> Trace:
        """Answers requests until a drawing is saved."""
        while not self._done.is_set():
            self.handle_request()
        assert self._saved is not None
        return self._saved

    def reads(self) -> Reads:
        """What can be asked for, by its path."""
        return {
            "/": lambda: Answer(_page(), "text/html; charset=utf-8"),
            "/facts": self.facts,
            "/image.png": lambda: Answer(_png(self.sheet.image), "image/png"),
        }

    def writes(self) -> Writes:
        """What can be sent, by its path."""
        return {"/preview": self.preview, "/save": self.save}

    def facts(self) -> Answer:
        """What the page needs to know."""
        height, width = self.sheet.size
        return json_answer(
            {
                "title": self.sheet.title,
                "size": [height, width],
                "sketch_size": list(self.sheet.sketch_size),
                "heights": list(self.sheet.heights),
                "output": None if self.output is None else str(self.output),
            }
        )

    def preview(self, body: bytes) -> Answer:
        """The sketches of a drawing as pictures, and the heights of its corners."""
        drawing = Drawing.from_json(body, self.sheet)
        trace = drawing.trace()
        pictures = {
            name: "data:image/png;base64,"
            + base64.b64encode(_png(self.sheet.sketch(trace, with_height=tall))).decode()
            for name, tall in (("flat", False), ("tall", True))
        }
        return json_answer({**pictures, "heights": drawing.heights_at_corners().round(4).tolist()})

    def save(self, body: bytes) -> Answer:
        """Keeps a drawing, and writes it; where that fails, the page may try again."""
        trace = Drawing.from_json(body, self.sheet).trace()
        with self._saving:
            if self._saved is not None:
                raise Refusal(HTTPStatus.CONFLICT, "a drawing was saved already; begin anew")
            if self.output is not None:
                try:
                    write_atomically(self.output, trace.to_json() + "\n")
                except OSError as error:
                    raise Refusal(
                        HTTPStatus.INTERNAL_SERVER_ERROR,
                        f"not saved: {error}; mend that and save again",
                    ) from error
            self._saved = trace
        return json_answer({"saved": None if self.output is None else str(self.output)})

    def finish(self) -> None:
        """Lets `wait` return what was saved, once the page has been told."""
        if self._saved is not None:
            self._done.set()


class _Handler(PageHandler):
    def refused(self, error: ValueError) -> Answer:
        if not isinstance(error, DrawingError):
            return super().refused(error)
        parts = {"field": error.field, "value": error.value, "remedy": error.remedy}
        return json_answer({"error": str(error), **parts}, HTTPStatus.BAD_REQUEST)


def _page() -> bytes:
    return (resources.files("embodied.sketching") / "assets" / "page.html").read_bytes()


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()
