"""Every fault of a LeRobot set is named, not only the first, and clean sets have none."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embodied.structs import Annotation, Episode, Spec
from embodied_datasets import lerobot_video
from embodied_datasets.faults import DataError, Fault, refuse
from embodied_datasets.lerobot_check import check_lerobot
from embodied_datasets.lerobot_writer import LeRobotWriter

SPEC = Spec(3, 2, (-1.0, -2.0), (1.0, 2.0), 10.0, cameras={"top": (16, 32)})
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.top/chunk-000/file-000.mp4"
TOP = "observation.images.top"


def _film(length: int) -> Any:
    levels = 10 * np.arange(length)
    return np.broadcast_to(levels[:, None, None, None], (length, 16, 32, 3)).astype(np.uint8)


def _episode(seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    length = 4 + seed
    return Episode(
        rng.standard_normal((length, 3), np.float32),
        rng.standard_normal((length, 2), np.float32),
        f"do {seed}",
        images={"top": _film(length)},
        extras={"force": rng.standard_normal((length, 2, 2))},
        annotations=(Annotation("motion", "up"),),
    )


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("check") / "set"
    with LeRobotWriter(root, spec=SPEC) as writer:
        for seed in range(3):
            writer.add(str(seed), _episode(seed))
        recording = _faults(root)
        writer.finalize()
    assert not recording
    return root


def _faults(root: Path, **options: Any) -> list[Fault]:
    found: list[Fault] = []
    check_lerobot(root, found.append, **options)
    return found


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "set"))


def _set(root: Path, file: str, column: str, values: dict[int, Any]) -> None:
    """Changes the rows of a column."""
    table = pq.read_table(root / file)
    field = table.schema.field(column)
    column_values = table[column].to_pylist()
    for row, value in values.items():
        column_values[row] = value
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, field, pa.array(column_values, field.type)), root / file)


def _edit(root: Path, **changes: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_clean_set_has_no_faults(clean: Path) -> None:
    assert not _faults(clean)


# Episodes of 4, 5 and 6 frames: the second starts at row 4, the third at row 9.
NAN = float("nan")
DAMAGE: dict[str, tuple[Callable[[Path], object], dict[str, Any]]] = {
    "nan": (
        lambda r: _set(r, DATA, "action", {5: [NAN, 0.0], 7: [0.0, NAN]}),
        {"code": "E_DATA_NONFINITE", "episode": 1, "frame": 1, "field": "action", "count": 2},
    ),
    "infinite extra": (
        lambda r: _set(r, DATA, "force", {9: [[float("inf"), 0.0], [0.0, 0.0]]}),
        {"code": "E_DATA_NONFINITE", "episode": 2, "frame": 0, "field": "force"},
    ),
    "doubled frame": (
        lambda r: _set(r, DATA, "frame_index", {6: 1}),
        {"code": "E_DATA_ORDER", "episode": 1, "frame": 2, "field": "frame_index"},
    ),
    "wrong index": (
        lambda r: _set(r, DATA, "index", {0: 7}),
        {"code": "E_DATA_ORDER", "episode": 0, "frame": 0, "field": "index"},
    ),
    "unknown task": (
        lambda r: _set(r, DATA, "task_index", dict.fromkeys(range(4), 9)),
        {"code": "E_DATA_TASK", "episode": 0, "frame": 0, "field": "task_index", "count": 4},
    ),
    "uneven time": (
        lambda r: _set(r, DATA, "timestamp", {12: 0.9}),
        {"code": "E_DATA_TIME_ORDER", "episode": 2, "frame": 4, "field": "timestamp"},
    ),
    "total": (
        lambda r: _edit(r, total_frames=16),
        {"code": "E_DATA_TOTALS", "field": "total_frames", "file": Path("meta/info.json")},
    ),
    "hole": (
        lambda r: _set(r, EPISODES, "dataset_from_index", {1: 5}),
        {"code": "E_DATA_LISTING", "episode": 1, "field": "dataset_from_index"},
    ),
    "cut table": (
        lambda r: pq.write_table(pq.read_table(r / DATA).slice(0, 14), r / DATA),
        {"code": "E_DATA_ROWS", "file": Path(DATA), "count": 1},
    ),
    "no table": (
        lambda r: (r / DATA).unlink(),
        {"code": "E_DATA_MISSING", "file": Path(DATA)},
    ),
    "no video": (
        lambda r: (r / VIDEO).unlink(),
        {"code": "E_DATA_VIDEO_MISSING", "file": Path(VIDEO), "field": TOP, "count": 3},
    ),
    "short video": (
        lambda r: lerobot_video.encode(r / VIDEO, _film(12), 10.0),
        {"code": "E_DATA_VIDEO_SHORT", "episode": 2, "frame": 3, "field": TOP},
    ),
    "long video": (
        lambda r: lerobot_video.encode(r / VIDEO, _film(17), 10.0),
        {"code": "E_DATA_VIDEO_LONG", "severity": "warning", "count": 2},
    ),
    "fast video": (
        lambda r: lerobot_video.encode(r / VIDEO, _film(15), 20.0),
        {"code": "E_DATA_RATE", "file": Path(VIDEO), "field": TOP},
    ),
    "large video": (
        lambda r: lerobot_video.encode(r / VIDEO, np.zeros((15, 32, 32, 3), np.uint8), 10.0),
        {"code": "E_DATA_IMAGE_SIZE", "file": Path(VIDEO)},
    ),
    "no film": (
        lambda r: (r / VIDEO).write_bytes(b"not a video"),
        {"code": "E_DATA_UNREADABLE", "file": Path(VIDEO)},
    ),
    "version": (
        lambda r: _edit(r, codebase_version="v9"),
        {"code": "E_DATA_VERSION", "file": Path("meta/info.json")},
    ),
    "json": (
        lambda r: (r / "meta/info.json").write_text("{"),
        {"code": "E_DATA_JSON", "file": Path("meta/info.json")},
    ),
    "outside": (
        lambda r: _edit(r, data_path="../x.parquet"),
        {"code": "E_DATA_PATH"},
    ),
    "template": (
        lambda r: _edit(r, data_path="{chunk_index.real}"),
        {"code": "E_DATA_TEMPLATE"},
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_fault_is_named_with_its_place(root: Path, name: str) -> None:
    damage, wanted = DAMAGE[name]
    damage(root)
    faults = _faults(root)
    assert [fault.code for fault in faults] == [wanted["code"]]
    assert {key: getattr(faults[0], key) for key in wanted} == wanted


def test_all_faults_of_a_set_are_named_together(root: Path) -> None:
    names = ("nan", "infinite extra", "doubled frame", "uneven time", "total", "short video")
    for name in names:
        DAMAGE[name][0](root)
    assert sorted(fault.code for fault in _faults(root)) == sorted(
        DAMAGE[name][1]["code"] for name in names
    )


def test_a_fault_in_many_episodes_is_named_in_each(root: Path) -> None:
    _set(root, DATA, "observation.state", dict.fromkeys(range(3, 10), [NAN] * 3))
    found = [(fault.episode, fault.frame, fault.count) for fault in _faults(root)]
    assert found == [(0, 3, 1), (1, 0, 5), (2, 0, 1)]


def test_a_check_that_refuses_raises_the_first_fault(root: Path) -> None:
    DAMAGE["nan"][0](root)
    with pytest.raises(DataError, match="E_DATA_NONFINITE"):
        check_lerobot(root, refuse)


def test_a_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, cameras={})
    with LeRobotWriter(tmp_path / "set", spec=spec) as writer:
        for seed in range(3):
            writer.add(str(seed), dataclasses.replace(_episode(seed), images={}))
    root = tmp_path / "copy"  # one file per episode
    shutil.copytree(tmp_path / "set", root, ignore=shutil.ignore_patterns("incoming"))
    (root / DATA).write_bytes(b"no table")
    _set(root, "data/chunk-000/file-002.parquet", "action", {3: [NAN, NAN]})
    found = [(fault.code, fault.episode, fault.frame) for fault in _faults(root)]
    assert found == [("E_DATA_UNREADABLE", None, None), ("E_DATA_NONFINITE", 2, 3)]


# Real sets


@pytest.mark.realdata
def test_the_real_v21_set_lacks_seven_videos_and_nothing_else() -> None:
    root = Path(os.environ.get("EMBODIED_REALDATA", "../shared/data")) / "g1_real_lerobot_v21"
    if not root.exists():
        pytest.skip(f"{root} is not there; name its parent folder in EMBODIED_REALDATA")
    faults = _faults(root, video_folder="videos_128x96")
    assert {fault.code for fault in faults} == {"E_DATA_VIDEO_MISSING"}
    assert [fault.episode for fault in faults] == [0, 3, 6, 9, 47, 58, 61]
