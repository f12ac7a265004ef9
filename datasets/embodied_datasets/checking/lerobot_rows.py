"""The rows of a LeRobot folder: each column against the header, and each episode as it stands."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets import lerobot_schema, lerobot_stats
from embodied_datasets.checking.clock import clock_faults
from embodied_datasets.checking.lerobot_files import (
    RawEpisode,
    RawSet,
    numbers,
    open_parquet,
    read_columns,
    relative,
)
from embodied_datasets.faults import Fault, Report
from embodied_datasets.lerobot_video import decode

Array = NDArray[Any]
_FIELDS = {
    lerobot_schema.STATE: "state",
    lerobot_schema.ACTION: "action",
    lerobot_schema.REWARD: "reward",
    lerobot_schema.EXPERT_ACTION: "expert_action",
}
_BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")


class RawRows:
    """The episodes of a folder whose rows can be read, and every fault of its rows.

    Implements `embodied.structs.Episodes` over those episodes; `numbers` are theirs in the set.
    """

    def __init__(self, raw: RawSet, report: Report) -> None:
        self.root = raw.root
        self._raw = raw
        self._columns: list[dict[str, Array]] = []
        self.entries: list[RawEpisode] = []
        by_file = itertools.groupby(raw.episodes, key=lambda episode: episode.file)
        for path, members in by_file:
            self._read(path, list(members), report)
        self.spec = self._make_spec()
        self.fingerprint = "raw"
        if self._columns:
            _check_stats(raw, self.joined(), report)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        entry, found = self.entries[index], self._columns[index]
        nothing = np.zeros((entry.length, 0), np.float32)
        tables = {field: _table(found[n]) for n, field in _FIELDS.items() if n in found}
        reward = tables.get("reward")
        skipped = {*_FIELDS, *_BOOKKEEPING}
        succeeded = found.get(lerobot_schema.SUCCESS, np.zeros(1, bool)).any()
        return Episode(
            state=tables.get("state", nothing),
            action=tables.get("action", nothing),
            instruction=self._instruction(found),
            reward=None if reward is None else reward.reshape(-1),
            expert_action=tables.get("expert_action"),
            images=_Videos(self._raw, entry),
            extras={name: values for name, values in found.items() if name not in skipped},
            info=_info(entry),
            success=bool(entry.facts.get("success") or succeeded),
            terminated=bool(entry.facts.get("terminated")),
            truncated=bool(entry.facts.get("truncated")),
        )

    def joined(self) -> dict[str, Array]:
        """Every finite column (N, D) of numbers over all episodes."""
        columns = {}
        for name in self._raw.features:
            parts = [_table(found[name]) for found in self._columns if name in found]
            values = np.concatenate(parts) if len(parts) == len(self._columns) else None
            if values is not None and values.size and np.isfinite(values).all():
                columns[name] = values
        return columns

    def _instruction(self, found: Mapping[str, Array]) -> str:
        task = found.get("task_index", np.zeros(0))
        return self._raw.tasks.get(int(task[0]), "") if len(task) else ""

    def _make_spec(self) -> Spec:
        sizes = {
            field: int(self._raw.features[name]["shape"][0]) if name in self._raw.features else 0
            for name, field in _FIELDS.items()
        }
        bounds = [self._raw.info.get(name) for name in ("action_low", "action_high")]
        if not all(isinstance(b, list) and len(b) == sizes["action"] for b in bounds):
            tables = [_table(c["action"]) for c in self._columns if "action" in c]
            tables = [t for t in tables if len(t) and t.shape[1] == sizes["action"]]
            low = np.min([np.nanmin(t, 0) for t in tables], 0) if tables else np.zeros(0)
            high = np.max([np.nanmax(t, 0) for t in tables], 0) if tables else np.zeros(0)
            bounds = [low.tolist(), high.tolist()]
        return Spec(
            state_dim=sizes["state"],
            action_dim=sizes["action"],
            action_low=tuple(bounds[0] or ()),
            action_high=tuple(bounds[1] or ()),
            rate_hz=self._raw.rate_hz,
            cameras={_camera(name): sides for name, sides in self._raw.cameras.items()},
        )

    def _read(self, path: Path, members: list[RawEpisode], report: Report) -> None:
        """Reads one file and hands its rows out to its episodes, in their order."""
        root, file = self._raw.root, relative(self._raw.root, path)
        parquet = open_parquet(root, path, report)
        if parquet is None:
            return
        stored = set(parquet.schema_arrow.names)
        declared = {name for name in self._raw.info["features"] if name not in self._raw.cameras}
        for name in sorted(stored ^ declared):
            missing = name in declared
            report(
                Fault(
                    "E_DATA_COLUMN_MISSING" if missing else "E_DATA_COLUMN_EXTRA",
                    "is declared in the header and absent" if missing else "is not in the header",
                    "correct the header, or restore the column",
                    severity="error" if missing else "warning",
                    file=file,
                    field=name,
                )
            )
        rows = parquet.metadata.num_rows
        wanted = sum(episode.length for episode in members)
        if rows != wanted:
            report(
                Fault(
                    "E_DATA_COUNTS",
                    f"has {rows} rows, its episodes have {wanted}",
                    "fetch it again; frames are missing or left over",
                    file=file,
                    episode=members[0].index,
                    count=abs(rows - wanted),
                )
            )
        columns = read_columns(root, path, sorted(stored & self._raw.features.keys()), report)
        arrays = {
            n: a for n in columns if (a := self._array(file, n, columns[n], report)) is not None
        }
        self._hand_out(file, arrays, rows, members, report)

    def _array(self, file: Path, name: str, column: Any, report: Report) -> Array | None:
        """A column as (L,) or (L, D), or None after saying what is wrong with it."""
        feature, rows = self._raw.features[name], len(column)
        place: dict[str, Any] = {"file": file, "field": name}
        values = column.combine_chunks()
        if pa.types.is_nested(values.type):
            values = values.flatten() if hasattr(values, "flatten") else values
        message = f"holds {values.type}, the header says {feature['dtype']}"
        if not _is_numeric(values.type):
            report(Fault("E_DATA_DTYPE", message, "store it as numbers", **place))
            return None
        if str(values.type) != _arrow_name(feature["dtype"]):
            report(Fault("E_DATA_DTYPE", message, "correct the header or the file", **place))
        size = feature["shape"][0]
        if len(values) != rows * size:
            message = f"holds {len(values)} values in {rows} rows, the header says {size} in each"
            report(Fault("E_DATA_SHAPE", message, "correct the header or the file", **place))
            return None
        array = numbers(pa.chunked_array([values]))
        return array if size == 1 else array.reshape(rows, size)

    def _hand_out(
        self,
        file: Path,
        arrays: Mapping[str, Array],
        rows: int,
        members: list[RawEpisode],
        report: Report,
    ) -> None:
        start = 0
        for episode in members:
            stop = start + episode.length
            if stop > rows or episode.length < 0:
                return
            part = {name: values[start:stop] for name, values in arrays.items()}
            _check_numbering(self._raw, file, episode, part, report)
            self.entries.append(episode)
            self._columns.append(part)
            start = stop


def _check_numbering(
    raw: RawSet, file: Path, episode: RawEpisode, part: Mapping[str, Array], report: Report
) -> None:
    steps = np.arange(episode.length)
    wanted = {
        "frame_index": steps,
        "episode_index": steps * 0 + episode.index,
        "index": episode.start + steps,
    }
    for name, values in wanted.items():
        bad = part[name] != values if name in part else np.zeros(0, bool)
        if bad.any():
            at = int(bad.argmax())
            report(
                Fault(
                    "E_DATA_INDEX",
                    f"is {part[name][at]}, expected {values[at]}",
                    "write the set anew (--fix does); frames are missing, doubled or mixed up",
                    file=file,
                    episode=episode.index,
                    frame=at,
                    field=name,
                    count=int(bad.sum()),
                )
            )
    unknown = ~np.isin(part.get("task_index", np.zeros(0, np.int64)), list(raw.tasks))
    if unknown.any():
        at = int(unknown.argmax())
        report(
            Fault(
                "E_DATA_TASK_INDEX",
                f"is {part['task_index'][at]}, the set has {len(raw.tasks)} tasks",
                "restore the tasks' table, or correct the column",
                file=file,
                episode=episode.index,
                frame=at,
                field="task_index",
                count=int(unknown.sum()),
            )
        )
    for fault in clock_faults(part.get("timestamp", np.zeros(0)), raw.rate_hz):
        report(dataclasses.replace(fault, file=file, episode=episode.index, field="timestamp"))


def _check_stats(raw: RawSet, columns: Mapping[str, Array], report: Report) -> None:
    file = Path(lerobot_schema.STATS_PATH)
    again = "compute them anew (--fix does)"
    try:
        stored = lerobot_schema.read_json(lerobot_schema.inside(raw.root, str(file)))
    except FileNotFoundError:
        message = "is missing, so that nothing can be normalised by it"
        report(Fault("E_DATA_STATS", message, again, severity="warning", file=file))
        return
    except ValueError as error:
        report(Fault("E_DATA_STATS", str(error)[:200], again, file=file))
        return
    for name, values in columns.items():
        wrong = _misfits(stored.get(name), lerobot_stats.array_stats(values))
        if wrong:
            report(Fault("E_DATA_STATS", wrong, again, file=file, field=name))


def _misfits(stored: Any, found: lerobot_stats.Stats) -> str | None:
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


class _Videos(Mapping[str, NDArray[np.uint8]]):
    """One episode's cameras; every look at one decodes its video."""

    def __init__(self, raw: RawSet, entry: RawEpisode) -> None:
        self._raw, self._entry = raw, entry

    def __getitem__(self, camera: str) -> NDArray[np.uint8]:
        name = next(n for n in self._raw.cameras if _camera(n) == camera)
        path, start = self._entry.videos[name]
        # The video's own frames: what the times say is checked elsewhere.
        times = start + np.arange(self._entry.length) / self._raw.rate_hz
        return decode(path, times, self._raw.cameras[name], self._raw.rate_hz)

    def __iter__(self) -> Iterator[str]:
        return (_camera(name) for name in self._raw.cameras)

    def __len__(self) -> int:
        return len(self._raw.cameras)


def _camera(name: str) -> str:
    return name.removeprefix(lerobot_schema.IMAGES)


def _table(values: Array) -> Array:
    return np.asarray(values).reshape(len(values), -1)


def _is_numeric(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _arrow_name(dtype: str) -> str:
    return str(pa.from_numpy_dtype(np.dtype(dtype)))


def _info(entry: RawEpisode) -> dict[str, Any]:
    try:
        found = json.loads(entry.facts.get("info") or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
