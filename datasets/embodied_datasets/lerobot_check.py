"""Everything that is wrong with a LeRobot data set, rather than the first of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from embodied_datasets import lerobot_schema as schema
from embodied_datasets.faults import DataError, Fault, Report
from embodied_datasets.lerobot_arrays import check_arrays, load_arrays
from embodied_datasets.lerobot_catalog import read_catalog
from embodied_datasets.lerobot_entries import Camera, Catalog, Entry, Options
from embodied_datasets.lerobot_images import Clip, Stills
from embodied_datasets.lerobot_video import check_size, check_times, times_of

_REMEDY = "correct fps in info.json, or encode the video again"


def check_lerobot(
    root: str | Path,
    report: Report,
    *,
    options: Options | None = None,
    max_bytes: int = 8 * 2**30,
) -> None:
    """Goes through metadata, rows and images, and reports every fault.

    Of a video the times of all frames are looked at, and its first frame is decoded; images that
    lie in the rows are all decoded.

    Args:
        options: what the set would be read with.
    """
    root = Path(root)
    report = schema.reporter(report, root)
    try:
        catalog = read_catalog(root, options or Options(), report)
        entries, arrays = load_arrays(catalog, max_bytes, report)
    except DataError as error:
        report(error.fault)
        return
    if arrays:
        check_arrays(catalog, entries, arrays, report)
    for name, camera in catalog.layout.cameras.items():
        if camera.stills:
            _check_stills(camera, entries, report, max_bytes)
        else:
            _check_videos(catalog, name, camera, report, max_bytes)


def _check_stills(camera: Camera, entries: list[Entry], report: Report, max_bytes: int) -> None:
    for entry in entries:
        place = (entry.row, entry.length)
        stills = Stills(entry.file, camera.feature, *place, camera.shape, entry.number)
        try:
            stills.read(max_bytes)
        except DataError as error:
            report(error.fault)


def _check_videos(
    catalog: Catalog, name: str, camera: Camera, report: Report, max_bytes: int
) -> None:
    files: dict[Path, list[Entry]] = {}
    for entry in catalog.entries:
        files.setdefault(entry.videos[name][0], []).append(entry)
    for path, members in files.items():
        starts = {entry.number: entry.videos[name][1] for entry in members}
        first = members[0].number
        try:
            _check_video(catalog.fps, path, members, starts, camera, report)
            clip = Clip(path, np.array([starts[first]]), camera.shape, catalog.fps, first)
            clip.read(max_bytes)
        except DataError as error:
            fault = dataclasses.replace(error.fault, field=camera.feature, count=len(members))
            report(dataclasses.replace(fault, episode=first))


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
        report(Fault("E_DATA_FPS", message, _REMEDY, file=path, field=camera.feature))
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
