"""Reading npy and npz files that nobody vouches for.

NumPy's own reader allocates what a header asks for and, if allowed, unpickles; here the headers
of all arrays are checked against a budget before any array is read.
"""

from __future__ import annotations

import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from embodied_datasets.budget import MAX_BYTES, Budget, array_bytes, check_numbers, damaged
from embodied_datasets.zip_safe import data_offset, open_zip

_MAX_HEADER = 2**14
_BLOCK = 2**20
_PARSING = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError)
_NO_HEADER = (*_PARSING, struct.error, zlib.error)
_PARSERS = {
    (1, 0): ("<H", np.lib.format.read_array_header_1_0),
    (2, 0): ("<I", np.lib.format.read_array_header_2_0),
}


@dataclass(frozen=True)
class Header:
    """What an npy file says about its array.

    Attributes:
        order: "C" or "F", how the numbers lie.
        offset: of the first number, from the start of the npy file, bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str
    offset: int

    @property
    def nbytes(self) -> int:
        return array_bytes(self.shape, self.dtype)


class Npz(Mapping[str, NDArray[Any]]):
    """The arrays of an npz file by name, each read when it is asked for.

    Members that are not compressed can be memory-mapped instead, see `mapped`.

    Args:
        max_bytes: refuses a file whose compressed arrays take more than this together. Those that
            are not compressed count only when they are read.

    Raises DataError where the file is damaged, holds objects, or asks for more.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self.headers: dict[str, Header] = {}
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._max_bytes = max_bytes
        budget = Budget(max_bytes, path)
        with open_zip(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    header = _read_header(stream, path, name)
                if header.offset + header.nbytes != member.file_size:
                    message = f"holds {member.file_size} bytes, its header says {header.nbytes}"
                    raise damaged(path, message, field=name)
                if member.compress_type != zipfile.ZIP_STORED:
                    budget.take(header.nbytes, name)
                self.headers[name], self._members[name] = header, member

    def __getitem__(self, name: str) -> NDArray[Any]:
        header = self.headers[name]
        Budget(self._max_bytes, self.path).take(header.nbytes, name)
        flat = np.empty(header.nbytes, np.uint8)
        with open_zip(self.path) as archive, archive.open(self._members[name]) as stream:
            _fill(stream, header.offset, flat, self.path, name)
        return flat.view(header.dtype).reshape(header.shape, order=header.order)  # type: ignore[call-overload, no-any-return]

    def mapped(self, name: str) -> NDArray[Any]:
        """Like [name], but on disk where it is not compressed; its checksum is not verified."""
        member, header = self._members[name], self.headers[name]
        if member.compress_type != zipfile.ZIP_STORED or not header.nbytes:
            return self[name]
        return _map(self.path, header, data_offset(self.path, member), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)

    def __len__(self) -> int:
        return len(self.headers)


def _read_header(stream: IO[bytes], path: Path, name: str | None) -> Header:
    try:
        start = stream.read(8)
        version = np.lib.format.read_magic(io.BytesIO(start))
        if version not in _PARSERS:
            raise ValueError(f"npy version {version}")
        length, parse = _PARSERS[version]
        head = stream.read(struct.calcsize(length))
        (size,) = struct.unpack(length, head)
        if size > _MAX_HEADER:
            raise ValueError(f"its header takes {size} bytes")
        shape, fortran, dtype = parse(io.BytesIO(head + stream.read(size)))
    except _NO_HEADER as error:
        message = f"is no intact npy array ({error})"
        raise damaged(path, message, field=name) from error
    check_numbers(path, name or path.name, shape, dtype, text=True)
    return Header(shape, dtype, "F" if fortran else "C", len(start) + len(head) + size)


def _fill(
    stream: IO[bytes], offset: int, flat: NDArray[np.uint8], path: Path, name: str | None
) -> None:
    """Reads exactly the array's bytes behind its header, block by block."""
    try:
        stream.read(offset)
        done = 0
        while done < len(flat):
            block = stream.read(min(_BLOCK, len(flat) - done))
            if not block:
                raise EOFError(f"it ends after {done} of {len(flat)} bytes")
            flat[done : done + len(block)] = np.frombuffer(block, np.uint8)
            done += len(block)
        stream.read(1)  # lets the archive compare the checksum
    except (zlib.error, zipfile.BadZipFile, EOFError) as error:
        raise damaged(path, f"cannot be unpacked ({error})", field=name) from error


def _map(path: Path, header: Header, start: int, name: str | None) -> NDArray[Any]:
    start += header.offset
    if start + header.nbytes > path.stat().st_size:
        raise damaged(path, f"ends before the {header.nbytes} bytes of its array", field=name)
    order: Any = header.order
    return np.memmap(path, header.dtype, "r", start, header.shape, order)
