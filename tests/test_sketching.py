"""The drawing page's server: what it makes of a drawing, and whom it refuses."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from embodied.data.sketches import Trace, draw
from embodied.sketching import ask_for_sketch
from embodied.sketching.drawing import Drawing, DrawingError, Sheet
from embodied.sketching.gate import MAX_BODY
from embodied.sketching.server import SketchServer, _Handler

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
SHEET = Sheet(IMAGE, "push", (0.0, 0.5), (20, 30), 1)
LINE: dict[str, Any] = {
    "points": [[2, 5], [12, 5], [12, 25]],
    "heights": [[0, 0.1], [2, 0.4]],
    "closes": 1,
    "opens": 2,
}


def read(message: Any) -> Drawing:
    return Drawing.from_json(json.dumps(message).encode(), SHEET)


def test_a_drawing_becomes_a_trace_with_a_point_in_every_pixel() -> None:
    trace = read(LINE).trace()
    assert len(trace.points) == 31
    assert (trace.size, trace.closes, trace.opens) == ((40, 60), 10, 30)
    np.testing.assert_allclose(trace.points[[0, 7, 10, 30]], [[2, 5], [9, 5], [12, 5], [12, 25]])
    np.testing.assert_allclose(trace.heights, 0.1 + 0.01 * np.arange(31), atol=1e-4)
    np.testing.assert_allclose(read(LINE).heights_at_corners(), [0.1, 0.2, 0.4])


def test_heights_are_level_beyond_the_ones_that_are_set() -> None:
    drawn = read(LINE | {"heights": [[1, 0.3]]})
    np.testing.assert_allclose(drawn.heights_at_corners(), 0.3)
    np.testing.assert_allclose(read(LINE | {"heights": []}).trace().heights, 0.0)


HOSTILE: dict[str, tuple[Any, str, str]] = {
    "no object": ([1], "the message", "an object of points"),
    "a field too many": (LINE | {"name": 1}, "the message", "an object of points"),
    "a field too few": ({"points": []}, "the message", "an object of points"),
    "points of text": (LINE | {"points": "[[1, 1]]"}, "points", "a list of 2 to"),
    "one point": (LINE | {"points": [[1, 1]]}, "points", "a list of 2 to"),
    "too many points": (LINE | {"points": [[1, 1]] * 5001}, "points", "a list of 2 to 5000"),
    "a number": (LINE | {"points": [[1, 1], 7]}, "points[1]", "[x, y] in the image"),
    "three numbers": (LINE | {"points": [[1, 1, 1], [2, 2]]}, "points[0]", "[x, y] in the image"),
    "outside": (LINE | {"points": [[1, 1], [59.6, 1]]}, "points[1]", "x from -0.5 to 59.5"),
    "not a number": (LINE | {"points": [[1, 1], [float("nan"), 1]]}, "points[1]", "in the image"),
    "infinite": (LINE | {"points": [[1, 1], [float("inf"), 1]]}, "points[1]", "in the image"),
    "huge": (LINE | {"points": [[1, 1], [10**400, 1]]}, "points[1]", "in the image"),
    "true": (LINE | {"points": [[1, 1], [True, 1]]}, "points[1]", "in the image"),
    "a scribble": (LINE | {"points": [[0, 0], [59, 39]] * 2000}, "points", "at most 2000 pixels"),
    "heights of nothing": (LINE | {"heights": None}, "heights", "pairs [point, m]"),
    "too high": (LINE | {"heights": [[0, 0.51]]}, "heights[0]", "m from 0 to 0.5"),
    "of no point": (LINE | {"heights": [[0, 0.1], [3, 0.1]]}, "heights[1]", "point from 0 to 2"),
    "of half a point": (LINE | {"heights": [[0.5, 0.1]]}, "heights[0]", "point from 0 to 2"),
    "twice": (LINE | {"heights": [[0, 0.1], [0, 0.2]]}, "heights[1]", "no height yet"),
    "closes nowhere": (LINE | {"closes": -1}, "closes", "a point from 0 to 2, or null"),
    "closes truly": (LINE | {"closes": True}, "closes", "a point from 0 to 2, or null"),
    "opens in words": (LINE | {"opens": "2"}, "opens", "a point from 0 to 2, or null"),
    "opens first": (LINE | {"opens": 0}, "opens", "after the one that closes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_message_that_is_no_drawing_is_refused_by_field(case: str) -> None:
    message, field, remedy = HOSTILE[case]
    with pytest.raises(DrawingError) as error:
        read(message)
    assert error.value.field == field
    assert remedy in error.value.remedy
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 200_000, b'{"points": 1e}'])
def test_what_is_not_even_json_is_refused(text: bytes) -> None:
    with pytest.raises(DrawingError, match="the message must be JSON"):
        Drawing.from_json(text, SHEET)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": IMAGE[..., 0]}, "image must be"),
        ({"image": IMAGE.astype(np.float32)}, "image must be"),
        ({"heights": (0.5, 0.5)}, "heights must be"),
        ({"sketch_size": (0, 10)}, "sketch_size and width"),
        ({"width": 0}, "sketch_size and width"),
    ],
)
def test_a_page_that_makes_no_sense_is_not_served(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ask_for_sketch(**{"image": IMAGE, "announce": print, **changes})


class Served:
    """A server that runs, and what was drawn on its page."""

    def __init__(self, output: Path | None, host: str = "127.0.0.1") -> None:
        self.server = SketchServer(SHEET, host, 0, output=output)
        self.drawn: Trace | None = None
        self.saved = False
        self.thread = threading.Thread(target=self._wait, daemon=True)
        self.thread.start()

    def _wait(self) -> None:
        self.drawn = self.server.wait()

    def close(self) -> None:
        """Ends it as a person would, by saving."""
        if not self.saved:
            self.call("POST", "/save", LINE)
        self.thread.join(5)
        assert not self.thread.is_alive()
        self.server.server_close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Status and body of a request, by default one that the page could have sent."""
        connection = http.client.HTTPConnection(self.address, timeout=10)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":
            names = {"Content-Type": "application/json", **names}
        text = json.dumps(body).encode() if body is not None else None
        connection.request(method, path, text, names)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        self.saved |= path == "/save" and found[0] == 200
        return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    running = Served(tmp_path / "out" / "sketch.json")
    yield running
    running.close()


def picture(url: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def test_the_page_is_one_file_that_asks_nobody_else(served: Served) -> None:
    status, page = served.call("GET", "/")
    assert status == 200
    assert b"http://" not in page
    assert b"https://" not in page
    status, facts = served.call("GET", "/facts")
    assert json.loads(facts)["heights"] == [0.0, 0.5]
    status, image = served.call("GET", "/image.png")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image))), IMAGE)


def test_the_preview_is_the_sketch_that_the_policy_will_see(served: Served) -> None:
    status, body = served.call("POST", "/preview", LINE)
    found = json.loads(body)
    assert status == 200
    assert served.call("POST", "/save", LINE)[0] == 200
    assert served.server.output is not None
    trace = Trace.from_json(served.server.output.read_text()).scaled((20, 30))
    np.testing.assert_array_equal(picture(found["tall"]), draw(trace, width=1))
    np.testing.assert_array_equal(picture(found["flat"]), draw(trace, with_height=False, width=1))


def test_what_is_saved_is_what_the_program_gets(served: Served) -> None:
    _, body = served.call("POST", "/save", LINE)
    served.thread.join(5)
    assert served.drawn is not None
    assert served.server.output is not None
    text = served.server.output.read_text()
    assert json.loads(body) == {"saved": str(served.server.output)}
    assert served.drawn.to_json() == text.strip() == read(LINE).trace().to_json()
    assert [path.name for path in served.server.output.parent.iterdir()] == ["sketch.json"]


def test_a_bad_drawing_leaves_the_last_good_one(served: Served) -> None:
    assert served.server.output is not None
    served.server.output.parent.mkdir()
    served.server.output.write_text("the last good one")
    status, body = served.call("POST", "/save", LINE | {"closes": 9})
    assert status == 400
    facts = json.loads(body)
    assert facts["field"] == "closes"
    assert facts["value"] == "9"
    assert facts["remedy"] == "a point from 0 to 2, or null"
    assert facts["error"] == "closes must be a point from 0 to 2, or null, got 9"
    assert served.server.output.read_text() == "the last good one"
    assert served.thread.is_alive()


def test_a_disk_that_refuses_keeps_the_last_good_one_and_the_page(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    assert served.server.output is not None
    served.server.output.parent.mkdir()
    served.server.output.write_text("the last good one")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", full)
        status, body = served.call("POST", "/save", LINE)
    assert status == 500
    assert "not saved: [Errno 28] No space left" in json.loads(body)["error"]
    assert served.server.output.read_text() == "the last good one"
    assert served.call("POST", "/save", LINE)[0] == 200
    assert "points" in served.server.output.read_text()


REFUSED: dict[str, tuple[str, str, dict[str, str], int, str]] = {
    "a foreign host": ("POST", "/save", {"Host": "evil.example"}, 403, "Host must be"),
    "a foreign host that reads": ("GET", "/image.png", {"Host": "evil.example:80"}, 403, "Host"),
    "a host that is none": ("GET", "/", {"Host": "["}, 403, "Host must be"),
    "an empty host": ("GET", "/", {"Host": ""}, 403, "Host must be"),
    "another address": ("GET", "/", {"Host": "10.0.0.1"}, 403, "Host must be"),
    "another site": ("POST", "/save", {"Origin": "http://evil.example"}, 403, "Origin must be"),
    "another local page": ("POST", "/save", {"Origin": "http://127.0.0.1:1"}, 403, "Origin"),
    "a file": ("POST", "/save", {"Origin": "null"}, 403, "Origin must be"),
    "a form": ("POST", "/save", {"Content_Type": "text/plain"}, 415, "Content-Type must be"),
    "no length": ("POST", "/save", {"Content_Length": "x"}, 411, "Content-Length must be"),
    "a negative one": ("POST", "/save", {"Content_Length": "-1"}, 411, "Content-Length must be"),
    "too long": ("POST", "/save", {"Content_Length": str(MAX_BODY + 1)}, 413, "at most"),
    "far too long": ("POST", "/save", {"Content_Length": "9" * 5000}, 413, "at most"),
    "another path": ("GET", "/../secret", {}, 404, "the path must be one of"),
    "a path to post to": ("GET", "/save", {}, 404, "the path must be one of"),
    "a page to post to": ("POST", "/", {}, 404, "the path must be one of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_from_elsewhere_is_refused_with_one_message(served: Served, case: str) -> None:
    method, path, headers, status, says = REFUSED[case]
    found, body = served.call(method, path, LINE if method == "POST" else None, **headers)
    assert found == status
    assert says in json.loads(body)["error"]
    assert served.server.output is not None
    assert not served.server.output.exists()
    assert served.thread.is_alive()


def test_the_page_itself_is_answered_also_through_a_tunnel(served: Served) -> None:
    for host in (served.address, "localhost:9999"):
        origin = {"Host": host, "Origin": f"http://{host}"}
        assert served.call("POST", "/preview", LINE, **origin)[0] == 200


def test_whoever_sends_nothing_holds_up_nobody(served: Served) -> None:
    host, port = urlsplit(f"//{served.address}").hostname, urlsplit(f"//{served.address}").port
    with socket.create_connection((host, port)) as silent:
        silent.sendall(b"POST /save HTTP/1.1\r\nContent-Length: 10\r\n")
        assert served.call("GET", "/")[0] == 200


def test_a_second_save_does_not_replace_the_first(served: Served) -> None:
    assert served.server.save(json.dumps(LINE).encode()).status == 200
    status, _ = served.call("POST", "/save", LINE | {"closes": None})
    assert status == 409
    assert served.server.output is not None
    assert '"closes": 10' in served.server.output.read_text()
    served.server.finish()
    served.saved = True  # or closing would save again, at a server that may have ended


def test_a_page_that_is_closed_before_it_is_told_has_still_saved(
    served: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def closed(self: _Handler) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(_Handler, "end_headers", closed)
    with pytest.raises(http.client.RemoteDisconnected):
        served.call("POST", "/save", LINE)
    served.saved = True
    served.thread.join(5)
    assert served.drawn is not None
    assert "BrokenPipeError" in capfd.readouterr().err


def test_a_program_can_ask_without_a_file() -> None:
    urls: list[str] = []
    drawn: list[Trace] = []
    told = threading.Event()

    def ask() -> None:
        drawn.append(ask_for_sketch(IMAGE, announce=lambda url: (urls.append(url), told.set())))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert told.wait(10)
    connection = http.client.HTTPConnection(urlsplit(urls[0]).netloc, timeout=10)
    body = json.dumps(LINE | {"heights": []}).encode()
    connection.request("POST", "/save", body, {"Content-Type": "application/json"})
    assert json.loads(connection.getresponse().read()) == {"saved": None}
    thread.join(5)
    assert drawn[0].size == (40, 60)


def test_a_server_for_other_machines_answers_to_numbers_and_its_name_but_to_no_other() -> None:
    running = Served(None, host="0.0.0.0")
    try:
        for host in ("192.168.1.7:8000", socket.gethostname(), "[2001:db8::1]:80"):
            assert running.call("GET", "/facts", Host=host)[0] == 200, host
        assert running.call("GET", "/facts", Host="evil.example")[0] == 403
    finally:
        running.close()
