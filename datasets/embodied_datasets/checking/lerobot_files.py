"""A LeRobot v3.0 folder read file by file, going on where the data set's reader would refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embodied_datasets import lerobot_info, lerobot_schema
from embodied_datasets.faults import Fault, Report

MAX_ROWS = 10**7
MAX_BYTES = 2**30
_MAX_RATIO = 500
"""Decoded to stored bytes from which on a large file counts as a bomb."""
_SMALL = 64 * 2**20
_PLACES = ("chunk_index", "file_index")
_FETCH = "fetch or record it again"


@dataclass(frozen=True)
class RawEpisode:
    """A row of the episodes' table.

    Attributes:
        start: number of rows of all episodes before it.
        facts: the row itself, statistics left out.
        file: of its data.
        videos: a camera's feature -> (file, time of the first frame in s).
    """

    index: int
    start: int
    facts: Mapping[str, Any]
    file: Path
    videos: Mapping[str, tuple[Path, float]]

    @property
    def length(self) -> int:
        return int(self.facts["length"])


@dataclass(frozen=True)
class RawSet:
    """The metadata of a folder as far as they can be read.

    Attributes:
        rate_hz: `fps` of the header.
        features: LeRobot's description of each column that is a vector of numbers.
        cameras: a camera's feature -> (h, w).
        tasks: instructions by `task_index`.
    """

    root: Path
    info: Mapping[str, Any]
    rate_hz: float
    features: Mapping[str, Mapping[str, Any]]
    cameras: Mapping[str, tuple[int, int]]
    tasks: Mapping[int, str]
    episodes: Sequence[RawEpisode]


def read_raw(root: Path, report: Report) -> RawSet | None:
    """Reads the metadata; None where they are of another version or say nothing usable."""
    path = root / lerobot_schema.INFO_PATH
    if not (path.exists() or path.is_symlink()):
        return None
    try:
        info = lerobot_schema.read_json(lerobot_schema.inside(root, lerobot_schema.INFO_PATH))
        if info.get("codebase_version") != lerobot_schema.CODEBASE_VERSION:
            return None
        rate_hz = lerobot_info.fps(path, info)
        features, cameras = _features(info, report)
    except (OSError, ValueError) as error:
        report(_fault("E_DATA_HEADER", str(error), lerobot_schema.INFO_PATH))
        return None
    tasks = _tasks(root, report)
    episodes = _episodes(root, info, cameras, report)
    return RawSet(root, info, rate_hz, features, cameras, tasks, episodes)


def open_parquet(root: Path, path: Path, report: Report, texts: Sequence[str] = ()) -> Any:
    """The open file, or None after saying why not."""
    file = relative(root, path)
    try:
        lerobot_schema.inside(root, str(path.relative_to(root)))
    except ValueError as error:
        report(_fault("E_DATA_PATH", str(error), file))
        return None
    if not path.is_file():
        report(_fault("E_DATA_FILE_MISSING", "is missing, though episodes lie in it", file))
        return None
    try:
        names = pq.read_schema(path).names
        parquet = pq.ParquetFile(path, read_dictionary=[t for t in texts if t in names])
    except (pa.ArrowException, OSError, ValueError) as error:
        report(_fault("E_DATA_FILE_DAMAGED", f"cannot be opened ({error})", file))
        return None
    size, stored = _decoded_bytes(parquet.metadata), path.stat().st_size
    too_dense = size > _SMALL and size > _MAX_RATIO * stored
    if parquet.metadata.num_rows > MAX_ROWS or size > MAX_BYTES or too_dense:
        message = f"unpacks {stored} bytes to {size} in {parquet.metadata.num_rows} rows"
        report(_fault("E_DATA_TOO_LARGE", message, file))
        return None
    return parquet


def _decoded_bytes(metadata: Any) -> int:
    """What the columns take in memory; a dictionary may stand for many more values than it has."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    values = sum(g.column(j).num_values for g in groups for j in range(g.num_columns))
    return max(8 * int(values), sum(int(group.total_byte_size) for group in groups))


def read_columns(
    root: Path, path: Path, names: Sequence[str], report: Report, texts: Sequence[str] = ()
) -> dict[str, Any]:
    """The named columns that the file has, as Arrow arrays; empty where it cannot be read."""
    parquet = open_parquet(root, path, report, texts)
    if parquet is None:
        return {}
    have = [name for name in names if name in parquet.schema_arrow.names]
    try:
        table = parquet.read(have)
    except (pa.ArrowException, OSError, ValueError) as error:
        message = f"is damaged ({error})"
        report(_fault("E_DATA_FILE_DAMAGED", message, relative(root, path)))
        return {}
    return {name: table[name] for name in have}


def relative(root: Path, path: Path) -> Path:
    """The path as faults name it."""
    return path.relative_to(root) if path.is_relative_to(root) else path


def numbers(column: Any) -> NDArray[Any]:
    """An Arrow column of numbers as (L,); gaps become NaN."""
    array: NDArray[Any] = column.combine_chunks().to_numpy(zero_copy_only=False)
    return array


def _fault(code: str, message: str, file: Path | str, **place: Any) -> Fault:
    return Fault(code, message, _FETCH, file=Path(file), **place)


def _features(
    info: Mapping[str, Any], report: Report
) -> tuple[dict[str, Mapping[str, Any]], dict[str, tuple[int, int]]]:
    stored = info.get("features")
    if not isinstance(stored, dict) or not stored:
        raise ValueError(f"features must be an object, got {stored!r}")
    vectors: dict[str, Mapping[str, Any]] = {}
    cameras: dict[str, tuple[int, int]] = {}
    for name, feature in stored.items():
        shape: Any = feature.get("shape") if isinstance(feature, dict) else None
        sound = isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape)
        if not sound or not isinstance(feature.get("dtype"), str):
            message = f"feature has no dtype or shape: {str(feature)[:80]}"
            report(_fault("E_DATA_HEADER", message, lerobot_schema.INFO_PATH, field=name))
        elif feature["dtype"] == "video" and len(shape) == 3:
            cameras[name] = (shape[0], shape[1])
        elif feature["dtype"] in ("float32", "float64", "int64", "int32", "bool"):
            vectors |= {name: feature} if len(shape) == 1 else {}
    return vectors, cameras


def _tasks(root: Path, report: Report) -> dict[int, str]:
    path = root / lerobot_schema.TASKS_PATH
    parquet = open_parquet(root, path, report)
    if parquet is None:
        return {}
    kinds = {field.name: field.type for field in parquet.schema_arrow}
    texts = [n for n, kind in kinds.items() if pa.types.is_string(kind) or _is_large(kind)]
    columns = read_columns(root, path, [*texts[:1], "task_index"], report, texts[:1])
    if not texts or "task_index" not in columns:
        report(_fault("E_DATA_COLUMN_MISSING", "lacks texts or task_index", path.relative_to(root)))
        return {}
    found = dict(zip(numbers(columns["task_index"]), _texts(columns[texts[0]]), strict=True))
    if sorted(found) != list(range(len(found))):
        message = "task_index does not count from 0 without gaps"
        report(_fault("E_DATA_TASK_INDEX", message, path.relative_to(root), field="task_index"))
    return {int(number): text for number, text in found.items()}


def _is_large(kind: Any) -> bool:
    return bool(pa.types.is_large_string(kind))


def _texts(column: Any) -> list[str]:
    """Texts that came as dictionaries; equal ones stay one object, however many rows there are."""
    words: list[str] = []
    for chunk in column.chunks:
        known = [str(word) for word in chunk.dictionary.to_pylist()]
        words += ["" if i is None else known[i] for i in chunk.indices.to_pylist()]
    return words


def _episodes(
    root: Path, info: Mapping[str, Any], cameras: Mapping[str, Any], report: Report
) -> list[RawEpisode]:
    files = sorted((root / "meta" / "episodes").rglob("*.parquet"))
    if not files:
        message = "is missing, so that no episode can be found"
        report(_fault("E_DATA_FILE_MISSING", message, "meta/episodes"))
    names = ["episode_index", "length", "dataset_from_index", "dataset_to_index"]
    names += [f"data/{place}" for place in _PLACES]
    for camera in cameras:
        names += [f"videos/{camera}/{name}" for name in (*_PLACES, "from_timestamp")]
    flags = ["success", "terminated", "truncated"]
    found: list[RawEpisode] = []
    index = start = 0
    for path in files:
        texts = ["info"]
        columns = read_columns(root, path, [*names, *flags, *texts], report, texts)
        lacking = sorted(set(names) - columns.keys()) if columns else []
        if lacking:
            message = f"lacks the columns {lacking[:6]}"
            report(_fault("E_DATA_COLUMN_MISSING", message, relative(root, path)))
        if not columns or lacking:
            continue
        info_texts = columns.pop("info", None)
        lists: dict[str, Any] = {name: column.to_pylist() for name, column in columns.items()}
        lists |= {} if info_texts is None else {"info": _texts(info_texts)}
        for i in range(len(lists["length"])):
            facts = {name: values[i] for name, values in lists.items()}
            episode = _episode(root, info, facts, (index, start), cameras, report)
            found += [episode] if episode is not None else []
            index, start = index + 1, start + (episode.length if episode else 0)
    return found


def _episode(
    root: Path,
    info: Mapping[str, Any],
    facts: dict[str, Any],
    place: tuple[int, int],
    cameras: Mapping[str, Any],
    report: Report,
) -> RawEpisode | None:
    def locate(field: str, default: str, prefix: str, **values: str) -> Path:
        places = {name: int(facts[f"{prefix}/{name}"]) for name in _PLACES}
        template = str(info.get(field) or default)
        name = lerobot_schema.expand(template, {*_PLACES, *values}, **places, **values)
        return lerobot_schema.inside(root, name)

    try:
        file = locate("data_path", lerobot_schema.DATA_PATH, "data")
        videos = {}
        for name in cameras:
            path = locate("video_path", lerobot_schema.VIDEO_PATH, f"videos/{name}", video_key=name)
            videos[name] = (path, _start(facts[f"videos/{name}/from_timestamp"]))
        if not 0 <= int(facts["length"]) <= MAX_ROWS:
            raise ValueError(f"length is {facts['length']}, expected 0 to {MAX_ROWS}")
        return RawEpisode(*place, facts | {"length": int(facts["length"])}, file, videos)
    except (ValueError, TypeError, OSError) as error:
        text = str(error)[:300]
        code = "E_DATA_PATH" if "path template" in text or "leads out" in text else "E_DATA_INDEX"
        report(_fault(code, text, lerobot_schema.INFO_PATH, episode=place[0]))
        return None


def _start(value: Any) -> float:
    """The time of a film's frame in s."""
    start = float(value)
    if not 0 <= start < 1e9:  # NaN as well
        raise ValueError(f"from_timestamp is {start}, expected seconds from the film's start")
    return start
