"""Compacting recorded episodes, one file each, into LeRobot's v3.0 layout."""

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
from embodied_datasets import lerobot_schema as schema
from embodied_datasets import lerobot_stats, lerobot_video

Row = dict[str, Any]

_EXTRA_TYPES = {
    "key": pa.string(),
    "success": pa.bool_(),
    "terminated": pa.bool_(),
    "truncated": pa.bool_(),
    "info": pa.string(),
}


@dataclass(frozen=True)
class Recorded:
    """One incoming episode: its rows, and the facts that its writer put beside them."""

    path: Path
    table: Any
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Recorded:
        """Reads an incoming file, which this project wrote."""
        table = pq.ParquetFile(path).read()
        return cls(path, table, json.loads(table.schema.metadata[schema.METADATA_KEY]))


def compact(incoming: Path, target: Path, spec: Spec, robot_type: str | None) -> None:
    """Writes all incoming episodes into the new folder `target`, sorted by key.

    Raises ValueError if there are no episodes, or if their columns differ.
    """
    episodes = [Recorded.read(path) for path in schema.recorded(incoming)]
    _check_alike(incoming, episodes)
    tasks = list(dict.fromkeys(episode.facts["instruction"] for episode in episodes))
    tables = _number(episodes, tasks)
    features = schema.frame_features(spec.state_dim, spec.action_dim, tables[0].column_names)
    pairs = zip(episodes, tables, strict=True)
    rows = [_row(i, episode, table) for i, (episode, table) in enumerate(pairs)]

    _write_data(target, episodes, tables, features, rows)
    _write_videos(target, episodes, spec, rows)
    stats = _add_stats(episodes, tables, features, spec, rows)
    features |= {
        schema.IMAGES + camera: schema.video_feature(shape, spec.rate_hz, lerobot_video.describe())
        for camera, shape in spec.cameras.items()
    }
    _write_meta(target, rows, stats, tasks)
    info = _info(spec, features, rows, len(tasks), robot_type)
    schema.write_json(target / schema.INFO_PATH, info)


def _check_alike(incoming: Path, episodes: Sequence[Recorded]) -> None:
    if not episodes:
        raise ValueError(f"{incoming} holds no finished episode; add one before finalising")
    first = episodes[0]
    for episode in episodes:
        columns = set(episode.table.column_names) ^ set(first.table.column_names)
        if columns:
            raise ValueError(
                f"{episode.path} and {first.path} differ in the columns {sorted(columns)}; "
                "record these fields in all episodes or in none"
            )


def _number(episodes: Sequence[Recorded], tasks: Sequence[str]) -> list[Any]:
    """The episodes' tables with their places in the whole set."""
    numbers = {task: number for number, task in enumerate(tasks)}
    tables, start = [], 0
    for i, episode in enumerate(episodes):
        length = len(episode.table)
        columns = {
            "episode_index": np.full(length, i),
            "index": np.arange(start, start + length),
            "task_index": np.full(length, numbers[episode.facts["instruction"]]),
        }
        table = episode.table
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values, pa.int64()))
        tables.append(table)
        start += length
    return tables


def _row(index: int, episode: Recorded, table: Any) -> Row:
    start = table["index"][0].as_py()
    return {
        "episode_index": index,
        "tasks": [episode.facts["instruction"]],
        "length": len(table),
        "dataset_from_index": start,
        "dataset_to_index": start + len(table),
        **{name: episode.facts[name] for name in ("key", "success", "terminated", "truncated")},
        "info": json.dumps(episode.facts["info"], ensure_ascii=False),
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def group_by_size(paths: Sequence[Path], limit_mb: float) -> list[list[int]]:
    """Splits consecutive files into groups of at most the given size; a larger file is alone."""
    groups: list[list[int]] = []
    size = 0.0
    for i, path in enumerate(paths):
        size += path.stat().st_size / 2**20
        if not groups or size > limit_mb:
            groups.append([])
            size = path.stat().st_size / 2**20
        groups[-1].append(i)
    return groups


def _place(number: int) -> dict[str, int]:
    chunk, file = divmod(number, schema.FILES_PER_CHUNK)
    return {"chunk_index": chunk, "file_index": file}


def _write_data(
    target: Path,
    episodes: Sequence[Recorded],
    tables: Sequence[Any],
    features: Mapping[str, schema.Feature],
    rows: Sequence[Row],
) -> None:
    metadata = schema.huggingface_metadata(features)
    paths = [episode.path for episode in episodes]
    for number, members in enumerate(group_by_size(paths, schema.DATA_FILE_MB)):
        place = _place(number)
        path = target / schema.DATA_PATH.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrow_schema = tables[0].schema.with_metadata(metadata)
        with pq.ParquetWriter(path, arrow_schema, compression="snappy") as writer:
            for i in members:
                writer.write_table(tables[i].replace_schema_metadata(metadata))
                rows[i].update({f"data/{name}": value for name, value in place.items()})
        schema.sync(path)


def _write_videos(
    target: Path, episodes: Sequence[Recorded], spec: Spec, rows: Sequence[Row]
) -> None:
    for camera in spec.cameras:
        key = schema.IMAGES + camera
        paths = [e.path.parent / camera / f"{e.path.stem}.mp4" for e in episodes]
        for number, members in enumerate(group_by_size(paths, schema.VIDEO_FILE_MB)):
            place = _place(number)
            path = target / schema.VIDEO_PATH.format(video_key=key, **place)
            path.parent.mkdir(parents=True, exist_ok=True)
            parts = [(paths[i], int(rows[i]["length"])) for i in members]
            lerobot_video.join(path, parts, spec.rate_hz)
            schema.sync(path)
            frames = 0
            for i in members:
                times = {"from_timestamp": frames / spec.rate_hz}
                frames += rows[i]["length"]
                times["to_timestamp"] = frames / spec.rate_hz
                rows[i].update({f"videos/{key}/{n}": v for n, v in (place | times).items()})


def _add_stats(
    episodes: Sequence[Recorded],
    tables: Sequence[Any],
    features: Mapping[str, schema.Feature],
    spec: Spec,
    rows: Sequence[Row],
) -> dict[str, lerobot_stats.Stats]:
    """Adds each episode's statistics to its row; returns those of the whole set."""
    total: dict[str, lerobot_stats.Stats] = {}
    for name, feature in features.items():
        arrays = [schema.from_column(table[name], feature) for table in tables]
        _flatten(rows, name, [lerobot_stats.array_stats(values) for values in arrays])
        total[name] = lerobot_stats.array_stats(np.concatenate(arrays))
    for camera in spec.cameras:
        counts = np.array([episode.facts["histograms"][camera] for episode in episodes])
        frames = [lerobot_stats.sampled_frames(row["length"]) for row in rows]
        each = [lerobot_stats.image_stats(c, n) for c, n in zip(counts, frames, strict=True)]
        _flatten(rows, schema.IMAGES + camera, each)
        total[schema.IMAGES + camera] = lerobot_stats.image_stats(counts.sum(0), sum(frames))
    return total


def _flatten(rows: Sequence[Row], name: str, each: Sequence[lerobot_stats.Stats]) -> None:
    for row, stats in zip(rows, each, strict=True):
        row.update({f"stats/{name}/{stat}": values.tolist() for stat, values in stats.items()})


def _write_meta(
    target: Path,
    rows: Sequence[Row],
    stats: Mapping[str, lerobot_stats.Stats],
    tasks: Sequence[str],
) -> None:
    episodes = pa.Table.from_pylist(rows, schema=_episodes_schema(rows[0]))
    path = target / schema.EPISODES_PATH.format(chunk_index=0, file_index=0)
    schema.write_atomically(path, lambda temporary: pq.write_table(episodes, temporary))
    tasks_path = target / schema.TASKS_PATH
    table = _task_table(tasks)
    schema.write_atomically(tasks_path, lambda temporary: pq.write_table(table, temporary))
    plain = {name: {k: v.tolist() for k, v in value.items()} for name, value in stats.items()}
    schema.write_json(target / schema.STATS_PATH, plain)


def _task_table(tasks: Sequence[str]) -> Any:
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": tasks})
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
    return table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()})


def _episodes_schema(row: Row) -> Any:
    """LeRobot's columns in LeRobot's order, then ours, which it ignores."""
    last = ("meta/episodes/chunk_index", "meta/episodes/file_index")
    known = [n for n in row if n not in _EXTRA_TYPES and n not in last]
    places = [n for n in known if n.startswith("data/")]
    known = [*known[:3], *places, *(n for n in known[3:] if n not in places), *last]
    fields = [pa.field(name, _episode_type(name)) for name in known]
    return pa.schema([*fields, *(pa.field(n, kind) for n, kind in _EXTRA_TYPES.items())])


def _episode_type(name: str) -> Any:
    if name == "tasks":
        return _list(pa.string())
    if name.endswith("_timestamp"):
        return pa.float64()
    if not name.startswith("stats/"):
        return pa.int64()
    if name.endswith("/count"):
        return _list(pa.int64())
    image = name.startswith(f"stats/{schema.IMAGES}")
    return _list(_list(_list(pa.float64()))) if image else _list(pa.float64())


def _list(item: Any) -> Any:
    return pa.list_(pa.field("element", item))


def _info(
    spec: Spec,
    features: Mapping[str, schema.Feature],
    rows: Sequence[Row],
    num_tasks: int,
    robot_type: str | None,
) -> dict[str, Any]:
    rate = spec.rate_hz
    return {
        "codebase_version": schema.CODEBASE_VERSION,
        "fps": int(rate) if float(rate).is_integer() else rate,
        "features": dict(features),
        "total_episodes": len(rows),
        "total_frames": rows[-1]["dataset_to_index"],
        "total_tasks": num_tasks,
        "chunks_size": schema.FILES_PER_CHUNK,
        "data_files_size_in_mb": schema.DATA_FILE_MB,
        "video_files_size_in_mb": schema.VIDEO_FILE_MB,
        "data_path": schema.DATA_PATH,
        "video_path": schema.VIDEO_PATH if spec.cameras else None,
        "robot_type": robot_type,
        "splits": {"train": f"0:{len(rows)}"},
        "action_low": list(spec.action_low),
        "action_high": list(spec.action_high),
    } | ({} if spec.render_profile is None else {"render_profile": spec.render_profile})
