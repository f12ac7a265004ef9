"""TFRecord files without TensorFlow: framing and checksums.

A record is its length (uint64), the length's checksum, the bytes, and their checksum; checksums
are CRC-32C (RFC 3720, appendix B.4), rotated and shifted so that a checksum of checksums is safe.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embodied_datasets.budget import Budget, damaged

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bit-reversed
_HEAD = struct.Struct("<QI")
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Record:
    """Where a record's bytes lie."""

    file: Path
    offset: int
    length: int


def find_records(path: Path) -> list[Record]:
    """All records of a file, found by their lengths alone; DataError where the file is damaged."""
    records: list[Record] = []
    size = path.stat().st_size
    with path.open("rb") as file:
        while (offset := file.tell()) < size:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise damaged(path, f"ends within record {len(records)}")
            length, checksum = _HEAD.unpack(head)
            if masked_crc(head[:8]) != checksum:
                raise damaged(path, f"is no TFRecord file, or damaged, at byte {offset}")
            if offset + _HEAD.size + length + _CRC.size > size:
                raise damaged(path, f"ends within record {len(records)}")
            records.append(Record(path, offset + _HEAD.size, length))
            file.seek(length + _CRC.size, 1)
    return records


def read_record(record: Record, max_bytes: int) -> bytes:
    """A record's bytes; DataError if they are damaged or more than `max_bytes`."""
    Budget(max_bytes, record.file).take(record.length)
    with record.file.open("rb") as file:
        file.seek(record.offset)
        data = file.read(record.length)
        checksum = file.read(_CRC.size)
    if len(data) < record.length or _CRC.pack(masked_crc(data)) != checksum:
        raise damaged(record.file, f"the record at byte {record.offset} fails its checksum")
    return data


def masked_crc(data: bytes) -> int:
    """CRC-32C rotated right by 15 bits, plus a constant."""
    crc = _crc32c()(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _crc32c() -> Callable[[bytes], int]:
    """The library's, which zarr brings along, or else ours, at some 10 MB/s."""
    try:
        import google_crc32c
    except ImportError:
        return crc32c
    value: Callable[[bytes], int] = google_crc32c.value
    return value


def crc32c(data: bytes) -> int:
    """CRC-32C, a byte at a time."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@functools.cache
def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table
