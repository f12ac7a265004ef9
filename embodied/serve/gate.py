"""Who may connect: this machine alone, unless a key says otherwise, and no page in a browser.

A page that is open in a browser may send requests to this machine in its user's name, and always
says where it comes from (`Origin`); robots never do.
"""

from __future__ import annotations

import hmac
import ipaddress
from http import HTTPStatus
from typing import NamedTuple

from websockets.datastructures import Headers

MIN_KEY = 16  # characters


class Refusal(NamedTuple):
    """Why a request is not answered; its text begins with a code."""

    status: HTTPStatus
    text: str


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # every other name may lead anywhere


def check_binding(host: str, key: str | None) -> None:
    """Raises ValueError for an address that others reach without a key, and for a weak one."""
    if key is None and not is_loopback(host):
        raise ValueError(
            f"E_CONFIG_VALUE: host={host} can be reached from other machines: give a key=... of at "
            f"least {MIN_KEY} characters, or host=127.0.0.1"
        )
    if key is not None and (len(key) < MIN_KEY or not key.isascii() or not key.isprintable()):
        raise ValueError(
            f"E_CONFIG_VALUE: key must have at least {MIN_KEY} printable ASCII characters"
        )


def refusal(headers: Headers, key: str | None) -> Refusal | None:
    """Why a request with these headers is refused; None lets it in."""
    if headers.get_all("Origin"):
        return Refusal(
            HTTPStatus.FORBIDDEN, "E_SERVE_ORIGIN: pages in browsers are not served here"
        )
    if key is None:
        return None
    given = headers.get_all("Authorization")
    expected = f"Api-Key {key}".encode()
    # In constant time, or the answer's delay would tell how much of a guess is right.
    if len(given) != 1 or not hmac.compare_digest(given[0].encode(errors="replace"), expected):
        return Refusal(
            HTTPStatus.UNAUTHORIZED,
            "E_SERVE_KEY: this server wants its key: 'Authorization: Api-Key KEY'",
        )
    return None
