"""The numbers of a data set's files, and whether they are what they should be."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied_datasets import lerobot_schema as schema
from embodied_datasets.budget import check_budget
from embodied_datasets.clock import clock_faults
from embodied_datasets.faults import DataError, Fault, Report
from embodied_datasets.lerobot_columns import Feature, is_vector
from embodied_datasets.lerobot_entries import Catalog, Entry, Layout
from embodied_datasets.lerobot_tables import read_columns

Arrays = dict[str, NDArray[Any]]

ENDS = (schema.DONE, schema.TERMINATED, schema.TRUNCATED)


def starts_of(entries: Sequence[Entry]) -> NDArray[np.int64]:
    """Where each episode's rows start when they lie end to end, and where the last ends."""
    lengths = [entry.length for entry in entries]
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def load_arrays(catalog: Catalog, max_bytes: int, report: Report) -> tuple[list[Entry], Arrays]:
    """Every column of all data files, joined in the order of the episodes.

    Returns them with the episodes that they are of: those of files that cannot be read are
    reported and left out. Raises DataError if no file can be read.
    """
    columns = catalog.layout.columns
    row_bytes = sum(_row_bytes(feature) for feature in columns.values())
    films = [camera.feature for camera in catalog.layout.cameras.values() if camera.stills]
    others = [*films, *catalog.layout.language]
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in columns}
    found: list[Entry] = []
    budget = max_bytes
    for path, members in _files(catalog):
        rows = sum(entry.length for entry in members)
        try:
            check_budget(path, max_bytes - budget + rows * row_bytes, max_bytes)
            values = read_columns(path, rows, columns, max_bytes, others)
        except DataError as error:
            report(error.fault)
            continue
        budget -= rows * row_bytes
        found += members
        for name in columns:
            parts[name].append(values[name])
    if not found:
        message = f"{catalog.root} holds no episode that can be read"
        schema.fail("E_DATA_EMPTY", None, message, "fetch its files again")
    return found, {name: np.concatenate(each) for name, each in parts.items()}


def _files(catalog: Catalog) -> Iterator[tuple[Path, list[Entry]]]:
    seen: set[Path] = set()
    for path, members in itertools.groupby(catalog.entries, key=lambda entry: entry.file):
        if path in seen:
            message = "holds episodes out of order"
            schema.fail("E_DATA_ORDER", path, message, "fetch the data set again")
        seen.add(path)
        yield path, list(members)


def _row_bytes(feature: Feature) -> int:
    return int(np.prod(feature["shape"])) * np.dtype(feature["dtype"]).itemsize


def join(layout: Layout, arrays: Mapping[str, NDArray[Any]], starts: NDArray[np.int64]) -> Arrays:
    """The arrays of a policy: "state" (N, S), "action" (N, A), "expert_action", and all others.

    LeRobot keeps vectors of one number as scalars, which become vectors again.
    """
    rows = int(starts[-1])
    state = [arrays[name].reshape(rows, -1) for name in layout.state]
    joined = {
        "state": np.concatenate(state, 1) if state else np.zeros((rows, 0), np.float32),
        "action": _action(layout, arrays, starts).reshape(rows, -1),
    }
    if schema.EXPERT_ACTION in arrays:
        joined[schema.EXPERT_ACTION] = arrays[schema.EXPERT_ACTION].reshape(rows, -1)
    for name in layout.extras:
        values = arrays[name]
        joined[name] = values.reshape(rows, 1) if is_vector(layout.columns[name]) else values
    others = [schema.REWARD, schema.SUCCESS, schema.DONE, schema.TERMINATED, schema.TRUNCATED]
    others += [schema.TIMESTAMP, "task_index"]
    return joined | {name: arrays[name] for name in others if name in arrays}


def part(layout: Layout, joined: Arrays) -> Arrays:
    """Undoes `join`: what it made of vectors of numbers, each (N, n), by their columns' names."""
    sizes = [layout.columns[name]["shape"][0] for name in layout.state]
    columns = np.split(joined["state"], np.cumsum(sizes)[:-1], axis=1) if sizes else []
    found = dict(zip(layout.state, columns, strict=True))
    found |= {layout.action: joined["action"]} if layout.action in layout.columns else {}
    return found | {
        name: values.reshape(len(values), -1)
        for name, values in joined.items()
        if name in layout.columns and len(layout.columns[name]["shape"]) == 1
    }


def _action(
    layout: Layout, arrays: Mapping[str, NDArray[Any]], starts: NDArray[np.int64]
) -> NDArray[Any]:
    if layout.action in arrays:
        return arrays[layout.action]
    last = np.repeat(starts[1:] - 1, np.diff(starts))
    return arrays[layout.action.removeprefix("next.")][
        np.minimum(np.arange(1, starts[-1] + 1), last)
    ]


def ends_of(entry: Entry, columns: Mapping[str, NDArray[Any]]) -> tuple[bool, bool]:
    """How the last step ended, as far as that is recorded: `next.done` alone does not tell."""
    last = {name: bool(values[-1].any()) for name, values in columns.items() if name in ENDS}
    truncated = last.get(schema.TRUNCATED, False)
    done = last.get(schema.DONE, False) and schema.TRUNCATED in last and not truncated
    terminated = last.get(schema.TERMINATED, done)
    return entry.flags.get("terminated", terminated), entry.flags.get("truncated", truncated)


def check_arrays(
    catalog: Catalog, entries: Sequence[Entry], arrays: Arrays, report: Report
) -> None:
    """Looks for numbers that are not finite, and for rows that are not where they should be.

    Times that do not fit the rate are replaced by those that do, once they are reported: images
    would be looked for at them.
    """
    starts = starts_of(entries)
    lengths = np.diff(starts)
    frame = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    wanted = {
        "frame_index": frame,
        "episode_index": np.repeat([entry.number for entry in entries], lengths),
        "index": frame + np.repeat([entry.first for entry in entries], lengths),
    }
    blame = Blame(entries, starts, report)
    for name, values in arrays.items():
        if np.issubdtype(values.dtype, np.floating):
            finite = np.asarray(np.isfinite(values).reshape(len(values), -1).all(1))
            blame("E_DATA_NONFINITE", name, ~finite, "is not finite", "drop or repair the episode")
        elif name in wanted:
            message = f"{name} is out of sequence, so that frames are missing or doubled"
            blame("E_DATA_ORDER", name, values != wanted[name], message, "fetch it again")
    if "task_index" in arrays:
        outside = (arrays["task_index"] < 0) | (arrays["task_index"] >= len(catalog.tasks))
        message = "task_index is not in the list of tasks"
        blame("E_DATA_TASK", "task_index", outside, message, "fetch meta/ again")
    times, due = arrays[schema.TIMESTAMP], frame / catalog.fps
    late = np.abs(times - due) > 0.5 / catalog.fps
    for i in np.unique(np.searchsorted(starts, np.flatnonzero(late), side="right") - 1).tolist():
        rows = slice(int(starts[i]), int(starts[i + 1]))
        _blame_clock(entries[i], times[rows], late[rows], catalog.fps, report)
    arrays[schema.TIMESTAMP] = np.where(late | ~np.isfinite(times), due, times).astype(np.float32)


def _blame_clock(
    entry: Entry, times: NDArray[Any], late: NDArray[np.bool_], fps: float, report: Report
) -> None:
    """Names what is wrong with one episode's times, some of which are `late` or early."""
    message = f"timestamp does not fit the rate of {fps} Hz"
    place: dict[str, Any] = {"frame": int(late.argmax()), "count": int(late.sum())}
    unknown = Fault("E_DATA_TIME", message, "correct fps or the recording", **place)
    fault = next(clock_faults(times, fps), unknown)
    place = {"file": entry.file, "episode": entry.number, "field": schema.TIMESTAMP}
    report(dataclasses.replace(fault, severity="error", **place))


class Blame:
    """Reports, for each episode, the first of its frames that are at fault, and their number."""

    def __init__(self, entries: Sequence[Entry], starts: NDArray[np.int64], report: Report) -> None:
        self._entries = entries
        self._starts = starts
        self._report = report

    def __call__(
        self, code: str, field: str, bad: NDArray[np.bool_], message: str, remedy: str
    ) -> None:
        rows = np.flatnonzero(bad)
        episodes = np.searchsorted(self._starts, rows, side="right") - 1
        for i in np.unique(episodes).tolist():
            frames = rows[episodes == i] - int(self._starts[i])
            entry = self._entries[i]
            self._report(
                Fault(
                    code,
                    message,
                    remedy,
                    file=entry.file,
                    episode=entry.number,
                    frame=int(frames[0]),
                    field=field,
                    count=len(frames),
                )
            )
