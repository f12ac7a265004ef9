"""The names and paths of LeRobot's layouts, and files that are written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import string
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from embodied_datasets.faults import DataError, Fault, Report

CODEBASE_VERSION = "v3.0"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200

INCOMING = "incoming"
"""Folder of the episodes recorded so far, one Parquet file each, until the set is finalised."""
METADATA_KEY = b"embodied"
"""Key of an incoming file's schema metadata that holds its episode's facts as JSON."""
FINAL_KEY = b"embodied.final"
"""Key of an incoming file's schema metadata that holds what was seen after its last action."""
RECORDING_PATH = f"{INCOMING}/recording.json"
"""What all incoming episodes share: sizes, rates, cameras, robot."""

STATE = "observation.state"
ACTION = "action"
EXPERT_ACTION = "expert_action"
REWARD = "next.reward"
DONE = "next.done"
SUCCESS = "next.success"
TERMINATED = "next.terminated"
TRUNCATED = "next.truncated"
TIMESTAMP = "timestamp"
OBSERVATION = "observation."
IMAGES = "observation.images."
PERSISTENT = "language_persistent"
EVENTS = "language_events"
COUNTERS = ("frame_index", "episode_index", "index", "task_index")

_MAX_JSON_BYTES = 16 * 2**20
_FORMAT_SPEC = re.compile(r"0?[1-9]?d?")


def fail(code: str, file: Path | None, message: str, remedy: str, **place: Any) -> NoReturn:
    """Raises a DataError; `place` holds further fields of its fault."""
    raise DataError(Fault(code, message, remedy, file=file, **place))


@contextmanager
def relative_to(root: Path) -> Iterator[None]:
    """Lets the faults of DataErrors name files relative to the data set."""
    try:
        yield
    except DataError as error:
        raise DataError(relative(error.fault, root)) from error.__cause__


def relative(fault: Fault, root: Path) -> Fault:
    """The fault with its file relative to the data set."""
    if fault.file is None or not fault.file.is_relative_to(root):
        return fault
    return dataclasses.replace(fault, file=fault.file.relative_to(root))


def reporter(report: Report, root: Path) -> Report:
    """`report` for faults whose files are to be named relative to the data set."""
    return lambda fault: report(relative(fault, root))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; refuses files of unreasonable size before reading them."""
    if path.stat().st_size > _MAX_JSON_BYTES:
        message = f"is larger than {_MAX_JSON_BYTES} bytes, so it is no metadata file"
        fail("E_DATA_BUDGET", path, message, "restore the file")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        fail("E_DATA_JSON", path, f"is not valid JSON ({error})", "restore the file")
    if not isinstance(value, dict):
        message = f"must hold a JSON object, got {type(value).__name__}"
        fail("E_DATA_JSON", path, message, "restore the file")
    return value


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file and renames it to `path` once it is safely on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Neither our nor LeRobot's globs look for this suffix.
    temporary = path.with_name(f".tmp-{path.name}.part")
    write(temporary)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def recorded(incoming: Path) -> list[Path]:
    """The files of all finished episodes in an incoming folder, sorted by key."""
    files = (path for path in incoming.glob("*.parquet") if not path.name.startswith("."))
    return sorted(files, key=lambda path: path.stem)


def is_final(root: Path) -> bool:
    """Whether a data set is complete: a recorder marks what it has not finalised."""
    path = root / INFO_PATH
    return path.exists() and not read_json(path).get("recording")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file, one a line."""
    if not path.is_file():
        message = "is missing, so that the data set has a hole"
        fail("E_DATA_MISSING", path, message, "fetch it again")
    if path.stat().st_size > _MAX_JSON_BYTES:
        message = f"is larger than {_MAX_JSON_BYTES} bytes, so it is no metadata file"
        fail("E_DATA_BUDGET", path, message, "restore the file")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        values = [json.loads(line) for line in lines if line.strip()]
    except (json.JSONDecodeError, RecursionError) as error:
        fail("E_DATA_JSON", path, f"is not valid JSON lines ({error})", "restore the file")
    if not all(isinstance(value, dict) for value in values):
        fail("E_DATA_JSON", path, "must hold one JSON object a line", "restore the file")
    return values


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's list of names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def expand(template: str, allowed: set[str], **values: int | str) -> str:
    """Fills a path template whose fields must be plain, known names.

    A format string can walk through attributes and ask for gigabytes of padding, so that one from
    a file is checked field by field before it is used.
    """
    remedy = f"correct it in {INFO_PATH}"
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as error:
        message = f"path template {template!r} is malformed ({error})"
        fail("E_DATA_TEMPLATE", None, message, remedy)
    for _, name, spec, conversion in fields:
        if name is None:
            continue
        if name not in allowed or conversion or not _FORMAT_SPEC.fullmatch(spec or ""):
            message = (
                f"path template {template!r} has the field {name!r} with format {spec!r}, but "
                f"only {sorted(allowed)} with a width such as ':03d' are allowed"
            )
            fail("E_DATA_TEMPLATE", None, message, remedy)
    try:
        return template.format(**values)
    except ValueError as error:
        message = f"path template {template!r} cannot be filled ({error})"
        fail("E_DATA_TEMPLATE", None, message, remedy)


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused if it leads out of the root, be it by `..` or by a link."""
    path = root / relative
    if "\0" in relative or not path.resolve().is_relative_to(root.resolve()):
        message = f"{relative!r} leads out of the data set's folder {root}"
        remedy = "copy the file into the folder and name it by a relative path"
        fail("E_DATA_PATH", None, message, remedy)
    return path
