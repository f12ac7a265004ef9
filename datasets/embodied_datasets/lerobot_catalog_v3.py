"""The metadata of LeRobot v3.0: many episodes per file, their places in `meta/episodes`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from embodied_datasets import lerobot_info as header
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.faults import DataError, Fault, Report
from embodied_datasets.files import inside
from embodied_datasets.lerobot_entries import Camera, Catalog, Entry, Layout, Options
from embodied_datasets.lerobot_layout import make_layout
from embodied_datasets.lerobot_tables import open_table, read_table

_PLACES = ("chunk_index", "file_index")
_FLAGS = ("success", "terminated", "truncated")
_REQUIRED = (schema.TIMESTAMP, "frame_index", "task_index")
_FETCH = "fetch it again"


def read(root: Path, info: Mapping[str, Any], options: Options, report: Report) -> Catalog:
    """Reads the metadata; faults after which reading can go on are reported."""
    path = root / schema.INFO_PATH
    features = header.features(path, info)
    parts = header.state_parts(path, info)
    layout = make_layout(path, features, options, required=_REQUIRED, parts=parts)
    files = sorted((root / "meta" / "episodes").rglob("*.parquet"))
    for file in files:
        inside(root, str(file.relative_to(root)))
    tasks_path = inside(root, schema.TASKS_PATH)
    action = layout.columns[layout.action.removeprefix("next.")]
    rate = header.fps(path, info)
    bounds = header.action_bounds(path, info, action["shape"][0])
    profile = header.render_profile(path, info)
    entries = _Entries(root, info, layout, options, report).read(files)
    tasks = _tasks(tasks_path)
    return Catalog(
        root=root,
        fps=rate,
        layout=layout,
        tasks=tasks,
        entries=entries,
        files=[path, tasks_path, *files],
        action_bounds=bounds,
        render_profile=profile,
        state_parts=parts if options.state is None else None,
    )


def video_template(path: Path, info: Mapping[str, Any], options: Options) -> str:
    """The path template of videos, in the folder that is chosen."""
    template = header.template(path, info, "video_path", schema.VIDEO_PATH)
    if options.video_folder is None:
        return template
    return "/".join([options.video_folder, *template.split("/")[1:]])


def column(path: Path, table: Any, name: str) -> list[Any]:
    """A column of a metadata table without gaps, as Python values."""
    if name not in table.column_names or table[name].null_count:
        message = f"the column {name!r} is missing or has gaps"
        schema.fail("E_DATA_COLUMNS", path, message, _FETCH, field=name)
    values = table[name]
    if not pa.types.is_dictionary(values.type):
        return list(values.to_pylist())
    found: list[Any] = []
    for chunk in values.chunks:  # decoded by hand: equal texts stay one object
        words = chunk.dictionary.to_pylist()
        found += [words[i] for i in chunk.indices.to_pylist()]
    return found


def _tasks(path: Path) -> list[str]:
    kinds = open_table(path).schema_arrow
    texts = [field.name for field in kinds if field.type in (pa.string(), pa.large_string())]
    if len(texts) != 1:
        message = f"must have one column of texts, found {texts}"
        schema.fail("E_DATA_COLUMNS", path, message, _FETCH)
    table = read_table(path, [*texts, "task_index"], texts)
    numbers, words = column(path, table, "task_index"), column(path, table, texts[0])
    return in_order(path, dict(zip(numbers, words, strict=True)))


def in_order(path: Path, tasks: Mapping[int, str]) -> list[str]:
    """The tasks by their numbers."""
    if sorted(tasks) != list(range(len(tasks))):
        message = "task_index must count from 0 without gaps"
        schema.fail("E_DATA_TASK", path, message, _FETCH, field="task_index")
    return [tasks[i] for i in range(len(tasks))]


class _Entries:
    """Turns rows of `meta/episodes` into entries."""

    def __init__(
        self,
        root: Path,
        info: Mapping[str, Any],
        layout: Layout,
        options: Options,
        report: Report,
    ) -> None:
        self._root, self._info, self._report = root, info, report
        path = root / schema.INFO_PATH
        self._cameras = {n: c for n, c in layout.cameras.items() if not c.stills}
        self._data = header.template(path, info, "data_path", schema.DATA_PATH)
        self._video = video_template(path, info, options) if self._cameras else ""
        self._rows: Counter[Path] = Counter()  # rows of each file so far

    def read(self, files: Iterable[Path]) -> list[Entry]:
        entries: list[Entry] = []
        frames = 0
        for path in files:
            table = _read_episodes(path, self._cameras)
            rows = {name: column(path, table, name) for name in table.column_names}
            has_final = open_table(path).schema_arrow.names.count("final") == 1
            for i in range(len(table)):
                row = {name: values[i] for name, values in rows.items()}
                if self._info.get("recording") and len(entries) == self._info.get("total_episodes"):
                    break  # the writer was interrupted between this row and info.json
                self._check_row(path, row, len(entries), frames)
                final = (path, i) if has_final else None
                with self._placed(len(entries)):
                    entries.append(self._entry(row, len(entries), frames, final))
                frames += row["length"]
        info_path = self._root / schema.INFO_PATH
        where = "meta/episodes"
        header.check_totals(info_path, self._info, len(entries), frames, where, self._report)
        return entries

    def _check_row(self, path: Path, row: Mapping[str, Any], index: int, frames: int) -> None:
        length = row["length"]
        wanted = {
            "episode_index": index,
            "dataset_from_index": frames,
            "dataset_to_index": frames + length,
        }
        for name, value in wanted.items():
            if row[name] != value or length < 1:
                message = (
                    f"{name} is {row[name]}, expected {value} (length {length}); episodes must "
                    "follow each other without a hole"
                )
                remedy = "fetch the set again"
                place: dict[str, Any] = {"file": path, "episode": index, "field": name}
                self._report(Fault("E_DATA_LISTING", message, remedy, **place))
                if length < 1:  # nothing can be read by such a length
                    schema.fail("E_DATA_LISTING", path, message, remedy, episode=index)

    def _entry(
        self, row: Mapping[str, Any], number: int, first: int, final: tuple[Path, int] | None
    ) -> Entry:
        videos = {}
        for name, camera in self._cameras.items():
            prefix = f"videos/{camera.feature}"
            file = self._locate(self._video, row, prefix, video_key=camera.feature)
            videos[name] = (file, float(row[f"{prefix}/from_timestamp"]))
        file = self._locate(self._data, row, "data")
        start = self._rows[file]
        self._rows[file] += row["length"]
        return Entry(
            number=number,
            first=first,
            file=file,
            row=start,
            length=row["length"],
            key=row.get("key", ""),
            flags={name: row[name] for name in _FLAGS if name in row},
            info=row.get("info", "{}"),
            videos=videos,
            final=final,
        )

    @contextmanager
    def _placed(self, episode: int) -> Iterator[None]:
        """Lets refused paths name the file that their templates stand in, and the episode."""
        try:
            yield
        except DataError as error:
            file = self._root / schema.INFO_PATH
            fault = dataclasses.replace(error.fault, file=file, episode=episode)
            raise DataError(fault) from error

    def _locate(self, template: str, row: Mapping[str, Any], prefix: str, **values: str) -> Path:
        places = {name: row[f"{prefix}/{name}"] for name in _PLACES}
        allowed = {*_PLACES, *values}
        return inside(self._root, schema.expand(template, allowed, **places, **values))


def _read_episodes(path: Path, cameras: Mapping[str, Camera]) -> Any:
    kinds = {field.name: field.type for field in open_table(path).schema_arrow}
    names = ["episode_index", "length", "dataset_from_index", "dataset_to_index"]
    names += [f"data/{place}" for place in _PLACES]
    for camera in cameras.values():
        names += [f"videos/{camera.feature}/{n}" for n in (*_PLACES, "from_timestamp")]
    # Other people's columns of the same names may hold other things.
    names += [name for name in _FLAGS if kinds.get(name) == pa.bool_()]
    texts = [name for name in ("key", "info") if kinds.get(name) == pa.string()]
    missing = sorted(set(names) - kinds.keys())
    if missing:
        schema.fail("E_DATA_COLUMNS", path, f"lacks the columns {missing}", _FETCH)
    numbers = [name for name in names if name not in _FLAGS]
    wrong = [n for n in numbers if not (pa.types.is_integer(kinds[n]) or "/from_" in n)]
    if wrong:
        schema.fail("E_DATA_COLUMNS", path, f"needs integers in the columns {wrong}", _FETCH)
    return read_table(path, [*names, *texts], texts)
