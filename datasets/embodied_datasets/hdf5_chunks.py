"""What HDF5 would take to decode a data set, beyond what its shape says.

A chunk is inflated whole, if only for one of its rows, and to whatever it holds: HDF5 notices too
late that this is more than the chunk's shape.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

from embodied_datasets.hdf5_vetting import GZIP, LZF, filters

_SUSPICIOUS = 16 * 2**20
_MAX_RATIO = 250  # recorded data compress less than this; what is nearly nothing compresses more
_EXPANSION = {GZIP: 1032, LZF: 88}  # bytes that one stored byte can become at most
_MAX_INFLATED = 64 * 2**20

Problem = tuple[str, str] | None
"""What is wrong, and what to do about it."""


def chunk_bytes(dataset: Any) -> int:
    """Bytes of a whole chunk of an h5py.Dataset; 0 where it has none."""
    return math.prod(dataset.chunks or (0,)) * int(dataset.dtype.itemsize)


def declares_too_much(dataset: Any, wanted: int) -> Problem:
    """Whether a range of `wanted` bytes is large and stored as nearly nothing."""
    size = max(wanted, chunk_bytes(dataset))
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if size > _SUSPICIOUS and max(declared, chunk_bytes(dataset)) > _MAX_RATIO * stored:
        return f"declares {declared} bytes but stores {stored}", "write it without padding"
    return None


def inflates_too_much(dataset: Any) -> Problem:
    """Whether a chunk may inflate to more than its shape."""
    if dataset.chunks is None:
        return None
    nominal = chunk_bytes(dataset)
    codes = filters(dataset.id)
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)
    for chunk in chunks:
        used = {code for i, code in enumerate(codes) if not chunk.filter_mask >> i & 1}
        if not _is_within(dataset, chunk, used & _EXPANSION.keys(), nominal):
            message = f"has a chunk of {chunk.size} bytes that may inflate beyond {nominal}"
            return message, "write it with gzip"
    return None


def _is_within(dataset: Any, chunk: Any, codecs: set[int], nominal: int) -> bool:
    if chunk.size > nominal * 1.01 + 1024:
        return False
    ratio = math.prod(_EXPANSION[codec] for codec in codecs)
    if not codecs or chunk.size * ratio <= max(_MAX_INFLATED, nominal):
        return True
    return codecs == {GZIP} and _inflates_within(dataset, chunk, nominal)


def _inflates_within(dataset: Any, chunk: Any, nominal: int) -> bool:
    _, stored = dataset.id.read_direct_chunk(chunk.chunk_offset)
    try:
        inflated = zlib.decompressobj().decompress(stored, nominal + 16)  # and a checksum's bytes
    except zlib.error:
        return False
    return len(inflated) < nominal + 16
