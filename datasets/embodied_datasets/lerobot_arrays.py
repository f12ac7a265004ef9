"""The numbers of a data set's Parquet files, checked before and after they are read."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embodied_datasets import lerobot_schema as schema
from embodied_datasets.lerobot_catalog import Catalog, open_table

_NUMBERS = {"FLOAT", "DOUBLE", "INT32", "INT64", "BOOLEAN"}


def check_budget(path: Path, wanted: int, max_bytes: int) -> None:
    """Raises ValueError if decoding a file would take more memory than is allowed."""
    if wanted > max_bytes:
        raise ValueError(
            f"{path} takes {wanted} bytes once decoded, more than max_bytes = {max_bytes}; "
            "raise max_bytes if you trust the data and have the memory"
        )


def load_arrays(catalog: Catalog, max_bytes: int) -> dict[str, NDArray[Any]]:
    """Every column of all data files, joined in the order of the episodes."""
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in catalog.features}
    seen: set[Path] = set()
    budget = max_bytes
    for path, members in itertools.groupby(catalog.entries, key=lambda entry: entry.file):
        if path in seen:
            raise ValueError(f"{path} holds episodes out of order; fetch the data set again")
        seen.add(path)
        rows = sum(entry.length for entry in members)
        budget -= rows * sum(_row_bytes(feature) for feature in catalog.features.values())
        check_budget(path, max_bytes - budget, max_bytes)
        for name, values in _read_file(path, rows, catalog.features, max_bytes).items():
            parts[name].append(values)
    if not seen:
        raise ValueError(f"{catalog.root} holds no episode; record or fetch one")
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    for name in (schema.STATE, schema.ACTION, schema.EXPERT_ACTION):
        if name in arrays:  # LeRobot keeps vectors of one number as scalars
            arrays[name] = arrays[name].reshape(len(arrays[name]), -1)
    return arrays


def _row_bytes(feature: schema.Feature) -> int:
    return int(feature["shape"][0]) * np.dtype(feature["dtype"]).itemsize


def _read_file(
    path: Path, rows: int, features: Mapping[str, schema.Feature], max_bytes: int
) -> dict[str, NDArray[Any]]:
    parquet = open_table(path)
    if parquet.metadata.num_rows != rows:
        raise ValueError(
            f"{path} has {parquet.metadata.num_rows} frames, but its episodes have {rows}; "
            "frames are missing or left over: fetch it again"
        )
    _check_sizes(path, parquet.metadata, features, max_bytes)
    try:
        table = parquet.read(list(features))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); fetch or record it again") from error
    arrays = {}
    for name, feature in features.items():
        try:
            arrays[name] = schema.from_column(table[name], feature)
        except ValueError as error:
            raise ValueError(f"{path}, field {name}: {error}; correct or fetch it") from error
    return arrays


def _check_sizes(
    path: Path, metadata: Any, features: Mapping[str, schema.Feature], max_bytes: int
) -> None:
    """Compares what the columns would unpack to with what `info.json` says, before unpacking."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    check_budget(path, sum(group.total_byte_size for group in groups), max_bytes)
    names = [metadata.schema.column(j).path.split(".list.")[0] for j in range(metadata.num_columns)]
    for name, feature in features.items():
        if names.count(name) != 1:
            raise ValueError(f"{path} must have one column {name!r} of numbers; fetch it again")
        column = names.index(name)
        kind = metadata.schema.column(column).physical_type
        values = sum(group.column(column).num_values for group in groups)
        if kind not in _NUMBERS or values != metadata.num_rows * feature["shape"][0]:
            raise ValueError(
                f"{path}, field {name}: holds {values} values of type {kind} in "
                f"{metadata.num_rows} rows, but info.json gives it shape {feature['shape']}; "
                "correct info.json or fetch the file again"
            )


def check_arrays(
    catalog: Catalog, arrays: Mapping[str, NDArray[Any]], starts: NDArray[np.int64]
) -> None:
    """Looks for numbers that are not finite, and for rows that are not where they should be."""
    lengths = np.diff(starts)
    index = np.arange(starts[-1])
    frame = index - np.repeat(starts[:-1], lengths)
    wanted = {
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": index,
    }
    bad: dict[str, tuple[NDArray[np.bool_], str]] = {}
    for name, values in arrays.items():
        if values.dtype == np.float32:
            finite = np.isfinite(values).reshape(len(values), -1).all(1)
            bad[name] = (~finite, "is not finite; drop or repair the episode")
        elif name in wanted:
            message = "is out of sequence, so that frames are missing or doubled; fetch it again"
            bad[name] = (values != wanted[name], message)
    if "task_index" in arrays:
        outside = (arrays["task_index"] < 0) | (arrays["task_index"] >= len(catalog.tasks))
        bad["task_index"] = (outside, f"is not in {schema.TASKS_PATH}; fetch it again")
    for name, (rows, message) in bad.items():
        _report(catalog, starts, name, rows, message)
    late = np.abs(arrays[schema.TIMESTAMP] - frame / catalog.fps) > 0.5 / catalog.fps
    message = f"does not fit the rate of {catalog.fps} Hz; correct fps or the recording"
    _report(catalog, starts, schema.TIMESTAMP, late, message)


def _report(
    catalog: Catalog, starts: NDArray[np.int64], name: str, rows: NDArray[np.bool_], message: str
) -> None:
    if not rows.any():
        return
    row = int(rows.argmax())
    episode = int(np.searchsorted(starts, row, side="right")) - 1
    raise ValueError(
        f"{catalog.entries[episode].file}, episode {episode}, frame {row - int(starts[episode])}: "
        f"{name} {message} ({int(rows.sum())} such frames)"
    )
