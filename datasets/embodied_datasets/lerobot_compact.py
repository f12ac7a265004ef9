"""Compacting recorded episodes, one file each, into few large files in LeRobot's v3.0 layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embodied.structs import Spec
from embodied_datasets import lerobot_rows, lerobot_stats, lerobot_video
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.files import sync, write_json
from embodied_datasets.lerobot_rows import Recorded, Row, Sheet


def compact(incoming: Path, target: Path, spec: Spec, robot_type: str | None) -> None:
    """Writes all incoming episodes into the new folder `target`, sorted by key.

    Raises DataError if there are no episodes, or if their columns differ.
    """
    episodes = [Recorded.read(path) for path in schema.recorded(incoming)]
    _check_alike(incoming, episodes)
    tasks = list(dict.fromkeys(episode.facts["instruction"] for episode in episodes))
    language = any(episode.facts["annotations"] for episode in episodes)
    sheet = Sheet.of(episodes[0], spec, language, robot_type)
    tables, start = [], 0
    for i, episode in enumerate(episodes):
        task = tasks.index(episode.facts["instruction"])
        tables.append(sheet.table(episode, i, start, task))
        start += len(episode.table)
    pairs = zip(episodes, tables, strict=True)
    rows = [lerobot_rows.make_row(episode, table, i) for i, (episode, table) in enumerate(pairs)]

    _write_data(target, episodes, tables, rows)
    _write_videos(target, episodes, spec, rows)
    total = _add_stats(sheet, episodes, tables, rows)
    path = target / schema.EPISODES_PATH.format(chunk_index=0, file_index=0)
    lerobot_rows.write_episodes(path, rows)
    lerobot_rows.write_tasks(target / schema.TASKS_PATH, tasks)
    lerobot_rows.write_stats(target / schema.STATS_PATH, total)
    info = lerobot_rows.make_info(sheet, rows, len(tasks))
    write_json(target / schema.INFO_PATH, info)


def _check_alike(incoming: Path, episodes: Sequence[Recorded]) -> None:
    if not episodes:
        message = f"{incoming} holds no finished episode"
        schema.fail("E_DATA_EMPTY", None, message, "add one before finalising")
    first = episodes[0]
    for episode in episodes:
        check_alike(f"{episode.path} and {first.path}", episode.facts, first.facts)


def check_alike(who: str, facts: Any, first: Any) -> None:
    """Raises DataError if two episodes differ in their columns."""
    differ = set(facts["columns"]) ^ set(first["columns"])
    features = facts["extras"].items(), first["extras"].items()
    differ |= {name for name, each in features[0] if (name, each) not in features[1]}
    if differ:
        message = f"{who} differ in the columns {sorted(differ)}"
        remedy = "record these fields in all episodes, with one shape and type, or in none"
        schema.fail("E_DATA_COLUMNS", None, message, remedy)


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


def _write_data(
    target: Path, episodes: Sequence[Recorded], tables: Sequence[Any], rows: Sequence[Row]
) -> None:
    paths = [episode.path for episode in episodes]
    for number, members in enumerate(group_by_size(paths, schema.DATA_FILE_MB)):
        place = lerobot_rows.place(number)
        path = target / schema.DATA_PATH.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, tables[0].schema, compression="snappy") as writer:
            for i in members:
                writer.write_table(tables[i])
                rows[i].update({f"data/{name}": value for name, value in place.items()})
        sync(path)


def _write_videos(
    target: Path, episodes: Sequence[Recorded], spec: Spec, rows: Sequence[Row]
) -> None:
    for camera in spec.cameras:
        key = schema.IMAGES + camera
        paths = [episode.video(camera) for episode in episodes]
        for number, members in enumerate(group_by_size(paths, schema.VIDEO_FILE_MB)):
            place = lerobot_rows.place(number)
            path = target / schema.VIDEO_PATH.format(video_key=key, **place)
            path.parent.mkdir(parents=True, exist_ok=True)
            parts = [(paths[i], int(rows[i]["length"])) for i in members]
            lerobot_video.join(path, parts, spec.rate_hz)
            sync(path)
            frames = 0
            for i in members:
                times = {"from_timestamp": frames / spec.rate_hz}
                frames += rows[i]["length"]
                times["to_timestamp"] = frames / spec.rate_hz
                rows[i].update({f"videos/{key}/{n}": v for n, v in (place | times).items()})


def _add_stats(
    sheet: Sheet, episodes: Sequence[Recorded], tables: Sequence[Any], rows: Sequence[Row]
) -> lerobot_rows.AllStats:
    """Adds each episode's statistics to its row; returns those of the whole set."""
    for episode, table, row in zip(episodes, tables, rows, strict=True):
        lerobot_rows.add_stats(row, sheet.stats(table) | sheet.image_stats(episode))
    total = sheet.stats(pa.concat_tables(tables))
    frames = sum(lerobot_stats.sampled_frames(row["length"]) for row in rows)
    for camera in sheet.spec.cameras:
        counts = sum(np.array(episode.facts["histograms"][camera]) for episode in episodes)
        total[schema.IMAGES + camera] = lerobot_stats.image_stats(np.asarray(counts), frames)
    return total
