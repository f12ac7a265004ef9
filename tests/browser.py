"""A browser to test pages in: real events, sent over Chromium's DevTools protocol.

The protocol runs through two pipes (`--remote-debugging-pipe`), so that neither a driver nor a
library for web sockets is needed.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-pipe",
)
_KEYS = {"Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def find() -> str | None:
    """The path of an installed browser of the Chromium kind."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page; every method waits until the page has dealt with it."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._buffer, self._number = read, write, b"", 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def call(self, method: str, **params: Any) -> Any:
        """The result of a protocol's method; events that arrive meanwhile are dropped."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 16)
            if not chunk:
                raise RuntimeError("the browser has ended")
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """What JavaScript evaluates to in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, condition: str, timeout_s: float = 20.0) -> None:
        """Until JavaScript finds something true."""
        end = time.monotonic() + timeout_s
        while not self.value(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {condition}; the page says {self.said()!r}")
            time.sleep(0.05)

    def said(self) -> Any:
        return self.value("document.body && document.body.innerText")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element in the window."""
        rect = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        found = self.value(f"(r => [r.left, r.top, r.width, r.height])({rect})")
        return found[0], found[1], found[2], found[3]

    def mouse(self, kind: str, x: float, y: float, *, down: bool = False) -> None:
        """`mousePressed`, `mouseMoved` or `mouseReleased` at a place in the window."""
        button = {"button": "left", "clickCount": 1} if kind != "mouseMoved" or down else {}
        held = 1 if down else 0
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, buttons=held, **button)

    def stroke(self, places: list[tuple[float, float]]) -> None:
        """Presses the button at the first place, moves through the others, and lets go."""
        self.mouse("mousePressed", *places[0], down=True)
        for place in places[1:]:
            self.mouse("mouseMoved", *place, down=True)
        self.mouse("mouseReleased", *places[-1])

    def click(self, selector: str) -> None:
        left, top, width, height = self.box(selector)
        self.stroke([(left + width / 2, top + height / 2)])

    def press(self, key: str, *, ctrl: bool = False, shift: bool = False) -> None:
        facts: dict[str, Any] = {"key": key, "modifiers": 2 * ctrl + 8 * shift}
        facts["windowsVirtualKeyCode"] = _KEYS.get(key, ord(key[0].upper()) if key.isalnum() else 0)
        text = {"text": key} if len(key) == 1 and not ctrl else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **facts, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def picture(self, path: Path) -> None:
        """Writes what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browser(executable: str, profile: Path) -> Iterator[Browser]:
    """A fresh browser, ended at the end.

    Args:
        profile: an empty folder for what it stores.
    """
    to_browser, from_browser = os.pipe(), os.pipe()
    # Out of the way of 3 and 4, which the browser wants.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser[0], from_browser[1])]
    for end in (to_browser[0], from_browser[1]):
        os.close(end)

    def connect() -> None:
        os.dup2(ends[0], 3)
        os.dup2(ends[1], 4)

    process = subprocess.Popen(
        [executable, *_QUIET, f"--user-data-dir={profile}"],
        preexec_fn=connect,
        pass_fds=(3, 4),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in ends:
        os.close(end)
    try:
        yield Browser(from_browser[0], to_browser[1])
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])
