"""The codec: openpi's form both ways, and nothing else gets in."""

from __future__ import annotations

import math
import struct
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embodied.serve import wire
from embodied.serve.wire import DTYPES, MAX_BYTES, MAX_DEPTH, MAX_ENTRIES, WireError, decode, encode

numbers = arrays.arrays(
    st.sampled_from(list(DTYPES.values())),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=40)
)
values = st.recursive(
    plain | numbers,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray | np.generic):
        return (
            found.dtype == expected.dtype
            and found.shape == expected.shape
            and found.tobytes() == expected.tobytes()  # NaN included
        )
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k]) for k in found)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, float):
        return struct.pack("d", found) == struct.pack("d", expected)
    return type(found) is type(expected) and bool(found == expected)


@given(values)
def test_what_is_encoded_is_decoded(value: Any) -> None:
    assert same(decode(encode(value)), value)


@given(values)
def test_whoever_knows_msgpack_reads_the_same(value: Any) -> None:
    """The library's reader is the reference; arrays are undone as openpi does it."""

    def undone(found: dict[Any, Any]) -> Any:
        if b"__ndarray__" in found:
            kind = np.dtype(found[b"dtype"])
            return np.ndarray(buffer=found[b"data"], dtype=kind, shape=found[b"shape"])
        return found

    assert same(msgpack.unpackb(encode(value), object_hook=undone), value)


@given(st.sampled_from(list(DTYPES.values())), st.data())
def test_numpy_numbers_keep_their_type(dtype: np.dtype[Any], data: st.DataObject) -> None:
    number = dtype.type(data.draw(arrays.from_dtype(dtype)))
    found = decode(msgpack.packb(wire._plain(number)))
    assert same(found, number) or (math.isnan(found) and math.isnan(number))
    assert found.dtype == dtype


def test_keys_of_arrays_may_be_text_or_bytes() -> None:
    array = {"__ndarray__": True, "data": b"\x01\x02", "dtype": "|u1", "shape": [2]}
    for message in (array, {key.encode(): value for key, value in array.items()}):
        assert decode(msgpack.packb(message)).tolist() == [1, 2]


def test_arrays_that_are_not_in_order_are_sent_in_order() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert decode(encode(array.T)).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert decode(encode(array[:, ::-2])).tolist() == [[2, 0], [5, 3]]


def test_what_is_read_cannot_be_written_to() -> None:
    assert not decode(encode(np.zeros(3))).flags.writeable


def array(**fields: Any) -> bytes:
    """A message of two bytes in an array, but for some fields."""
    found = {"__ndarray__": True, "data": b"\x00\x01", "dtype": "|u1", "shape": [2], **fields}
    return bytes(msgpack.packb({k: v for k, v in found.items() if v is not None}))


def number(data: Any, dtype: str) -> bytes:
    return bytes(msgpack.packb({"__npgeneric__": True, "data": data, "dtype": dtype}))


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "E_WIRE_FORMAT: the message ends at byte 0"),
    "a byte more": (b"\xc0\xc0", "E_WIRE_FORMAT: 1 bytes follow after"),
    "text cut short": (b"\xa5abc", "E_WIRE_FORMAT: the message ends at byte 4, 5 more were"),
    "a head cut short": (b"\xda\x00", "E_WIRE_FORMAT: the message ends at byte 2"),
    "a number cut short": (b"\xcb\x00", "E_WIRE_FORMAT: the message ends"),
    "a byte without meaning": (b"\xc1", "E_WIRE_FORMAT: the byte 0xc1 is not read here"),
    "fixext": (msgpack.packb(msgpack.ExtType(4, b"x" * 16)), "E_WIRE_FORMAT: extension types are"),
    "ext": (msgpack.packb(msgpack.ExtType(4, b"x" * 20)), "E_WIRE_FORMAT: extension types are"),
    "a timestamp": (msgpack.packb(msgpack.Timestamp(1)), "E_WIRE_FORMAT: extension types are"),
    "no UTF-8": (b"\xa1\xff", "E_WIRE_FORMAT: text is not UTF-8"),
    "a number for a key": (b"\x81\x01\x01", "E_WIRE_FORMAT: keys are text, got one of int"),
    "a list for a key": (b"\x81\x90\x01", "E_WIRE_FORMAT: keys are text, got one of list"),
    "a key twice": (b"\x82\xa1a\x01\xc4\x01a\x02", "E_WIRE_FORMAT: the key 'a' occurs twice"),
    "too deep": (nested(MAX_DEPTH + 1), "E_WIRE_BOUNDS: more than 8 lists and maps in one"),
    "far too deep": (nested(1_000_000), "E_WIRE_BOUNDS: more than 8 lists and maps in one"),
    "too many": (msgpack.packb([0] * (MAX_ENTRIES + 1)), "E_WIRE_BOUNDS: more than 4096 entries"),
    "too many in all": (msgpack.packb([[0] * 99] * 99), "E_WIRE_BOUNDS: more than 4096 entries"),
    "too many announced": (b"\xdd\xff\xff\xff\xff", "E_WIRE_BOUNDS: more than 4096 entries"),
    "a map too large": (b"\xdf\x00\x00\x08\x01", "E_WIRE_FORMAT: the message ends"),
    "maps too large": (b"\xdf\x00\x00\x10\x01", "E_WIRE_BOUNDS: more than 4096 entries"),
    "too large": (b"\xc6\x00\x80\x00\x00" + bytes(MAX_BYTES), "E_WIRE_SIZE: a message has at most"),
    "objects": (array(dtype="|O"), "E_WIRE_ARRAY: dtype must be one of .*, got '|O'"),
    "records": (array(dtype="|V2"), "E_WIRE_ARRAY: dtype must be one of"),
    "fields": (array(dtype=[["a", "<i2"]]), "E_WIRE_ARRAY: dtype must be one of .*, got list"),
    "complex numbers": (array(dtype="<c8"), "E_WIRE_ARRAY: dtype must be one of"),
    "strings": (array(dtype="|S2"), "E_WIRE_ARRAY: dtype must be one of"),
    "dates": (array(dtype="<M8[ns]"), "E_WIRE_ARRAY: dtype must be one of"),
    "the other end first": (array(dtype=">u2", shape=[1]), "E_WIRE_ARRAY: dtype must be one of"),
    "a long dtype": (array(dtype="x" * 999), "got 'xxxxxxxxxxxxxxxxxxxx'$"),
    "no dtype": (array(dtype=None), "E_WIRE_ARRAY: __ndarray__ must be true, beside"),
    "a field more": (array(order="C"), "E_WIRE_ARRAY: __ndarray__ must be true, beside"),
    "a false array": (array(__ndarray__=False), "E_WIRE_ARRAY: __ndarray__ must be true"),
    "too few bytes": (array(shape=[3]), r"E_WIRE_ARRAY: \[3\] of uint8 takes exactly 3 bytes, got"),
    "too many bytes": (array(shape=[1]), "E_WIRE_ARRAY: .* takes exactly 1 bytes, got 2 bytes"),
    "text for bytes": (array(data="ab"), "E_WIRE_ARRAY: .* takes exactly 2 bytes, got str"),
    "a negative side": (array(shape=[-2]), "E_WIRE_ARRAY: shape must be a list"),
    "two negative sides": (array(shape=[-1, -2]), "E_WIRE_ARRAY: shape must be a list"),
    "a broken side": (array(shape=[2.0]), "E_WIRE_ARRAY: shape must be a list"),
    "a true side": (array(shape=[True, 2]), "E_WIRE_ARRAY: shape must be a list"),
    "no list of sides": (array(shape=2), "E_WIRE_ARRAY: shape must be a list"),
    "many dimensions": (array(shape=[1, 1, 1, 1, 1, 1, 2]), "E_WIRE_ARRAY: shape must be a list"),
    "a huge array": (array(shape=[2**62]), "E_WIRE_ARRAY: shape must be a list"),
    "a huge empty array": (array(shape=[0, 2**40], data=b""), "E_WIRE_ARRAY: shape must be"),
    "a huge product": (array(shape=[0, 2**12, 2**12], data=b""), "E_WIRE_ARRAY: shape must be"),
    "half a truth": (array(dtype="|b1", data=b"\x00\x02"), "E_WIRE_ARRAY: truth values are the"),
    "a number too large": (number(300, "|u1"), "E_WIRE_ARRAY: int is no uint8"),
    "a negative number": (number(-1, "<u8"), "E_WIRE_ARRAY: int is no uint64"),
    "a broken number": (number(1.5, "<i4"), "E_WIRE_ARRAY: float is no int32"),
    "a true number": (number(True, "<f4"), "E_WIRE_ARRAY: bool is no float32"),
    "text for a number": (number("1", "<f4"), "E_WIRE_ARRAY: '1' is no float32"),
    "bytes for a number": (number(b"1", "<f4"), "E_WIRE_ARRAY: bytes is no float32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_message_is_refused_in_a_line(name: str) -> None:
    message, problem = REFUSED[name]
    with pytest.raises(WireError, match=f"^{problem}" if problem[0] == "E" else problem) as found:
        decode(message)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 250


def test_the_largest_things_that_are_allowed_are_read() -> None:
    assert decode(nested(MAX_DEPTH)) == [[[[[[[[None]]]]]]]]
    assert decode(msgpack.packb([0] * MAX_ENTRIES)) == [0] * MAX_ENTRIES
    image = np.zeros(MAX_BYTES - 60, np.uint8)
    assert decode(encode(image)).shape == image.shape


def test_what_is_announced_takes_no_memory() -> None:
    """Each of these claims up to 4 GiB in a few bytes."""
    tracemalloc.start()
    for head in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        for message in (head, (b"\xdc\x0f\xff" * 8) + head, b"\xdb" + head[1:]):
            with pytest.raises(WireError):
                decode(message)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (object(), "E_WIRE_FORMAT: this cannot be sent: object is neither plain nor an array"),
        ({1, 2}, "E_WIRE_FORMAT: this cannot be sent"),
        (2**64, "E_WIRE_FORMAT: this cannot be sent"),
        (np.array([object()]), "E_WIRE_ARRAY: arrays of object cannot be sent"),
        (np.array([1j]), "E_WIRE_ARRAY: arrays of complex128 cannot be sent"),
        (np.array(["a"]), "E_WIRE_ARRAY: arrays of <U1 cannot be sent"),
        (np.zeros(2, ">f4"), "E_WIRE_ARRAY: arrays of >f4 cannot be sent"),
        (np.zeros(MAX_BYTES), "E_WIRE_SIZE: a message has at most 8388608 bytes"),
    ],
)
def test_what_cannot_be_read_is_not_sent(value: Any, problem: str) -> None:
    with pytest.raises(WireError, match=f"^{problem}"):
        encode(value)


GUARDS = {
    "MAX_ENTRIES": ("MAX_ENTRIES", 10**9, "too many"),
    "MAX_DEPTH": ("MAX_DEPTH", 10**9, "too deep"),
    "MAX_BYTES": ("check_size", lambda message: None, "too large"),
    "dtypes": ("DTYPES", {**DTYPES, ">u2": np.dtype(">u2")}, "the other end first"),
    "form": ("_check_form", lambda found, mark, keys: None, "a field more"),
}


@pytest.mark.parametrize("name", GUARDS)
def test_each_guard_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attribute, value, case = GUARDS[name]
    monkeypatch.setattr(wire, attribute, value)
    decode(REFUSED[case][0])
