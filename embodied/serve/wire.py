"""Messages as bytes: MessagePack with NumPy arrays, in the form of openpi's `msgpack_numpy`.

An array is a map of `__ndarray__`, `data`, `dtype` and `shape`, a NumPy number one of
`__npgeneric__`, `data` and `dtype`; their keys are bytes or text. Whoever sends is a stranger: what
a message claims is compared with what it holds before memory is taken for it, numbers are the only
arrays, there are no extension types, and nothing that is read can run.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import msgpack
except ImportError as error:
    raise ImportError(
        "messages need the package msgpack: pip install 'embodied-policies[deploy]'"
    ) from error

MAX_BYTES = 8 * 2**20
MAX_ENTRIES = 4096  # of all lists and maps together; an array is a map of four and a list
MAX_DEPTH = 8
MAX_DIMENSIONS = 6
DTYPES = {
    np.dtype(name).str: np.dtype(name)
    for name in ("?", "u1", "i1", *(f"<{kind}{size}" for kind in "iuf" for size in (2, 4, 8)))
}
"""What arrays may hold, by NumPy's name of it, little-endian."""

_ARRAY, _NUMBER = "__ndarray__", "__npgeneric__"
_ARRAY_KEYS = {_ARRAY, "data", "dtype", "shape"}
_NUMBER_KEYS = {_NUMBER, "data", "dtype"}

# The specification's first bytes: github.com/msgpack/msgpack/blob/master/spec.md
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_FIGURES = {0xCA + i: struct.Struct(f">{code}") for i, code in enumerate("fdBHIQbhiq")}
_SIZES = {
    **{0xC4 + i: ("bytes", size) for i, size in enumerate((1, 2, 4))},
    **{0xD9 + i: ("text", size) for i, size in enumerate((1, 2, 4))},
    **{0xDC + i: ("list", size) for i, size in enumerate((2, 4))},
    **{0xDE + i: ("map", size) for i, size in enumerate((2, 4))},
}
_EXTENSIONS = {*range(0xC7, 0xCA), *range(0xD4, 0xD9)}


class WireError(ValueError):
    """Bytes that are no message, or a value that cannot be one; begins with its code."""


def encode(value: Any) -> bytes:
    """A value of maps, lists, text, bytes, numbers, None and arrays of `DTYPES` as a message.

    Raises WireError for anything else, and for more than `MAX_BYTES`.
    """
    try:
        message: bytes = msgpack.packb(value, default=_plain)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"E_WIRE_FORMAT: this cannot be sent: {error}") from error
    check_size(message)
    return message


def decode(message: bytes) -> Any:
    """What `encode`, or openpi's packer, was given; keys are text, arrays cannot be written to.

    Raises WireError, in a line, for all else.
    """
    check_size(message)
    reader = _Reader(message)
    value = reader.value(0)
    if reader.place != len(message):
        raise WireError(
            f"E_WIRE_FORMAT: {len(message) - reader.place} bytes follow after the message's end"
        )
    return value


def request_id_of(message: Any) -> int | None:
    """The number of a request or reply, whatever else is wrong with it; None where it has none."""
    found = message.get("request_id") if isinstance(message, dict) else None
    return found if type(found) is int else None


def check_size(message: bytes) -> None:
    """Raises WireError for more than `MAX_BYTES`."""
    if len(message) > MAX_BYTES:
        raise WireError(
            f"E_WIRE_SIZE: a message has at most {MAX_BYTES} bytes, got {len(message)}; send "
            "smaller images"
        )


def _plain(value: Any) -> dict[bytes, Any]:
    """openpi's form of an array, or of a NumPy number."""
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"{type(value).__name__} is neither plain nor an array")
    if value.dtype.str not in DTYPES:
        raise WireError(
            f"E_WIRE_ARRAY: arrays of {value.dtype} cannot be sent; give little-endian numbers of "
            "at most 8 bytes"
        )
    if isinstance(value, np.generic):
        return {_NUMBER.encode(): True, b"data": value.item(), b"dtype": value.dtype.str}
    return {
        _ARRAY.encode(): True,
        b"data": value.tobytes(),
        b"dtype": value.dtype.str,
        b"shape": value.shape,
    }


class _Reader:
    """Reads a message from its beginning to `place`."""

    def __init__(self, message: bytes) -> None:
        self._message, self.place = message, 0
        self._entries = MAX_ENTRIES

    def value(self, depth: int) -> Any:
        """The next value."""
        first = self._take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _FIGURES:
            figure = _FIGURES[first]
            return figure.unpack(self._take(figure.size))[0]
        kind, size = self._head(first)
        if kind == "bytes":
            return self._take(size)
        if kind == "text":
            return _text(self._take(size))
        return self._list(size, depth + 1) if kind == "list" else self._map(size, depth + 1)

    def _head(self, first: int) -> tuple[str, int]:
        """What begins with this byte, and of what size."""
        if first < 0x90:
            return "map", first & 0x0F
        if first < 0xA0:
            return "list", first & 0x0F
        if first < 0xC0:
            return "text", first & 0x1F
        if first not in _SIZES:
            what = "extension types are" if first in _EXTENSIONS else f"the byte {first:#x} is"
            raise WireError(f"E_WIRE_FORMAT: {what} not read here")
        kind, length = _SIZES[first]
        return kind, int.from_bytes(self._take(length), "big")

    def _take(self, count: int) -> bytes:
        taken = self._message[self.place : self.place + count]
        if len(taken) < count:
            raise WireError(
                f"E_WIRE_FORMAT: the message ends at byte {len(self._message)}, {count} more were "
                f"announced at {self.place}"
            )
        self.place += count
        return taken

    def _open(self, entries: int, depth: int) -> None:
        """Counts a list or map before any of it is read."""
        if depth > MAX_DEPTH:
            raise WireError(f"E_WIRE_BOUNDS: more than {MAX_DEPTH} lists and maps in one another")
        if entries > self._entries:
            raise WireError(
                f"E_WIRE_BOUNDS: more than {MAX_ENTRIES} entries; send numbers as arrays"
            )
        self._entries -= entries

    def _list(self, size: int, depth: int) -> list[Any]:
        self._open(size, depth)
        return [self.value(depth) for _ in range(size)]

    def _map(self, size: int, depth: int) -> Any:
        self._open(size, depth)
        found: dict[str, Any] = {}
        for _ in range(size):
            key = self._key(depth)
            if key in found:
                raise WireError(f"E_WIRE_FORMAT: the key {key[:60]!r} occurs twice")
            found[key] = self.value(depth)
        if _ARRAY in found:
            return _array(found)
        return _number(found) if _NUMBER in found else found

    def _key(self, depth: int) -> str:
        key = self.value(depth)
        if not isinstance(key, str | bytes):
            raise WireError(f"E_WIRE_FORMAT: keys are text, got one of {type(key).__name__}")
        return key if isinstance(key, str) else _text(key)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise WireError(f"E_WIRE_FORMAT: text is not UTF-8: {error.reason}") from error


def _shown(value: Any) -> str:
    """Something of a stranger's, for a message."""
    return repr(value[:20]) if isinstance(value, str) else type(value).__name__


def _dtype(name: Any) -> np.dtype[Any]:
    if not isinstance(name, str) or name not in DTYPES:
        raise WireError(
            f"E_WIRE_ARRAY: dtype must be one of {', '.join(DTYPES)}, got {_shown(name)}"
        )
    return DTYPES[name]


def _check_form(found: dict[str, Any], mark: str, keys: set[str]) -> None:
    if found[mark] is not True or set(found) != keys:
        raise WireError(f"E_WIRE_ARRAY: {mark} must be true, beside {sorted(keys - {mark})} alone")


def _array(found: dict[str, Any]) -> NDArray[Any]:
    _check_form(found, _ARRAY, _ARRAY_KEYS)
    dtype, shape, data = _dtype(found["dtype"]), found["shape"], found["data"]
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(side) is int and side >= 0 for side in shape)
        or math.prod(max(side, 1) for side in shape) > MAX_BYTES  # also of empty arrays
    ):
        raise WireError(
            f"E_WIRE_ARRAY: shape must be a list of at most {MAX_DIMENSIONS} whole numbers whose "
            f"product is at most {MAX_BYTES}"
        )
    expected = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != expected:
        size = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise WireError(
            f"E_WIRE_ARRAY: {shape} of {dtype} takes exactly {expected} bytes, got {size}"
        )
    if dtype == np.bool_ and data.strip(b"\x00\x01"):
        raise WireError("E_WIRE_ARRAY: truth values are the bytes 0 and 1")
    return np.frombuffer(data, dtype).reshape(shape)


def _number(found: dict[str, Any]) -> np.generic:
    _check_form(found, _NUMBER, _NUMBER_KEYS)
    dtype, value = _dtype(found["dtype"]), found["data"]
    kinds = {"b": (bool,), "f": (float, int)}.get(dtype.kind, (int,))
    bounds = np.iinfo(dtype) if dtype.kind in "iu" else None
    if type(value) not in kinds or (bounds and not bounds.min <= value <= bounds.max):
        raise WireError(f"E_WIRE_ARRAY: {_shown(value)} is no {dtype}")
    with np.errstate(over="ignore"):
        scalar: np.generic = dtype.type(value)
    return scalar
