"""Files that are written whole or not at all, and small ones that are read with care."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embodied_datasets.faults import DataError, Fault

_MAX_JSON_BYTES = 16 * 2**20
_MAX_CONTAINERS = 10**6
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's fcntl.h and fs.h

Wrong = Callable[[str], DataError]
"""Makes the error that says what is wrong with a file."""


def parse_json(text: str | bytes | None, wrong: Wrong) -> dict[str, Any]:
    """A JSON object, refused before it is parsed if it would take much memory."""
    data = text.encode(errors="replace") if isinstance(text, str) else text
    if data is None or len(data) > _MAX_JSON_BYTES:
        raise wrong(f"must be JSON of at most {_MAX_JSON_BYTES} bytes")
    if data.count(b"[") + data.count(b"{") > _MAX_CONTAINERS:
        raise wrong(f"nests more than {_MAX_CONTAINERS} lists; it is no description")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise wrong(f"is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise wrong(f"must hold a JSON object, got {type(value).__name__}")
    return value


def read_json(path: Path, *, name: Path | None = None) -> dict[str, Any]:
    """The JSON object in a file, which errors call `name`.

    Files of unreasonable size are refused before they are read.
    """
    _check_size(path, name or path)
    return parse_json(path.read_bytes(), _wrong_json(name or path))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file, one a line; the file is refused as `read_json` does."""
    if not path.is_file():
        message = "is missing, so that the data set has a hole"
        raise DataError(Fault("E_DATA_MISSING", message, "fetch it again", file=path))
    _check_size(path, path)
    lines = path.read_bytes().splitlines()
    return [parse_json(line, _wrong_json(path)) for line in lines if line.strip()]


def _check_size(path: Path, name: Path) -> None:
    if path.stat().st_size > _MAX_JSON_BYTES:
        message = f"is larger than {_MAX_JSON_BYTES} bytes, so it is no metadata file"
        raise DataError(Fault("E_DATA_BUDGET", message, "restore the file", file=name))


def _wrong_json(name: Path) -> Wrong:
    return lambda message: DataError(Fault("E_DATA_JSON", message, "restore the file", file=name))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file and renames it to `path` once it is safely on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # No reader's glob, be it ours or another's, looks for this suffix.
    temporary = path.with_name(f".tmp-{path.name}.part")
    write(temporary)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def move_into_place(temporary: Path, path: Path) -> None:
    """Renames a file or folder to `path`, where nothing is, once all its bytes are on disk."""
    for folder, _, names in os.walk(temporary):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))
    if temporary.is_file():
        sync(temporary)
    temporary.rename(path)
    sync(path.absolute().parent)


def exchange(first: Path, second: Path) -> None:
    """Swaps two files, folders or links in one step.

    Raises OSError with EINVAL or ENOSYS where only Linux's local file systems can.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, "this system cannot swap two names", str(first))
    names = os.fsencode(first), os.fsencode(second)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(first), None, str(second))


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's list of names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Deletes a file or a folder; neither need be there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused if it leads out of the root, be it by `..` or by a link."""
    path = root / relative
    if "\0" in relative or not path.resolve().is_relative_to(root.resolve()):
        message = f"{relative!r} leads out of the data set's folder {root}"
        remedy = "copy the file into the folder and name it by a relative path"
        raise DataError(Fault("E_DATA_PATH", message, remedy))
    return path


def fingerprint(files: Sequence[Path], options: Any) -> str:
    """SHA-256 over files, and over the JSON-able options that choose among what they hold."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
