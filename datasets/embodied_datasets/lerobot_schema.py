"""The names and paths of LeRobot's layouts."""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from embodied_datasets.faults import DataError, Fault, Report
from embodied_datasets.files import read_json

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


def recorded(incoming: Path) -> list[Path]:
    """The files of all finished episodes in an incoming folder, sorted by key."""
    files = (path for path in incoming.glob("*.parquet") if not path.name.startswith("."))
    return sorted(files, key=lambda path: path.stem)


def is_final(root: Path) -> bool:
    """Whether a data set is complete: a recorder marks what it has not finalised."""
    path = root / INFO_PATH
    return path.exists() and not read_json(path).get("recording")


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
