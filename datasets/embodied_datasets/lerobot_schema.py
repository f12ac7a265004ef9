"""The names, shapes and paths of LeRobot's v3.0 layout, shared by its reader and its writer."""

from __future__ import annotations

import json
import os
import re
import string
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
RECORDING_PATH = f"{INCOMING}/recording.json"
"""What all incoming episodes share: sizes, rates, cameras, robot."""

STATE = "observation.state"
ACTION = "action"
EXPERT_ACTION = "expert_action"
REWARD = "next.reward"
DONE = "next.done"
SUCCESS = "next.success"
TIMESTAMP = "timestamp"
IMAGES = "observation.images."

_MAX_JSON_BYTES = 16 * 2**20
_FORMAT_SPEC = re.compile(r"0?[1-9]?d?")

Feature = dict[str, Any]


def _feature(dtype: str, shape: Iterable[int], names: list[str] | None = None) -> Feature:
    return {"dtype": dtype, "shape": list(shape), "names": names}


def frame_features(state_dim: int, action_dim: int, columns: Iterable[str]) -> dict[str, Feature]:
    """The features of the named columns of a data file, in LeRobot's order."""
    known = {
        STATE: _feature("float32", (state_dim,)),
        ACTION: _feature("float32", (action_dim,)),
        EXPERT_ACTION: _feature("float32", (action_dim,)),
        REWARD: _feature("float32", (1,)),
        DONE: _feature("bool", (1,)),
        SUCCESS: _feature("bool", (1,)),
        TIMESTAMP: _feature("float32", (1,)),
        "frame_index": _feature("int64", (1,)),
        "episode_index": _feature("int64", (1,)),
        "index": _feature("int64", (1,)),
        "task_index": _feature("int64", (1,)),
    }
    return {name: feature for name, feature in known.items() if name in set(columns)}


def video_feature(shape: tuple[int, int], fps: float, info: Mapping[str, Any]) -> Feature:
    """The feature of one camera of shape (h, w); `info` describes the encoding."""
    height, width = shape
    facts = {"video.height": height, "video.width": width, "video.channels": 3, "video.fps": fps}
    feature = _feature("video", (height, width, 3), ["height", "width", "channels"])
    return feature | {"info": facts | {"has_audio": False, "is_depth_map": False} | dict(info)}


def to_column(values: NDArray[Any], feature: Feature) -> Any:
    """An (L, n) or (L,) array as an Arrow column: a scalar where n is 1, else a fixed-size list."""
    item = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=item)
    (size,) = feature["shape"]
    if size == 1:
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.field("element", item), size))


def from_column(column: Any, feature: Feature) -> NDArray[Any]:
    """A column of a table as an array (L, n), or (L,) where n is 1; ValueError if it misfits."""
    (size,) = feature["shape"]
    values = column.combine_chunks()
    rows = len(values)
    if pa.types.is_nested(values.type):
        values = values.flatten()
    if len(values) != rows * size or values.null_count:
        raise ValueError(
            f"holds {len(values) - values.null_count} values in {rows} rows, "
            f"but info.json gives it shape [{size}]"
        )
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    array = array.astype(feature["dtype"], copy=False)
    return array if size == 1 else array.reshape(rows, size)


def huggingface_metadata(features: Mapping[str, Feature]) -> dict[bytes, bytes]:
    """The schema metadata by which Hugging Face's library knows the columns again."""
    columns: dict[str, Any] = {}
    for name, feature in features.items():
        value = {"dtype": feature["dtype"], "_type": "Value"}
        (size,) = feature["shape"]
        listed = {"feature": value, "length": size, "_type": "List"}
        columns[name] = value if size == 1 else listed
    return {b"huggingface": json.dumps({"info": {"features": columns}}).encode()}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; refuses files of unreasonable size before reading them."""
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{path} is larger than {_MAX_JSON_BYTES} bytes; it is no metadata file")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); restore the file") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file and renames it to `path` once it is safely on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, since video containers are chosen by it; the dot keeps globs away.
    temporary = path.with_name(f".tmp-{path.name}")
    write(temporary)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def recorded(incoming: Path) -> list[Path]:
    """The files of all finished episodes in an incoming folder, sorted by key."""
    files = (path for path in incoming.glob("*.parquet") if not path.name.startswith("."))
    return sorted(files, key=lambda path: path.stem)


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
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"path template {template!r} is malformed ({error})") from error
    for _, name, spec, conversion in fields:
        if name is None:
            continue
        if name not in allowed or conversion or not _FORMAT_SPEC.fullmatch(spec or ""):
            raise ValueError(
                f"path template {template!r} has the field {name!r} with format {spec!r}; "
                f"only {sorted(allowed)} with a width such as ':03d' are allowed"
            )
    try:
        return template.format(**values)
    except ValueError as error:
        raise ValueError(f"path template {template!r} cannot be filled ({error})") from error


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused if it leads out of the root, be it by `..` or by a link."""
    path = root / relative
    if "\0" in relative or not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"{relative!r} leads out of the data set's folder {root}; "
            "copy the file into the folder and name it by a relative path"
        )
    return path
