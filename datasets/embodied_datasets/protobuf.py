"""Just enough protocol buffers to read a `tf.train.Example`.

    Example  { Features features = 1; }            Features { map<string, Feature> feature = 1; }
    Feature  { BytesList = 1 | FloatList = 2 | Int64List = 3; }     each { repeated value = 1; }

Every length is checked against what is left, nesting is fixed, and what comes out is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Feature = list[bytes] | NDArray[np.float32] | NDArray[np.int64]
"""The values of a feature; one without values is an empty list."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FEATURES = 4096
_MAX_INTEGERS = 2**24
_MAX_ITEMS = 2**20
"""Entries of one message: an object each in memory, however few bytes in the file."""


def parse_example(data: bytes) -> dict[str, Feature]:
    """The features of an Example by name; ValueError where the bytes are no Example."""
    found: dict[str, Feature] = {}
    entries = (entry for features in _messages(memoryview(data)) for entry in _messages(features))
    for count, entry in enumerate(entries):
        if count == _MAX_FEATURES:
            raise ValueError(f"an example has more than {_MAX_FEATURES} features")
        name, value = b"", memoryview(b"")
        for number, wire, payload in _fields(entry):
            if number == 1 and wire == _BYTES:
                name = bytes(payload)
            elif number == 2 and wire == _BYTES:
                value = payload
        found[name.decode("utf-8")] = _feature(value)
    return found


def _messages(view: memoryview) -> Iterator[memoryview]:
    """The payloads of all entries of field 1, the only one that these messages have."""
    return (payload for number, wire, payload in _fields(view) if (number, wire) == (1, _BYTES))


def _feature(view: memoryview) -> Feature:
    found: Feature = []
    for number, wire, payload in _fields(view):
        if wire == _BYTES and number == 1:
            found = [bytes(each) for each in _messages(payload)]
        elif wire == _BYTES and number == 2:
            found = np.frombuffer(_values(payload, _FIXED32), "<f4").astype(np.float32)
        elif wire == _BYTES and number == 3:
            found = varints(np.frombuffer(_values(payload, _VARINT), np.uint8))
    return found


def _values(view: memoryview, single: int) -> bytes:
    """The bytes of a list's numbers, which come packed or one at a time."""
    joined = bytearray()
    for number, wire, payload in _fields(view):
        if number == 1 and wire in (_BYTES, single):
            joined += payload
    return bytes(joined)


def varints(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Variable-length integers end to end: 7 bits a byte, lowest first, the top bit to go on."""
    if len(data) > 10 * _MAX_INTEGERS or np.count_nonzero(data < 0x80) > _MAX_INTEGERS:
        raise ValueError(f"a feature has more than {_MAX_INTEGERS} integers")
    ends = np.flatnonzero(data < 0x80)
    if len(data) and (not len(ends) or ends[-1] != len(data) - 1):
        raise ValueError("a number is cut off")
    starts = np.append(0, ends[:-1] + 1)[: len(ends)]
    lengths = ends - starts + 1
    if (lengths > 10).any():
        raise ValueError("a number has more than 10 bytes")
    values = np.zeros(len(ends), np.uint64)
    for place in range(int(lengths.max(initial=0))):
        more = np.flatnonzero(lengths > place)
        bits = (data[starts[more] + place] & 0x7F).astype(np.uint64)
        values[more] |= bits << np.uint64(7 * place)
    return values.view(np.int64)


def _fields(view: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(number, wire type, payload) of each field; the payload of a number is its bytes."""
    place, count = 0, 0
    while place < len(view):
        tag, place = _varint(view, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            start = place
            _, place = _varint(view, place)
            payload = view[start:place]
        else:
            if wire == _BYTES:
                size, place = _varint(view, place)
            elif wire in (_FIXED32, _FIXED64):
                size = 4 if wire == _FIXED32 else 8
            else:
                raise ValueError(f"wire type {wire} is unknown")
            if size > len(view) - place:
                raise ValueError(f"a field of {size} bytes is cut off")
            payload = view[place : place + size]
            place += size
        count += 1
        if count > _MAX_ITEMS:
            raise ValueError(f"a message has more than {_MAX_ITEMS} entries")
        yield number, wire, payload


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    """(value, place behind it)."""
    value = 0
    for index in range(10):
        if place + index >= len(view):
            break
        byte = view[place + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("a number is cut off")
