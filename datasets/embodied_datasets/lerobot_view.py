"""What is recorded so far in LeRobot's v3.0 layout, one data file and one video per episode.

It follows the episodes in `incoming/`, which stay what counts until the set is finalised: videos
are linked, not copied, and whatever an interruption leaves half done is made anew. Of each
episode, `info.json` is replaced last; files beyond what it counts are not part of the set. What
concerns all episodes is written beside the layout that stands, and takes its place at once.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from embodied.structs import Spec
from embodied_datasets import lerobot_rows, lerobot_stats
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.files import read_json, write_atomically, write_json
from embodied_datasets.lerobot_rows import AllStats, Recorded, Row, Sheet
from embodied_datasets.lerobot_swap import FOLDERS, UNFINISHED, replace_layout


class View:
    """The layout in a recorder's folder.

    Args:
        root: the data set's folder, with nothing final in it.
    """

    def __init__(self, root: Path, spec: Spec, robot_type: str | None) -> None:
        self._root = root
        self._spec = spec
        self._robot_type = robot_type
        if (root / schema.INFO_PATH).exists():
            self._load()
        else:
            self.retract()

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the episodes in the view."""
        return frozenset(row["key"] for row in self._rows)

    def update(self, incoming: Path) -> None:
        """Adds what is recorded and not yet here."""
        known = self.keys
        episodes = [Recorded.read(p) for p in schema.recorded(incoming) if p.stem not in known]
        language = any(episode.facts["annotations"] for episode in episodes)
        # All files have the same columns, so that the episodes before need those of language too.
        if self._outdated or (self._rows and language and not self._language):
            self._renew(incoming)
            return
        self._language |= language
        for episode in episodes:
            self._add(episode)

    def outdate(self) -> None:
        """Notes that one of its episodes is about to be replaced, so that `update` makes all
        anew, be it after a crash; until then the episode stays as it was."""
        path = self._root / schema.INFO_PATH
        write_json(path, read_json(path) | {"outdated": True})
        self._outdated = True

    def retract(self) -> None:
        """Takes everything away, `meta/info.json` first."""
        (self._root / schema.INFO_PATH).unlink(missing_ok=True)
        for name in reversed(FOLDERS):
            shutil.rmtree(self._root / name, ignore_errors=True)
        self._forget()

    def _renew(self, incoming: Path) -> None:
        folder = self._root / UNFINISHED
        shutil.rmtree(folder, ignore_errors=True)
        View(folder, self._spec, self._robot_type).update(incoming)
        replace_layout(self._root, folder)
        self._load()

    def _forget(self) -> None:
        self._rows: list[Row] = []
        self._tasks: list[str] = []
        self._language = self._outdated = False
        self._stats: AllStats = {}

    def _load(self) -> None:
        self._forget()
        info = read_json(self._root / schema.INFO_PATH)
        self._language = schema.PERSISTENT in info["features"]
        self._outdated = info.get("outdated", False)
        for number in range(info["total_episodes"]):
            path = self._root / schema.EPISODES_PATH.format(**lerobot_rows.place(number))
            self._count(pq.read_table(path).to_pylist()[0])

    def _count(self, row: Row) -> None:
        self._rows.append(row)
        self._tasks = list(dict.fromkeys([*self._tasks, *row["tasks"]]))
        new = lerobot_rows.stats_of(row)
        merged = {n: lerobot_stats.merge(self._stats[n], new[n]) for n in new if self._stats}
        self._stats = merged or new

    def _add(self, episode: Recorded) -> None:
        sheet = Sheet.of(episode, self._spec, self._language, self._robot_type)
        number = len(self._rows)
        place = lerobot_rows.place(number)
        first = self._rows[-1]["dataset_to_index"] if self._rows else 0
        tasks = list(dict.fromkeys([*self._tasks, episode.facts["instruction"]]))
        table = sheet.table(episode, number, first, tasks.index(episode.facts["instruction"]))
        row = lerobot_rows.make_row(episode, table, number)
        row |= {
            f"{prefix}/{n}": i for prefix in ("data", "meta/episodes") for n, i in place.items()
        }
        path = self._root / schema.DATA_PATH.format(**place)
        write_atomically(path, functools.partial(pq.write_table, table))
        for camera in self._spec.cameras:
            row |= self._link(episode, camera, place)
        lerobot_rows.add_stats(row, sheet.stats(table) | sheet.image_stats(episode))
        if tasks != self._tasks:
            lerobot_rows.write_tasks(self._root / schema.TASKS_PATH, tasks)
        self._count(row)
        lerobot_rows.write_stats(self._root / schema.STATS_PATH, self._stats)
        path = self._root / schema.EPISODES_PATH.format(**place)
        lerobot_rows.write_episodes(path, [row])
        info = lerobot_rows.make_info(sheet, self._rows, len(tasks)) | {"recording": True}
        write_json(self._root / schema.INFO_PATH, info)

    def _link(self, episode: Recorded, camera: str, place: Mapping[str, int]) -> dict[str, Any]:
        """Puts an episode's video in its place; returns what its row says of it."""
        key = schema.IMAGES + camera
        path = self._root / schema.VIDEO_PATH.format(video_key=key, **place)
        source = episode.video(camera)
        write_atomically(path, lambda temporary: _link_or_copy(source, temporary))
        duration = len(episode.table) / self._spec.rate_hz
        times = {"from_timestamp": 0.0, "to_timestamp": duration}
        return {f"videos/{key}/{name}": value for name, value in (dict(place) | times).items()}


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # not every file system has links
        shutil.copyfile(source, target)
