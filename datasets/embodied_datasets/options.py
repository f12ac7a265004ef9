"""Options of readers and writers as people type them: NAME=VALUE."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class UnknownOption(ValueError):
    """A format's reader or writer does not take an option."""


def read_options(items: Sequence[str]) -> dict[str, Any]:
    """Names and values of NAME=VALUE; a value is JSON, or else a string.

    Raises ValueError where there is no "=", or nothing before it.
    """
    return dict(map(_read, items))


def _read(item: str) -> tuple[str, Any]:
    name, equals, value = item.partition("=")
    if not name or not equals:
        raise ValueError(f"an option must be NAME=VALUE, such as rate_hz=20, got {item!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@contextmanager
def fitting(format: str) -> Iterator[None]:
    """Turns Python's complaint about an unknown option into an UnknownOption."""
    try:
        yield
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise UnknownOption(f"format {format}: {str(error).partition(' ')[2]}") from error
