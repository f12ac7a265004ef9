"""Zip archives (npz, zarr.zip) whose names and sizes are checked before anything is unpacked."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from embodied_datasets.budget import damaged
from embodied_datasets.faults import DataError, Fault

_END = struct.Struct("<4s4H2LH")  # APPNOTE 4.3.16, end of central directory record
_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_MAX_COMMENT = 2**16
_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7, a member's own header
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BYTES_PER_ENTRY = 512
"""Of the central directory: an honest entry has a name, some fields and no long comment."""


@contextmanager
def open_zip(path: Path, *, max_entries: int = 4096) -> Iterator[zipfile.ZipFile]:
    """The archive, open for reading. Raises DataError where it is damaged or hostile.

    Refused are member names that lead out of a folder, encrypted members, compression other than
    deflate, names that appear twice, and directories of more than `max_entries` members.
    """
    try:
        _check_directory(path, max_entries)
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist(), max_entries)
            yield archive
    except DataError:
        raise
    except (zipfile.BadZipFile, struct.error, EOFError, NotImplementedError, ValueError) as error:
        raise damaged(path, f"is no intact zip archive ({error})") from error


def _check_directory(path: Path, max_entries: int) -> None:
    """The directory is parsed into objects many times its size, so its size is looked at first."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - _MAX_COMMENT - _END.size)
        file.seek(start)
        tail = file.read()
        place = tail.rfind(b"PK\5\6")
        if place < 0:
            raise zipfile.BadZipFile("it has no central directory")
        _, _, _, _, entries, length, _, _ = _END.unpack_from(tail, place)
        if entries == 0xFFFF or length == 0xFFFFFFFF:
            file.seek(max(0, start + place - _LOCATOR.size))
            _, _, offset, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
            file.seek(min(offset, size))
            fields = _END64.unpack(file.read(_END64.size))
            entries, length = fields[7], fields[8]
    if entries > max_entries or length > max_entries * _BYTES_PER_ENTRY:
        raise DataError(
            Fault(
                "E_DATA_BUDGET",
                f"lists {entries} members in {length} bytes, more than {max_entries} members",
                "unpack the archive if you trust it, and read the folder",
                file=path,
            )
        )


def _check_members(path: Path, members: list[zipfile.ZipInfo], max_entries: int) -> None:
    names = [member.filename for member in members]
    if len(names) > max_entries or len(set(names)) != len(names):
        raise zipfile.BadZipFile("its directory lists a name twice, or more than it says")
    size = path.stat().st_size
    for member in members:
        if not 0 <= member.header_offset <= size - _LOCAL.size - member.compress_size:
            raise zipfile.BadZipFile(f"{member.filename!r} does not lie in the file")
        if leads_out(member.filename):
            message = f"has a member {member.filename!r}, a path that leads out of the archive"
            remedy = "do not use this file; nothing was unpacked"
            raise DataError(Fault("E_DATA_PATH", message, remedy, file=path))
        if member.flag_bits & 1 or member.compress_type not in _METHODS:
            raise zipfile.BadZipFile(f"{member.filename!r} is encrypted or compressed unusually")


def leads_out(name: str) -> bool:
    """Whether a relative name could denote something outside the folder that it is relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    drive = name[1:2] == ":"
    return path.is_absolute() or ".." in path.parts or "\0" in name or drive


def data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin in the file."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        fields = _LOCAL.unpack(file.read(_LOCAL.size))  # open_zip saw that it lies in the file
    if fields[0] != b"PK\3\4":
        raise damaged(path, "has no member where its directory says", field=member.filename)
    return int(member.header_offset + _LOCAL.size + fields[-2] + fields[-1])
