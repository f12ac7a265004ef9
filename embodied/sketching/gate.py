"""Which requests the page's server answers.

The page runs in a browser, which other sites share: they could send requests here in the person's
name, or point a name of their own at this address (DNS rebinding). So a request must name this host
and, if it says where it comes from, come from this very page.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from email.message import Message
from http import HTTPStatus
from io import BufferedIOBase
from typing import Any, NamedTuple
from urllib.parse import urlsplit

MAX_BODY = 1_000_000  # bytes; the largest drawing takes a quarter of that
EVERYWHERE = ("0.0.0.0", "::")  # addresses that listen at all of a machine's own
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Answer(NamedTuple):
    """A response: its body, what that is, and its status."""

    body: bytes
    kind: str = "application/json"
    status: HTTPStatus = HTTPStatus.OK


class Refusal(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_source(headers: Message, host: str) -> None:
    """Raises Refusal unless a request is for the address `host` and from its own page."""
    called = headers.get("Host", "")
    if not _is_called(called, host):
        raise Refusal(
            HTTPStatus.FORBIDDEN,
            f"Host must be the address that the page was announced at, got {called[:60]!r}; open "
            "the page there",
        )
    origin = headers.get("Origin")
    if origin is not None and origin != f"http://{called}":
        raise Refusal(
            HTTPStatus.FORBIDDEN,
            f"Origin must be http://{called}, the page itself, got {origin[:60]!r}; open it there",
        )


def _is_called(called: str, host: str) -> bool:
    # A name of somebody else's can be pointed here, but a number is nobody's. The port is not
    # looked at: a tunnel may change it.
    try:
        name = urlsplit(f"//{called}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", "127.0.0.1", "::1", host.lower()):
        return True
    return host in EVERYWHERE and (name == socket.gethostname().lower() or _is_number(name))


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def read_body(headers: Message, stream: BufferedIOBase) -> bytes:
    """The JSON message of a request; raises Refusal where it is none or is too long."""
    # A form of another site can send everything but this type without asking first.
    if headers.get_content_type() != "application/json":
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Type must be application/json, got {headers.get('Content-Type')!r}; set it",
        )
    length = headers.get("Content-Length", "")
    if not (length.isascii() and length.isdigit()):
        raise Refusal(
            HTTPStatus.LENGTH_REQUIRED,
            f"Content-Length must be a number of bytes, got {length[:20]!r}; send it",
        )
    if len(length) > 9 or int(length) > MAX_BODY:
        raise Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"Content-Length must be at most {MAX_BODY} bytes, got {length[:20]}; draw less",
        )
    return stream.read(int(length))


def json_answer(facts: Any, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """The facts as a response."""
    return Answer(json.dumps(facts, allow_nan=False).encode(), status=status)
