"""The rows and metadata files of LeRobot v3.0 that recorded episodes turn into."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embodied.structs import Spec
from embodied_datasets import lerobot_language, lerobot_stats, lerobot_video
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.files import write_atomically, write_json
from embodied_datasets.lerobot_columns import (
    Feature,
    frame_features,
    from_column,
    huggingface_metadata,
    state_features,
    video_feature,
)
from embodied_datasets.lerobot_incoming import FLAGS, annotations_of

Row = dict[str, Any]
AllStats = dict[str, lerobot_stats.Stats]

_OWN_TYPES = {
    "key": pa.string(),
    **dict.fromkeys(FLAGS, pa.bool_()),
    "info": pa.string(),
    "final": pa.string(),
}


@dataclass(frozen=True)
class Recorded:
    """One incoming episode: its rows, and what its writer put beside them."""

    path: Path
    table: Any
    facts: Mapping[str, Any]
    final: str

    @classmethod
    def read(cls, path: Path) -> Recorded:
        """Reads an incoming file, which this project wrote."""
        table = pq.ParquetFile(path).read()
        metadata = table.schema.metadata
        final = metadata.get(schema.FINAL_KEY, b"{}").decode()
        return cls(path, table, json.loads(metadata[schema.METADATA_KEY]), final)

    def video(self, camera: str) -> Path:
        return self.path.parent / camera / f"{self.path.stem}.mp4"


@dataclass(frozen=True)
class Sheet:
    """What all episodes of a data set share.

    Attributes:
        features: of the columns of data files.
        language: whether there are annotations.
    """

    spec: Spec
    features: Mapping[str, Feature]
    language: bool
    robot_type: str | None

    @classmethod
    def of(cls, episode: Recorded, spec: Spec, language: bool, robot_type: str | None) -> Sheet:
        facts = episode.facts
        state = state_features(spec.state_dim, spec.state_parts)
        columns = [*state, *facts["columns"], *schema.COUNTERS]
        columns += [schema.PERSISTENT, schema.EVENTS] if language else []
        features = frame_features(state, spec.action_dim, facts["extras"], columns)
        return cls(spec, features, language, robot_type)

    @property
    def all_features(self) -> dict[str, Feature]:
        """With those of the cameras."""
        rate, encoding = self.spec.rate_hz, lerobot_video.describe()
        return dict(self.features) | {
            schema.IMAGES + camera: video_feature(shape, rate, encoding)
            for camera, shape in self.spec.cameras.items()
        }

    def table(self, episode: Recorded, number: int, first: int, task: int) -> Any:
        """An episode's rows with its place in the whole set."""
        length = len(episode.table)
        columns = {name: episode.table[name] for name in episode.table.column_names}
        columns["episode_index"] = pa.array(np.full(length, number))
        columns["index"] = pa.array(np.arange(first, first + length))
        columns["task_index"] = pa.array(np.full(length, task))
        if self.language:
            annotations = annotations_of(episode.facts)
            columns |= lerobot_language.to_columns(annotations, length, self.spec.rate_hz)
        table = pa.table({name: columns[name] for name in self.features})
        return table.replace_schema_metadata(self.metadata())

    def metadata(self) -> dict[bytes, bytes]:
        """The schema metadata of a data file."""
        return huggingface_metadata(self.features)

    def stats(self, table: Any) -> AllStats:
        """Statistics of the columns of numbers in an episode's rows, or in those of all."""
        found = {}
        for name, feature in self.features.items():
            if feature["dtype"] != "language":
                stats = lerobot_stats.array_stats(from_column(table[name], feature))
                found[name] = {
                    stat: values if stat == "count" else values.reshape(feature["shape"])
                    for stat, values in stats.items()
                }
        return found

    def image_stats(self, episode: Recorded) -> AllStats:
        """Statistics of the images of an episode."""
        frames = lerobot_stats.sampled_frames(len(episode.table))
        counts = episode.facts["histograms"]
        return {
            schema.IMAGES + camera: lerobot_stats.image_stats(np.array(counts[camera]), frames)
            for camera in self.spec.cameras
        }


def make_row(episode: Recorded, table: Any, number: int) -> Row:
    """An episode's row in `meta/episodes`, without the places of its files."""
    facts = episode.facts
    first = table["index"][0].as_py()
    return {
        "episode_index": number,
        "tasks": [facts["instruction"]],
        "length": len(table),
        "dataset_from_index": first,
        "dataset_to_index": first + len(table),
        **{name: facts[name] for name in ("key", *FLAGS)},
        "info": json.dumps(facts["info"], ensure_ascii=False),
        "final": episode.final,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def add_stats(row: Row, stats: AllStats) -> None:
    """Adds statistics to an episode's row."""
    for name, each in stats.items():
        row.update({f"stats/{name}/{stat}": values.tolist() for stat, values in each.items()})


def stats_of(row: Row) -> AllStats:
    """The statistics in an episode's row."""
    found: AllStats = {}
    for column, values in row.items():
        if column.startswith("stats/"):
            name, stat = column.removeprefix("stats/").rsplit("/", 1)
            found.setdefault(name, {})[stat] = np.array(values)
    return found


def place(number: int) -> dict[str, int]:
    """Where the file of this number lies."""
    chunk, file = divmod(number, schema.FILES_PER_CHUNK)
    return {"chunk_index": chunk, "file_index": file}


def write_episodes(path: Path, rows: Sequence[Row]) -> None:
    """Writes a file of `meta/episodes`."""
    table = pa.Table.from_pylist(list(rows), schema=_episodes_schema(rows[0]))
    size = 100 if max(len(row["final"]) for row in rows) < 10**4 else 1  # read one by one
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, size))


def _episodes_schema(row: Row) -> Any:
    """LeRobot's columns in LeRobot's order, then ours, which it ignores."""
    last = ("meta/episodes/chunk_index", "meta/episodes/file_index")
    known = [n for n in row if n not in _OWN_TYPES and n not in last]
    places = [n for n in known if n.startswith("data/")]
    known = [*known[:3], *places, *(n for n in known[3:] if n not in places), *last]
    fields = [pa.field(name, _episode_type(name, row[name])) for name in known]
    return pa.schema([*fields, *(pa.field(n, kind) for n, kind in _OWN_TYPES.items())])


def _episode_type(name: str, value: Any) -> Any:
    if name == "tasks":
        return _list(pa.string())
    if name.endswith("_timestamp"):
        return pa.float64()
    if not name.startswith("stats/"):
        return pa.int64()
    if name.endswith("/count"):
        return _list(pa.int64())
    kind = pa.float64()
    for _ in np.shape(value):
        kind = _list(kind)
    return kind


def _list(item: Any) -> Any:
    return pa.list_(pa.field("element", item))


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """Writes the list of instructions."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": list(tasks)})
    # LeRobot reads this file with pandas and expects the texts to be its index.
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    number = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None} | text],
        "columns": [
            {"name": "task_index", "field_name": "task_index"} | number,
            {"name": "task", "field_name": "task"} | text,
        ],
    }
    table = table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def write_stats(path: Path, stats: AllStats) -> None:
    """Writes the statistics of the whole set."""
    plain = {name: {k: v.tolist() for k, v in value.items()} for name, value in stats.items()}
    write_json(path, plain)


def make_info(sheet: Sheet, rows: Sequence[Row], num_tasks: int) -> dict[str, Any]:
    """The content of `info.json`."""
    spec = sheet.spec
    rate = spec.rate_hz
    return {
        "codebase_version": schema.CODEBASE_VERSION,
        "fps": int(rate) if float(rate).is_integer() else rate,
        "features": sheet.all_features,
        "total_episodes": len(rows),
        "total_frames": rows[-1]["dataset_to_index"],
        "total_tasks": num_tasks,
        "chunks_size": schema.FILES_PER_CHUNK,
        "data_files_size_in_mb": schema.DATA_FILE_MB,
        "video_files_size_in_mb": schema.VIDEO_FILE_MB,
        "data_path": schema.DATA_PATH,
        "video_path": schema.VIDEO_PATH if spec.cameras else None,
        "robot_type": sheet.robot_type,
        "splits": {"train": f"0:{len(rows)}"},
        "action_low": list(spec.action_low),
        "action_high": list(spec.action_high),
        "state_parts": dict(spec.state_parts),
    } | ({} if spec.render_profile is None else {"render_profile": spec.render_profile})
