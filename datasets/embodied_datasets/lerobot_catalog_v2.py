"""The metadata of LeRobot v2.0 and v2.1: one data file and one video per episode and camera."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embodied_datasets import lerobot_info as header
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.faults import Fault, Report
from embodied_datasets.files import inside, read_json_lines
from embodied_datasets.lerobot_catalog_v3 import in_order, video_template
from embodied_datasets.lerobot_entries import Catalog, Entry, Options
from embodied_datasets.lerobot_layout import make_layout

VERSIONS = ("v2.0", "v2.1")
_EPISODES_PATH = "meta/episodes.jsonl"
_TASKS_PATH = "meta/tasks.jsonl"
_DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_REQUIRED = (schema.TIMESTAMP, "frame_index", "task_index")


def read(root: Path, info: Mapping[str, Any], options: Options, report: Report) -> Catalog:
    """Reads the metadata; faults after which reading can go on are reported."""
    path = root / schema.INFO_PATH
    layout = make_layout(path, header.features(path, info), options, required=_REQUIRED)
    cameras = {name: c.feature for name, c in layout.cameras.items() if not c.stills}
    data = header.template(path, info, "data_path", _DATA_PATH)
    video = video_template(path, info, options) if cameras else ""
    size = header.chunks_size(path, info)
    episodes_path = inside(root, _EPISODES_PATH)
    tasks_path = inside(root, _TASKS_PATH)
    entries: list[Entry] = []
    frames = 0
    for row in read_json_lines(episodes_path):
        number = len(entries)
        length = _length(episodes_path, row, number, report)
        places = {"episode_chunk": number // size, "episode_index": number}
        file = schema.expand(data, set(places), **places)
        videos = {}
        for name, key in cameras.items():
            names = {"video_key": key}
            relative = schema.expand(video, {*places, *names}, **places, **names)
            videos[name] = (inside(root, relative), 0.0)
        place = inside(root, file)
        entries.append(Entry(number, frames, place, 0, length, videos=videos))
        frames += length
    header.check_totals(path, info, len(entries), frames, _EPISODES_PATH, report)
    tasks = _tasks(tasks_path)
    files = [path, episodes_path, tasks_path]
    return Catalog(root, header.fps(path, info), layout, tasks, entries, files)


def _length(path: Path, row: Mapping[str, Any], number: int, report: Report) -> int:
    length = row.get("length")
    if not isinstance(length, int) or length < 1:
        message = f"length must be a positive number of frames, got {length!r}"
        schema.fail("E_DATA_LISTING", path, message, "fetch it again", episode=number)
    if row.get("episode_index") != number:
        message = (
            f"episode_index is {row.get('episode_index')!r}, expected {number}; episodes must "
            "follow each other without a hole"
        )
        remedy = "fetch the set again"
        place: dict[str, Any] = {"episode": number, "field": "episode_index"}
        report(Fault("E_DATA_LISTING", message, remedy, file=path, **place))
    return length


def _tasks(path: Path) -> list[str]:
    tasks = {row.get("task_index"): row.get("task") for row in read_json_lines(path)}
    if not all(isinstance(n, int) and isinstance(text, str) for n, text in tasks.items()):
        message = "must give each line a task_index and a task"
        schema.fail("E_DATA_TASK", path, message, "fetch it again")
    return in_order(path, tasks)  # type: ignore[arg-type]
