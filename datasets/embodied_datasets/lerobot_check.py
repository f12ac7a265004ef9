"""Everything that is wrong with a LeRobot data set, rather than the first of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embodied_datasets import lerobot_schema as schema
from embodied_datasets.faults import DataError, Fault, Report
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.lerobot_arrays import ENDS, Blame, starts_of
from embodied_datasets.lerobot_entries import Camera, Entry
from embodied_datasets.lerobot_surroundings import check_surroundings
from embodied_datasets.lerobot_video import check_size, check_times, times_of

_REMEDY = "correct fps in info.json, or encode the video again"


def check_lerobot(root: str | Path, report: Report, **options: Any) -> LeRobotDataset | None:
    """Goes through metadata, rows and videos, and reports every fault.

    Images are not decoded: whoever looks at those of the episodes that are returned does so.

    Args:
        options: what `LeRobotDataset` takes.

    Returns the episodes that can be read, whose arrays are as they were found; None without any.
    """
    root = Path(root)
    found: list[Fault] = []

    def note(fault: Fault) -> None:
        found.append(fault)
        report(schema.relative(fault, root))

    try:
        data = LeRobotDataset(root, report=note, **options)
    except DataError as error:
        if not found or error.fault.code != "E_DATA_EMPTY":  # else the causes were told
            note(error.fault)
        return None
    _check_ends(data, note)
    if schema.is_final(root):
        check_surroundings(data, options.get("video_folder") or "videos", note)
    for name in data.spec.cameras:
        if not data.catalog.layout.cameras[name].stills:
            _check_videos(data, name, note)
    return data


def _check_ends(data: LeRobotDataset, report: Report) -> None:
    """Looks for marks of an end that are followed by steps without; one that stays on is none."""
    starts = starts_of(data.all_entries)
    blame = Blame(data.all_entries, starts, report)
    for name in ENDS:
        if name in data.arrays:
            marks = np.asarray(data.arrays[name].reshape(len(data.arrays[name]), -1).any(1))
            resumed = marks & ~np.append(marks[1:], True)
            resumed[starts[1:] - 1] = False
            message = "marks an end, and the episode goes on"
            blame("E_DATA_DONE_EARLY", name, resumed, message, "split it there, or clear the mark")


def _check_videos(data: LeRobotDataset, name: str, report: Report) -> None:
    camera, fps = data.catalog.layout.cameras[name], data.catalog.fps
    files: dict[Path, list[Entry]] = {}
    for entry in data.entries:
        files.setdefault(entry.videos[name][0], []).append(entry)
    for path, members in files.items():
        starts = {entry.number: entry.videos[name][1] for entry in members}
        try:
            _check_video(fps, path, members, starts, camera, report)
        except DataError as error:
            fault = dataclasses.replace(error.fault, field=camera.feature, count=len(members))
            report(dataclasses.replace(fault, episode=members[0].number))


def _check_video(
    fps: float,
    path: Path,
    members: list[Entry],
    starts: Mapping[int, float],
    camera: Camera,
    report: Report,
) -> None:
    shown, size = times_of(path)
    check_size(path, size, camera.shape)
    rate = 1 / float(np.median(np.diff(shown))) if len(shown) > 1 else fps
    if abs(rate - fps) > 0.01 * fps:
        message = f"shows {rate:.4g} frames a second, info.json says {fps}"
        report(Fault("E_DATA_RATE", message, _REMEDY, file=path, field=camera.feature))
        return
    for entry in members:
        times = starts[entry.number] + np.arange(entry.length) / fps
        try:
            check_times(path, shown, times, fps)
        except DataError as error:
            fault = dataclasses.replace(error.fault, field=camera.feature)
            report(dataclasses.replace(fault, episode=entry.number))
    rows = sum(entry.length for entry in members)
    if len(shown) > rows:
        message = f"has {len(shown)} frames, its episodes {rows}"
        remedy = "look whether frames were lost from the table"
        report(
            Fault(
                "E_DATA_VIDEO_LONG",
                message,
                remedy,
                "warning",
                file=path,
                episode=members[0].number,
                field=camera.feature,
                count=len(shown) - rows,
            )
        )
