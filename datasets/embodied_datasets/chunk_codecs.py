"""Unpacking compressed bytes whose size is known, so that none can unpack to more."""

from __future__ import annotations

import bz2
import importlib
import lzma
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embodied_datasets.budget import damaged
from embodied_datasets.faults import DataError, Fault

_ERRORS = (ValueError, RuntimeError, EOFError, OSError, zlib.error, lzma.LZMAError, struct.error)
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def unpack(codec: str, packed: bytes, size: int, file: Path, field: str) -> bytes:
    """Exactly `size` bytes, unpacked by one of a few named codecs.

    Raises DataError, which names file and field, if the codec is not among them or if the bytes
    are damaged, fewer, or more.
    """
    if codec not in _CODECS:
        known = sorted(filter(None, _CODECS))
        raise DataError(
            Fault(
                "E_DATA_CODEC",
                f"is packed by {codec!r}, expected one of {known}",
                "write the data again with one of these; others could run code",
                file=file,
                field=field,
            )
        )
    try:
        plain = _CODECS[codec](packed, size)
        if len(plain) != size:
            raise ValueError(f"{len(plain)} bytes where {size} belong")
    except _ERRORS as error:
        raise damaged(file, f"cannot be unpacked ({error})", field=field) from error
    return plain


def _plain(packed: bytes, size: int) -> bytes:
    return packed


def _inflate(wbits: int) -> Callable[[bytes, int], bytes]:
    return lambda packed, size: zlib.decompressobj(wbits).decompress(packed, size + 1)


def _bz2(packed: bytes, size: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(packed, size + 1)


def _lzma(packed: bytes, size: int) -> bytes:
    return lzma.LZMADecompressor(memlimit=2**28).decompress(packed, size + 1)


def _blosc(packed: bytes, size: int) -> bytes:
    # Blosc 1: version, version of the codec, flags, typesize, then nbytes, blocksize, cbytes.
    _, _, _, _, declared, _, stored = struct.unpack_from("<4B3I", packed)
    _require(declared == size and stored == len(packed), declared, size)
    return bytes(_numcodecs("blosc").decompress(packed))


def _lz4(packed: bytes, size: int) -> bytes:
    (declared,) = struct.unpack_from("<I", packed)
    _require(declared == size, declared, size)
    return bytes(_numcodecs("lz4").decompress(packed))


def _zstd(packed: bytes, size: int) -> bytes:
    declared = _zstd_size(packed)
    _require(declared == size, declared, size)
    return bytes(_numcodecs("zstd").decompress(packed))


def _zstd_size(packed: bytes) -> int | None:
    """What the frame's header (RFC 8878, 3.1.1.1) declares; None where it does not."""
    if packed[:4] != _ZSTD_MAGIC or len(packed) == 4:
        raise ValueError("no zstd frame")
    flags = packed[4]
    single = flags >> 5 & 1
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    length = (single, 2, 4, 8)[flags >> 6]
    declared = int.from_bytes(packed[start : start + length], "little")
    return (declared + 256 * (length == 2)) if length else None


def _require(fits: bool, declared: int | None, size: int) -> None:
    if not fits:
        raise ValueError(f"its header declares {declared} bytes where {size} belong")


def _numcodecs(module: str) -> Any:
    try:
        return importlib.import_module(f"numcodecs.{module}")
    except ImportError as error:
        raise ImportError(
            f"{module} chunks need numcodecs; install with: pip install 'embodied-policies[data]'"
        ) from error


_CODECS: dict[str, Callable[[bytes, int], bytes]] = {
    "": _plain,
    "blosc": _blosc,
    "bz2": _bz2,
    "deflate": _inflate(-15),  # of zip archives
    "gzip": _inflate(31),
    "lz4": _lz4,
    "lzma": _lzma,
    "zlib": _inflate(15),
    "zstd": _zstd,
}
