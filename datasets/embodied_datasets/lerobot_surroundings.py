"""Whether what surrounds a LeRobot set's rows agrees with them: header, statistics and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embodied_datasets import lerobot_schema as schema
from embodied_datasets import lerobot_stats
from embodied_datasets.faults import DataError, Fault, Report
from embodied_datasets.files import inside, read_json
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.lerobot_arrays import part
from embodied_datasets.lerobot_columns import NUMBERS

_LEFT = (".tmp-*", ".*.tmp", ".staging*", "incoming", "images", "**/.tmp-*")
_FLAGS = (schema.DONE, schema.SUCCESS, schema.TERMINATED, schema.TRUNCATED)
_NOT_NORMALISED = {*schema.COUNTERS, *_FLAGS, schema.TIMESTAMP}
_AGAIN = "compute them anew (--fix does)"


def check_surroundings(data: LeRobotDataset, video_folder: str, report: Report) -> None:
    """Reports what of a finalised set does not fit its rows, which need none of it to be read."""
    info = read_json(data.root / schema.INFO_PATH)
    for faults in (_totals(data, info), _columns(data, info), _files(data, info, video_folder)):
        for fault in faults:
            report(fault)
    for path in sorted({path for pattern in _LEFT for path in data.root.glob(pattern)}):
        message, remedy = "was left by a writer that was interrupted", "finish it, or remove it"
        report(Fault("E_DATA_LEFTOVER", message, remedy, "warning", file=path))
    whole = len(data.all_entries) == len(data.catalog.entries)
    if whole and info.get("codebase_version") == schema.CODEBASE_VERSION:  # older ones keep others
        for fault in _statistics(data):
            report(fault)


def _totals(data: LeRobotDataset, info: Mapping[str, Any]) -> Iterator[Fault]:
    """Those that the reader does not need."""
    file, remedy = data.root / schema.INFO_PATH, "correct it (--fix does), or fetch what is missing"
    tasks, episodes = len(data.catalog.tasks), len(data.catalog.entries)
    if info.get("total_tasks") != tasks:
        message = f"says total_tasks = {info.get('total_tasks')!r}, but there are {tasks}"
        yield Fault("E_DATA_TOTALS", message, remedy, file=file, field="total_tasks")
    splits = info.get("splits")
    for name, split in (splits if isinstance(splits, dict) else {}).items():
        stop = str(split).rpartition(":")[2]
        if stop.isdecimal() and int(stop) > episodes:
            message = f"goes to episode {stop}, the set has {episodes}"
            yield Fault("E_DATA_TOTALS", message, remedy, file=file, field=f"splits.{name}")


def _columns(data: LeRobotDataset, info: Mapping[str, Any]) -> Iterator[Fault]:
    """Columns of other types than declared, which are converted, or not declared at all."""
    features = info["features"]
    for path in dict.fromkeys(entry.file for entry in data.catalog.entries):
        for column in _schema(path):
            feature = features.get(column.name)
            place: dict[str, Any] = {"file": path, "field": column.name}
            if feature is None:
                message, remedy = "is not in the header", "declare or remove it"
                yield Fault("E_DATA_COLUMN_EXTRA", message, remedy, "warning", **place)
            elif feature["dtype"] in NUMBERS and _item(column.type) != _arrow(feature["dtype"]):
                message = f"holds {_item(column.type)}, the header says {feature['dtype']}"
                yield Fault("E_DATA_DTYPE", message, "correct the header or the file", **place)


def _schema(path: Path) -> Any:
    """The columns of a data file; none where it cannot be opened, which was told."""
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return ()


def _item(kind: Any) -> Any:
    """The type of a column's numbers, however they are nested."""
    kind = getattr(kind, "storage_type", kind)
    return _item(kind.value_type) if pa.types.is_nested(kind) and kind.num_fields == 1 else kind


def _arrow(dtype: str) -> Any:
    return pa.from_numpy_dtype(np.dtype(dtype))


def _files(data: LeRobotDataset, info: Mapping[str, Any], video_folder: str) -> Iterator[Fault]:
    """Files of data, and of the cameras that are read, that belong to no episode."""
    entries, layout = data.catalog.entries, data.catalog.layout
    used = {entry.file for entry in entries}
    used |= {path for entry in entries for path, _ in entry.videos.values()}
    stored = [*data.root.glob("data/**/*.parquet"), *data.root.glob(f"{video_folder}/**/*.mp4")]
    others = info["features"].keys() - {camera.feature for camera in layout.cameras.values()}
    for path in sorted(set(stored) - used):
        if not (path.name.startswith(".") or others & set(path.relative_to(data.root).parts)):
            message, remedy = "belongs to no episode", "remove it, or restore the list of episodes"
            yield Fault("E_DATA_FILE_EXTRA", message, remedy, "warning", file=path)


def _statistics(data: LeRobotDataset) -> Iterator[Fault]:
    """Those of the set, beside the statistics of its numbers."""
    file = data.root / schema.STATS_PATH
    try:
        stored = read_json(inside(data.root, schema.STATS_PATH))
    except FileNotFoundError:
        message = "is missing, so that nothing can be normalised by it"
        yield Fault("E_DATA_STATS", message, _AGAIN, "warning", file=file)
        return
    except DataError as error:
        yield Fault("E_DATA_STATS", error.fault.message, _AGAIN, file=file)
        return
    for name, found in statistics(data).items():
        wrong = None if name in _NOT_NORMALISED else _misfit(stored.get(name), found)
        if wrong is not None:
            yield Fault("E_DATA_STATS", wrong, _AGAIN, file=file, field=name)


def statistics(data: LeRobotDataset) -> dict[str, lerobot_stats.Stats]:
    """Statistics of all vectors of finite numbers, by their columns."""
    columns = part(data.catalog.layout, data.arrays)
    return {
        name: lerobot_stats.array_stats(values)
        for name, values in columns.items()
        if np.isfinite(values).all()
    }


def _misfit(stored: Any, found: lerobot_stats.Stats) -> str | None:
    """What of the stored statistics is wrong, in words; None if they fit."""
    if not isinstance(stored, dict):
        return "has no statistics"
    spread = np.maximum(found["std"], 1e-3 * np.maximum(abs(found["min"]), abs(found["max"])))
    for name in ("min", "max", "mean", "std"):
        try:
            values = np.asarray(stored.get(name), np.float64).reshape(-1)
        except (TypeError, ValueError):
            values = np.zeros(0)
        if values.shape != found[name].shape or not np.isfinite(values).all():
            return f"{name} is missing, not finite or of the wrong size"
        off = abs(values - found[name]) > 0.01 * spread + 1e-5
        if off.any():
            dim = int(off.argmax())
            return f"{name}[{dim}] is {values[dim]:.6g}, the data have {found[name][dim]:.6g}"
    return None
