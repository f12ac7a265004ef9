"""LeRobot's v3.0 layout, read by nothing of ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def assert_plain(root: Path, num_episodes: int | None = None) -> list[str]:
    """Checks a folder against LeRobot's v3.0 layout with PyArrow and PyAV alone.

    Returns the instruction of each episode.
    """
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    total = info["total_episodes"]
    assert total == num_episodes or num_episodes is None
    assert info["splits"] == {"train": f"0:{total}"}
    features = info["features"]
    cameras = [name for name, feature in features.items() if feature["dtype"] == "video"]
    columns = [name for name in features if name not in cameras]
    # LeRobot reads every file that these patterns find, as one table.
    data = _one_table(sorted((root / "data").glob("*/*.parquet")))
    rows = _one_table(sorted((root / "meta/episodes").glob("*/*.parquet"))).to_pylist()[:total]
    assert set(data.column_names) == set(columns)
    # What info.json does not count yet is of an episode that was not finished.
    tasks = pq.read_table(root / "meta/tasks.parquet").to_pylist()[: info["total_tasks"]]
    assert [task["task_index"] for task in tasks] == list(range(info["total_tasks"]))
    stats = json.loads((root / "meta/stats.json").read_text())
    assert set(stats) == {name for name in features if features[name]["dtype"] != "language"}
    frames = 0
    for number, row in enumerate(rows):
        assert row["episode_index"] == number
        assert (row["dataset_from_index"], row["length"]) == (frames, row["length"])
        path = info["data_path"].format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
        )
        table = pq.read_table(root / path)
        table = table.filter(pa.compute.equal(table["episode_index"], number))
        _assert_rows(table, row, frames, info["fps"])
        assert tasks[table["task_index"][0].as_py()]["task"] == row["tasks"][0]
        assert _numbers_of(data["index"])[frames : frames + row["length"]] == _numbers_of(
            table["index"]
        )
        for camera in cameras:
            _assert_video(root, info, row, camera)
        frames += row["length"]
    assert frames == info["total_frames"]
    return [row["tasks"][0] for row in rows]


def _one_table(paths: Sequence[Path]) -> Any:
    return pa.concat_tables([pq.read_table(path) for path in paths])


def _numbers_of(column: Any) -> list[Any]:
    return list(column.to_pylist())


def _assert_rows(table: Any, row: dict[str, Any], first: int, fps: float) -> None:
    length = row["length"]
    assert len(table) == length
    assert row["dataset_to_index"] == first + length
    assert _numbers_of(table["frame_index"]) == list(range(length))
    assert _numbers_of(table["index"]) == list(range(first, first + length))
    np.testing.assert_allclose(table["timestamp"].to_numpy(), np.arange(length) / fps, atol=1e-4)


def _assert_video(root: Path, info: dict[str, Any], row: dict[str, Any], camera: str) -> None:
    prefix = f"videos/{camera}"
    path = info["video_path"].format(
        video_key=camera,
        chunk_index=row[f"{prefix}/chunk_index"],
        file_index=row[f"{prefix}/file_index"],
    )
    start, stop = row[f"{prefix}/from_timestamp"], row[f"{prefix}/to_timestamp"]
    assert stop - start == pytest.approx(row["length"] / info["fps"])
    with av.open(str(root / path)) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    inside = [shown_at for shown_at in shown if start - 1e-3 < shown_at < stop - 1e-3]
    assert len(inside) == row["length"]
