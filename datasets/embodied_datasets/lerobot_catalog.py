"""What a data set's metadata says about its episodes, checked before any data is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embodied_datasets import lerobot_info as header
from embodied_datasets import lerobot_schema as schema

_MAX_ROWS = 10**6
_MAX_BYTES = 2**30
_PLACES = ("chunk_index", "file_index")
_FLAGS = ("success", "terminated", "truncated")


@dataclass(frozen=True)
class Entry:
    """One episode's place and facts.

    Attributes:
        file: the Parquet file of its rows; episodes of one file follow each other.
        length: number of rows.
        instruction: None where the rows' `task_index` tells it.
        key: its name, by which episodes are sorted; empty where none is recorded.
        flags: success, terminated and truncated, as far as they are recorded.
        info: a JSON object.
        videos: camera -> (file, time of the first frame in s).
    """

    file: Path
    length: int
    instruction: str | None
    key: str
    flags: Mapping[str, bool]
    info: str
    videos: Mapping[str, tuple[Path, float]]


@dataclass(frozen=True)
class Catalog:
    """A whole data set's metadata.

    Attributes:
        features: LeRobot's description of each column that is read.
        cameras: camera -> (h, w) of the videos.
        action_bounds: (low, high), where they are recorded.
        render_profile: how a simulator drew the images, where that is recorded.
        tasks: instructions by `task_index`.
        files: the metadata files that determine the content.
    """

    root: Path
    fps: float
    features: Mapping[str, schema.Feature]
    cameras: Mapping[str, tuple[int, int]]
    action_bounds: tuple[tuple[float, ...], tuple[float, ...]] | None
    render_profile: str | None
    tasks: Sequence[str]
    entries: Sequence[Entry]
    files: Sequence[Path]


def open_table(path: Path, strings: Sequence[str] = ()) -> Any:
    """Opens a Parquet file; the string columns named come as dictionaries, so that one long text
    in many rows stays small."""
    if not path.is_file():
        raise ValueError(f"{path} is missing, so that the data set has a hole; fetch it again")
    try:
        return pq.ParquetFile(path, read_dictionary=list(strings))
    except pa.ArrowException as error:
        raise ValueError(
            f"{path} is damaged or was never finished ({error}); fetch or record it again"
        ) from error


def _read_table(path: Path, columns: Sequence[str], strings: Sequence[str]) -> Any:
    """Reads columns of a metadata file, unless they are of unreasonable size."""
    parquet = open_table(path, strings)
    metadata = parquet.metadata
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if metadata.num_rows > _MAX_ROWS or size > _MAX_BYTES:
        raise ValueError(
            f"{path} unpacks to {metadata.num_rows} rows of {size} bytes, more than {_MAX_ROWS} "
            f"rows or {_MAX_BYTES} bytes; split the data set"
        )
    return parquet.read(list(columns))


def read_catalog(root: Path) -> Catalog:
    """Reads the metadata of a finalised set, or else of one that is still being recorded."""
    if (root / schema.INFO_PATH).exists():
        return _final(root)
    if (root / schema.RECORDING_PATH).exists():
        return _incoming(root)
    raise ValueError(
        f"{root} has no {schema.INFO_PATH}, so it is no LeRobot v3.0 data set; "
        "name the folder that holds meta/, data/ and videos/"
    )


def _final(root: Path) -> Catalog:
    path = schema.inside(root, schema.INFO_PATH)
    info = schema.read_json(path)
    header.check_version(path, info)
    features = header.features(path, info)
    cameras = header.cameras(path, info)
    files = sorted((root / "meta" / "episodes").rglob("*.parquet"))
    for file in files:
        schema.inside(root, str(file.relative_to(root)))
    tasks_path = schema.inside(root, schema.TASKS_PATH)
    entries = _entries(root, info, files, cameras)
    tasks = _tasks(tasks_path)
    bounds = header.action_bounds(path, info, features[schema.ACTION]["shape"][0])
    profile = header.render_profile(path, info)
    files = [path, tasks_path, *files]
    rate = header.fps(path, info)
    return Catalog(root, rate, features, cameras, bounds, profile, tasks, entries, files)


def _column(path: Path, table: Any, name: str) -> list[Any]:
    """A column of the episodes' table without gaps, as Python values."""
    if name not in table.column_names or table[name].null_count:
        raise ValueError(f"{path}: the column {name!r} is missing or has gaps; fetch it again")
    column = table[name]
    if not pa.types.is_dictionary(column.type):
        return list(column.to_pylist())
    values: list[Any] = []
    for chunk in column.chunks:  # decoded by hand: equal texts stay one object
        words = chunk.dictionary.to_pylist()
        values += [words[i] for i in chunk.indices.to_pylist()]
    return values


def _tasks(path: Path) -> list[str]:
    arrow_schema = open_table(path).schema_arrow
    texts = [f.name for f in arrow_schema if pa.types.is_string(f.type) or _is_large(f.type)]
    if len(texts) != 1:
        raise ValueError(f"{path} must have one column of texts, found {texts}; fetch it again")
    table = _read_table(path, [*texts, "task_index"], texts)
    numbers, words = _column(path, table, "task_index"), _column(path, table, texts[0])
    tasks = dict(zip(numbers, words, strict=True))
    if sorted(tasks) != list(range(len(tasks))):
        raise ValueError(f"{path}: task_index must count from 0 without gaps; fetch it again")
    return [tasks[i] for i in range(len(tasks))]


def _is_large(kind: Any) -> bool:
    return bool(pa.types.is_large_string(kind))


def _entries(
    root: Path, info: Mapping[str, Any], files: Iterable[Path], cameras: Mapping[str, Any]
) -> list[Entry]:
    entries: list[Entry] = []
    frames = 0
    for path in files:
        table = _read_episodes(path, cameras)
        rows = {name: _column(path, table, name) for name in table.column_names}
        for i in range(len(table)):
            row = {name: values[i] for name, values in rows.items()}
            _check_row(path, row, len(entries), frames)
            entries.append(_entry(root, info, row, cameras))
            frames += row["length"]
    for name, found in (("total_episodes", len(entries)), ("total_frames", frames)):
        if info.get(name) != found:
            raise ValueError(
                f"{root / schema.INFO_PATH} says {name} = {info.get(name)!r}, but meta/episodes "
                f"lists {found}; a file is missing or stale, so fetch the set again"
            )
    return entries


def _read_episodes(path: Path, cameras: Mapping[str, Any]) -> Any:
    kinds = {field.name: field.type for field in open_table(path).schema_arrow}
    names = ["episode_index", "length", "dataset_from_index", "dataset_to_index"]
    names += [f"data/{place}" for place in _PLACES]
    for camera in cameras:
        names += [f"videos/{_video_key(camera, kinds)}/{n}" for n in (*_PLACES, "from_timestamp")]
    # Other people's columns of the same names may hold other things.
    names += [name for name in _FLAGS if kinds.get(name) == pa.bool_()]
    texts = [name for name in ("key", "info") if kinds.get(name) == pa.string()]
    missing = sorted(set(names) - kinds.keys())
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; fetch it again")
    return _read_table(path, [*names, *texts], texts)


def _video_key(camera: str, names: Iterable[str]) -> str:
    """LeRobot's name of a camera, which may lack the usual prefix."""
    key = schema.IMAGES + camera
    return key if f"videos/{key}/chunk_index" in names else camera


def _check_row(path: Path, row: Mapping[str, Any], index: int, frames: int) -> None:
    length = row["length"]
    wanted = {
        "episode_index": index,
        "dataset_from_index": frames,
        "dataset_to_index": frames + length,
    }
    for name, value in wanted.items():
        if row[name] != value or length < 1:
            raise ValueError(
                f"{path}, episode {index}: {name} is {row[name]}, expected {value} (length "
                f"{length}); episodes must follow each other without a hole: fetch the set again"
            )


def _entry(
    root: Path, info: Mapping[str, Any], row: Mapping[str, Any], cameras: Mapping[str, Any]
) -> Entry:
    def locate(field: str, default: str, prefix: str, **values: str) -> Path:
        template = info.get(field, default)
        if not isinstance(template, str):
            raise ValueError(f"{root / schema.INFO_PATH}: {field} must be a path template")
        places = {name: row[f"{prefix}/{name}"] for name in _PLACES}
        allowed = {*_PLACES, *values}
        return schema.inside(root, schema.expand(template, allowed, **places, **values))

    videos = {}
    for camera in cameras:
        key = _video_key(camera, row)
        file = locate("video_path", schema.VIDEO_PATH, f"videos/{key}", video_key=key)
        videos[camera] = (file, float(row[f"videos/{key}/from_timestamp"]))
    return Entry(
        file=locate("data_path", schema.DATA_PATH, "data"),
        length=row["length"],
        instruction=None,
        key=row.get("key", ""),
        flags={name: row[name] for name in _FLAGS if name in row},
        info=row.get("info", "{}"),
        videos=videos,
    )


def _incoming(root: Path) -> Catalog:
    recording = schema.read_json(root / schema.RECORDING_PATH)
    cameras = {name: (h, w) for name, (h, w) in recording["cameras"].items()}
    entries = []
    columns: list[str] = []
    for path in schema.recorded(root / schema.INCOMING):
        parquet = open_table(path)
        columns = columns or parquet.schema_arrow.names
        facts = json.loads(parquet.schema_arrow.metadata[schema.METADATA_KEY])
        videos = {name: (path.parent / name / f"{path.stem}.mp4", 0.0) for name in cameras}
        entries.append(
            Entry(
                file=path,
                length=parquet.metadata.num_rows,
                instruction=facts["instruction"],
                key=facts["key"],
                flags={name: facts[name] for name in _FLAGS},
                info=json.dumps(facts["info"]),
                videos=videos,
            )
        )
    features = schema.frame_features(recording["state_dim"], recording["action_dim"], columns)
    bounds = (tuple(recording["action_low"]), tuple(recording["action_high"]))
    profile = header.render_profile(root / schema.RECORDING_PATH, recording)
    files = [root / schema.RECORDING_PATH]
    rate = recording["rate_hz"]
    return Catalog(root, rate, features, cameras, bounds, profile, (), entries, files)
