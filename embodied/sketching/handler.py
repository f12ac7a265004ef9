"""Answers the requests of a page that one person has open, and nobody else's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from embodied.sketching.gate import HEADERS, Answer, Refusal, check_source, json_answer, read_body

logger = logging.getLogger(__name__)

Reads = Mapping[str, Callable[[], Answer]]
Writes = Mapping[str, Callable[[bytes], Answer]]


class PageHandler(BaseHTTPRequestHandler):
    """Looks paths up in `server.reads()` and `server.writes()`; `server.host` is what it serves."""

    server: Any
    timeout = 10  # s of silence, after which a connection is given up

    def do_GET(self) -> None:
        self._answer(lambda: choose(self.server.reads(), self.path)())

    def do_POST(self) -> None:
        try:
            self._answer(
                lambda: choose(self.server.writes(), self.path)(read_body(self.headers, self.rfile))
            )
        finally:  # also where the page was closed before it could be told
            self.server.finish()

    def refused(self, error: ValueError) -> Answer:
        """What is answered to a message that cannot be taken."""
        return json_answer({"error": str(error)}, HTTPStatus.BAD_REQUEST)

    def _answer(self, find: Callable[[], Answer]) -> None:
        try:
            check_source(self.headers, self.server.host)
            answer = find()
        except Refusal as refusal:
            answer = json_answer({"error": str(refusal)}, refusal.status)
        except ValueError as error:
            answer = self.refused(error)
        self.send_response(answer.status)
        headers = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body))}
        for name, value in (headers | HEADERS).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def choose(pages: Mapping[str, Any], path: str) -> Any:
    """What serves a path; raises Refusal where nothing does."""
    if path not in pages:
        there = ", ".join(pages)
        raise Refusal(
            HTTPStatus.NOT_FOUND, f"the path must be one of {there}, got {path[:60]!r}; open /"
        )
    return pages[path]
