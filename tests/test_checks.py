"""Every class of fault is named where it is, and nothing is said about clean data."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embodied.structs import Annotation, Episode, Spec
from embodied_datasets import lerobot_video
from embodied_datasets.checking.against import compare
from embodied_datasets.checking.commands import as_text, main
from embodied_datasets.checking.page import render
from embodied_datasets.checking.run import Inspection, inspect_episodes, inspect_path
from embodied_datasets.faults import Fault
from embodied_datasets.formats import find_sets, open_episodes
from embodied_datasets.lerobot_writer import LeRobotWriter

ROOT = Path(__file__).parents[1]
REALDATA = Path(os.environ.get("EMBODIED_REALDATA", ROOT / ".." / "shared" / "data"))
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"
INFO = "meta/info.json"
STATS = "meta/stats.json"
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"
PARTS = {"joints": 3, "eef_quat": 4, "gripper": 1}
SPEC = Spec(8, 3, (-1.0,) * 3, (1.0,) * 3, 10.0, cameras={"front": (16, 24)}, state_parts=PARTS)
BAD = 2  # the episode that is corrupted


@dataclasses.dataclass
class Listed:
    """Episodes in memory."""

    episodes: list[Episode]
    spec: Spec
    fingerprint: str = "listed"

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]

    def __iter__(self) -> Iterator[Episode]:
        return iter(self.episodes)


def smooth(rng: np.random.Generator, length: int, dim: int) -> np.ndarray[Any, Any]:
    """(L, dim) motion of a few slow waves in [-1, 1], as a person's hand or an expert moves."""
    time = np.linspace(0, 1, length)[:, None, None]
    waves = np.sin(2 * np.pi * (rng.uniform(0.3, 2, (dim, 3)) * time + rng.random((dim, 3))))
    return np.asarray((waves * rng.uniform(0.1, 0.33, (dim, 3))).sum(2), np.float32)


def make_episode(seed: int, *, cameras: bool = True, **fields: Any) -> Episode:
    """Smooth joints, a unit quaternion, a gripper that closes at once, a picture that moves."""
    rng = np.random.default_rng(seed)
    length = int(rng.integers(24, 40))
    quaternion = smooth(rng, length, 4) + np.array([2, 0, 0, 0])
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    gripper = 0.04 * (np.arange(length) < length // 2)[:, None] + 1e-5 * rng.random((length, 1))
    state = np.hstack([smooth(rng, length, 3), quaternion, gripper]).astype(np.float32)
    solved = seed % 3 != 2
    reward = np.zeros(length, np.float32)
    reward[-1] = solved
    texture = rng.integers(40, 200, (16, 24 + length, 3), dtype=np.uint8)
    shown = np.stack([texture[:, t : t + 24] for t in range(length)])
    defaults: dict[str, Any] = {
        "instruction": ("open the drawer", "close the drawer")[seed % 2],
        "reward": reward,
        "success": solved,
        "terminated": solved,
        "truncated": not solved,
        "images": {"front": shown} if cameras else {},
        "info": {"task": f"task {seed % 2}"},
        "extras": {"timestamp": np.arange(length) / 10.0, "done": np.arange(length) == length - 1},
    }
    return Episode(state, smooth(rng, length, 3), **(defaults | fields))


def make_set(count: int = 6, **options: Any) -> Listed:
    return Listed([make_episode(seed, **options) for seed in range(count)], SPEC)


def faults_of(episodes: Listed) -> list[Fault]:
    found: list[Fault] = []
    inspect_episodes(episodes, found.append)
    return found


# One corruption per class of fault, over episodes in memory

Change = Callable[[Episode], Episode]
Edit = Callable[[Listed], Listed]


def one(change: Change) -> Edit:
    """Changes a single episode."""

    def edit(data: Listed) -> Listed:
        changed = [change(e) if i == BAD else e for i, e in enumerate(data.episodes)]
        return replace(data, episodes=changed)

    return edit


def every(change: Change) -> Edit:
    return lambda data: replace(data, episodes=[change(e) for e in data.episodes])


def put(field: str, where: Any, value: Any) -> Change:
    """Writes a value into an array of the episode."""

    def change(episode: Episode) -> Episode:
        values = np.array(getattr(episode, field))
        values[where] = value
        return replace(episode, **{field: values})

    return change


def scaled(field: str, factor: float, dims: Any = slice(None)) -> Change:
    def change(episode: Episode) -> Episode:
        values = np.array(getattr(episode, field))
        values[:, dims] *= factor
        return replace(episode, **{field: values})

    return change


def frames(edit: Callable[[Any], Any]) -> Change:
    return lambda e: replace(e, images={name: edit(np.array(x)) for name, x in e.images.items()})


def frozen(images: Any) -> Any:
    images[5:] = images[5]
    return images


def extra(name: str, values: Callable[[int], Any]) -> Change:
    return lambda e: replace(e, extras={**e.extras, name: values(len(e))})


def joint_space(late: int, factor: float = 1.0) -> Edit:
    """Actions that are joint targets: the state `late` steps ago (-1: the next one)."""

    def change(episode: Episode) -> Episode:
        joints = np.ascontiguousarray(episode.state[:, :3])
        action = np.concatenate([joints[:1]] * max(late, 0) + [joints])[: len(joints)]
        return replace(episode, state=joints * np.float32(factor), action=action)

    def edit(data: Listed) -> Listed:
        spec = replace(data.spec, state_dim=3, state_parts={})
        return Listed([change(e) for e in data.episodes], spec)

    return edit


def times(edit: Callable[[Any], Any]) -> Change:
    return extra("timestamp", lambda length: edit(np.arange(length) / 10.0))


def swapped(t: Any) -> Any:
    t[[4, 5]] = t[[5, 4]]
    return t


def late_from(t: Any) -> Any:
    t[8:] += 0.4
    return t


def twin(change: Change) -> Edit:
    """The last episode becomes another's copy, changed."""
    return lambda data: replace(data, episodes=[*data.episodes[:-1], change(data.episodes[BAD])])


def with_done_at(frame: int, name: str) -> Change:
    return extra(name, lambda length: np.arange(length) == frame)


def shifted_tail(episode: Episode) -> Episode:
    state = np.array(episode.state)
    state[12:, 1] += 40
    return replace(episode, state=state)


def at_the_bounds(episode: Episode) -> Episode:
    action = np.clip(20 * episode.action, -1, 1)
    action[::7] *= 0.5
    return replace(episode, action=action)


LAST = 5
ARRAY_FAULTS: dict[str, tuple[str, Edit, dict[str, Any]]] = {
    "nan": (
        "E_DATA_NONFINITE",
        one(put("action", (7, 1), np.nan)),
        {"frame": 7, "field": "action"},
    ),
    "inf": ("E_DATA_NONFINITE", one(put("state", (3, 0), np.inf)), {"frame": 3, "field": "state"}),
    "float64": (
        "E_DATA_DTYPE",
        one(lambda e: replace(e, action=e.action.astype(np.float64))),
        {"field": "action"},
    ),
    "object column": (
        "E_DATA_DTYPE",
        one(extra("note", lambda n: np.array(["x"] * n, object))),
        {"field": "extras.note"},
    ),
    "narrow action": (
        "E_DATA_SHAPE",
        one(lambda e: replace(e, action=e.action[:, :2])),
        {"field": "action"},
    ),
    "short reward": (
        "E_DATA_SHAPE",
        one(lambda e: replace(e, reward=e.reward[:-1])),  # type: ignore[index]
        {"field": "reward"},
    ),
    "empty": (
        "E_DATA_EMPTY_EPISODE",
        one(lambda e: Episode(e.state[:0], e.action[:0], e.instruction)),
        {},
    ),
    "one frame": (
        "E_DATA_SHORT_EPISODE",
        one(lambda e: Episode(e.state[:1], e.action[:1], e.instruction)),
        {},
    ),
    "time goes back": ("E_DATA_TIME_ORDER", one(times(swapped)), {"frame": 5}),
    "dropped frames": ("E_DATA_TIME_UNEVEN", one(times(late_from)), {"frame": 8}),
    "milliseconds": ("E_DATA_TIME_UNIT", one(times(lambda t: 1000 * t)), {}),
    "another rate": (
        "E_DATA_RATE",
        every(times(lambda t: t / 3)),
        {"episode": 0, "field": "extras.timestamp"},
    ),
    "no camera": (
        "E_DATA_CAMERA",
        one(lambda e: replace(e, images={})),
        {"field": "images.front"},
    ),
    "short video": (
        "E_DATA_VIDEO_SHORT",
        one(frames(lambda x: x[:-4])),
        {"field": "images.front"},
    ),
    "frozen camera": ("E_DATA_IMAGE_FROZEN", one(frames(frozen)), {"frame": 5}),
    "black camera": ("E_DATA_IMAGE_BLANK", one(frames(lambda x: x * 0)), {"frame": 0}),
    "small images": (
        "E_DATA_IMAGE_SIZE",
        one(frames(lambda x: x[:, ::2, ::2])),
        {"field": "images.front"},
    ),
    "float images": (
        "E_DATA_DTYPE",
        one(frames(lambda x: x / 255.0)),
        {"field": "images.front"},
    ),
    "millimetres": ("E_DATA_SCALE", one(scaled("state", 1000, slice(0, 3))), {"field": "state"}),
    "one dimension in millimetres": (
        "E_DATA_SCALE",
        one(scaled("state", 1000, 1)),
        {"field": "state"},
    ),
    "an action dimension of another unit": (
        "E_DATA_SCALE_DIMENSION",
        lambda d: replace(
            every(scaled("action", 1000, 1))(d),
            spec=replace(SPEC, action_low=(-1, -1000, -1), action_high=(1, 1000, 1)),
        ),
        {"episode": None, "field": "action"},
    ),
    "actions in another unit": (
        "E_DATA_BOUNDS",
        every(scaled("action", 1000)),
        {"episode": 0, "field": "action", "severity": "error"},
    ),
    "an episode in degrees": (
        "E_DATA_ANGLE_UNIT",
        one(scaled("action", 180 / np.pi)),
        {"field": "action"},
    ),
    "states in degrees": (
        "E_DATA_ANGLE_UNIT",
        joint_space(-1, 180 / np.pi),
        {"episode": 0, "field": "state"},
    ),
    "constant column": (
        "E_DATA_CONSTANT",
        every(put("action", (slice(None), 2), 0.25)),
        {"episode": None, "field": "action", "severity": "warning"},
    ),
    "duplicate": ("E_DATA_DUPLICATE", twin(lambda e: e), {"episode": LAST}),
    "near-duplicate": (
        "E_DATA_NEAR_DUPLICATE",
        twin(lambda e: replace(e, state=e.state + np.float32(1e-6))),
        {"episode": LAST},
    ),
    "empty instruction": (
        "E_DATA_INSTRUCTION",
        one(lambda e: replace(e, instruction="  ")),
        {"field": "instruction", "severity": "error"},
    ),
    "no instructions": (
        "E_DATA_INSTRUCTION",
        every(lambda e: replace(e, instruction="")),
        {"episode": None, "severity": "warning"},
    ),
    "one instruction for two tasks": (
        "E_DATA_INSTRUCTION_SHARED",
        every(lambda e: replace(e, instruction="do it")),
        {"episode": None},
    ),
    "spike": ("E_DATA_SPIKE", one(put("state", (9, 2), 30.0)), {"frame": 9, "field": "state"}),
    "teleport": ("E_DATA_JUMP", one(shifted_tail), {"frame": 12, "field": "state"}),
    "stuck state": (
        "E_DATA_STATE_STUCK",
        one(lambda e: replace(e, state=np.repeat(e.state[:1], len(e), 0))),
        {"field": "state"},
    ),
    "clipped": ("E_DATA_CLIPPED", every(at_the_bounds), {"episode": None, "field": "action"}),
    "copied": ("E_DATA_ACTION_COPY", joint_space(0), {"episode": 0, "field": "action"}),
    "late": ("E_DATA_ACTION_LAG", joint_space(2), {"episode": 0, "field": "action"}),
    "both ends": (
        "E_DATA_BOTH_ENDS",
        one(lambda e: replace(e, terminated=True, truncated=True)),
        {},
    ),
    "done early": ("E_DATA_DONE_EARLY", one(with_done_at(6, "done")), {"frame": 6}),
    "reward after the end": (
        "E_DATA_REWARD_AFTER_END",
        lambda d: one(with_done_at(6, "terminated"))(one(put("reward", -1, 1.0))(d)),
        {"field": "reward"},
    ),
    "success without reward": (
        "E_DATA_SUCCESS_REWARD",
        one(lambda e: replace(e, success=not e.success)),
        {"field": "success"},
    ),
    "quaternion": (
        "E_DATA_QUATERNION",
        one(put("state", (slice(4, 6), slice(3, 7)), 0.1)),
        {"frame": 4, "field": "eef_quat"},
    ),
    "gripper": (
        "E_DATA_GRIPPER",
        every(put("state", (slice(None), 7), 0.04)),
        {"episode": None, "field": "gripper"},
    ),
    "uneven columns": (
        "E_DATA_COLUMNS",
        one(lambda e: replace(e, reward=None)),
        {"field": "reward"},
    ),
    "annotation": (
        "E_DATA_ANNOTATION",
        one(lambda e: replace(e, annotations=(Annotation("motion", "up", step=999),))),
        {"frame": 999},
    ),
}


@pytest.mark.parametrize("name", ARRAY_FAULTS)
def test_a_corrupted_episode_is_named(name: str) -> None:
    code, edit, place = ARRAY_FAULTS[name]
    found = [fault for fault in faults_of(edit(make_set())) if fault.code == code]
    assert found, f"{code} was not found"
    wanted = {"episode": BAD} | place
    assert {key: getattr(found[0], key) for key in wanted} == wanted
    assert found[0].remedy


# One corruption per class of fault, over the files of a LeRobot folder


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checks") / "set"
    with LeRobotWriter(root, spec=SPEC) as writer:
        for seed in range(5):
            writer.add(f"{seed}", make_episode(seed, extras={}))
        writer.finalize()
    return root


@pytest.fixture
def damaged(master: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(master, tmp_path / "set"))


def rewrite(root: Path, name: str, edit: Callable[[dict[str, list[Any]]], None]) -> None:
    """Lets `edit` change the columns of a Parquet file, which keep their types."""
    table = pq.read_table(root / name)
    columns = table.to_pydict()
    edit(columns)
    arrays = {
        n: pa.array(values, table.schema.field(n).type if n in table.schema.names else None)
        for n, values in columns.items()
    }
    pq.write_table(pa.table(arrays), root / name)


def edit_json(root: Path, name: str, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((root / name).read_text())
    edit(content)
    (root / name).write_text(json.dumps(content))


def cell(name: str, column: str, row: int, value: Any) -> Callable[[Path], None]:
    return lambda root: rewrite(root, name, lambda c: c[column].__setitem__(row, value))


def key(name: str, field: str, value: Any) -> Callable[[Path], None]:
    return lambda root: edit_json(root, name, lambda content: content.update({field: value}))


def column(name: str, edit: Callable[[dict[str, list[Any]]], Any]) -> Callable[[Path], None]:
    return lambda root: rewrite(root, name, lambda columns: (edit(columns), None)[1])


def truncate(name: str, share: float = 0.5) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * share)])

    return edit


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def other_video(length: int, sides: tuple[int, int], rate: float) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 255, (length, *sides, 3), dtype=np.uint8)
        lerobot_video.encode(root / VIDEO, pixels, rate)

    return edit


def feature(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda root: edit_json(root, INFO, lambda i: i["features"][name].update(changes))


def copied(name: str, target: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, root / target)

    return edit


def many_equal_rows(root: Path) -> None:
    """Millions of numbers in some kilobytes."""
    table = pq.read_table(root / EPISODES)
    columns = {field.name: pa.nulls(10**6 + 1, field.type) for field in table.schema}
    pq.write_table(pa.table(columns), root / EPISODES, compression="zstd")


FILE_FAULTS: dict[str, tuple[str, Callable[[Path], None], dict[str, Any]]] = {
    "nan in the table": (
        "E_DATA_NONFINITE",
        cell(DATA, "action", 4, [0.0, float("nan"), 0.0]),
        {"file": Path(DATA), "episode": 0, "frame": 4, "field": "action"},
    ),
    "total_frames": ("E_DATA_TOTALS", key(INFO, "total_frames", 7), {"field": "total_frames"}),
    "total_episodes": ("E_DATA_TOTALS", key(INFO, "total_episodes", 9), {"file": Path(INFO)}),
    "total_tasks": ("E_DATA_TOTALS", key(INFO, "total_tasks", 9), {"field": "total_tasks"}),
    "split": ("E_DATA_TOTALS", key(INFO, "splits", {"train": "0:99"}), {"field": "splits.train"}),
    "rows": (
        "E_DATA_ROWS",
        column(DATA, lambda c: [values.pop() for values in c.values()]),
        {"file": Path(DATA)},
    ),
    "stale episode index": (
        "E_DATA_LISTING",
        cell(EPISODES, "episode_index", 3, 1),
        {"episode": 3, "field": "episode_index"},
    ),
    "stale start": (
        "E_DATA_LISTING",
        cell(EPISODES, "dataset_from_index", 2, 0),
        {"episode": 2, "field": "dataset_from_index"},
    ),
    "rows of another episode": (
        "E_DATA_ORDER",
        cell(DATA, "episode_index", 2, 4),
        {"episode": 0, "frame": 2, "field": "episode_index"},
    ),
    "doubled frame": (
        "E_DATA_ORDER",
        cell(DATA, "frame_index", 3, 2),
        {"episode": 0, "frame": 3, "field": "frame_index"},
    ),
    "unknown task": (
        "E_DATA_TASK",
        cell(DATA, "task_index", 1, 17),
        {"episode": 0, "frame": 1, "field": "task_index"},
    ),
    "gap in the tasks": (
        "E_DATA_TASK",
        cell(TASKS, "task_index", 1, 5),
        {"file": Path(TASKS)},
    ),
    "empty task": ("E_DATA_INSTRUCTION", cell(TASKS, "task", 1, ""), {"field": "instruction"}),
    "times in milliseconds": (
        "E_DATA_TIME_UNIT",
        column(DATA, lambda c: c.update(timestamp=[1000 * t for t in c["timestamp"]])),
        {"file": Path(DATA), "episode": 0, "field": "timestamp"},
    ),
    "time goes back in the table": (
        "E_DATA_TIME_ORDER",
        cell(DATA, "timestamp", 5, 0.0),
        {"episode": 0, "frame": 5},
    ),
    "a lie about fps": ("E_DATA_RATE", key(INFO, "fps", 30), {"episode": 0, "field": "timestamp"}),
    "a video of another rate": (
        "E_DATA_RATE",
        other_video(400, (16, 24), 30.0),
        {"file": Path(VIDEO)},
    ),
    "stats of other data": (
        "E_DATA_STATS",
        lambda root: edit_json(root, STATS, lambda s: s["action"]["mean"].__setitem__(0, 5.0)),
        {"file": Path(STATS), "field": "action"},
    ),
    "infinite stats": (
        "E_DATA_STATS",
        lambda root: edit_json(
            root, STATS, lambda s: s["action"]["std"].__setitem__(0, float("inf"))
        ),
        {"field": "action"},
    ),
    "stats without a key": (
        "E_DATA_STATS",
        lambda root: edit_json(root, STATS, lambda s: s.pop("observation.state")),
        {"field": "observation.state"},
    ),
    "no stats": ("E_DATA_STATS", remove(STATS), {"file": Path(STATS)}),
    "no data file": ("E_DATA_MISSING", remove(DATA), {"file": Path(DATA)}),
    "no video file": (
        "E_DATA_VIDEO_MISSING",
        remove(VIDEO),
        {"file": Path(VIDEO), "episode": 0},
    ),
    "no tasks": ("E_DATA_MISSING", remove(TASKS), {"file": Path(TASKS)}),
    "truncated table": ("E_DATA_UNREADABLE", truncate(DATA), {"file": Path(DATA)}),
    "truncated video": ("E_DATA_UNREADABLE", truncate(VIDEO, 0.2), {"file": Path(VIDEO)}),
    "short video file": (
        "E_DATA_VIDEO_SHORT",
        other_video(40, (16, 24), 10.0),
        {"file": Path(VIDEO), "episode": 1},
    ),
    "video of other sides": (
        "E_DATA_IMAGE_SIZE",
        other_video(200, (32, 32), 10.0),
        {"file": Path(VIDEO)},
    ),
    "leftover of a writer": (
        "E_DATA_LEFTOVER",
        copied(DATA, ".staging-unfinished/data.parquet"),
        {"file": Path(".staging-unfinished")},
    ),
    "file of no episode": (
        "E_DATA_FILE_EXTRA",
        copied(DATA, "data/chunk-000/file-007.parquet"),
        {"file": Path("data/chunk-000/file-007.parquet")},
    ),
    "missing column": (
        "E_DATA_COLUMNS",
        column(DATA, lambda c: c.pop("next.reward")),
        {"field": "next.reward"},
    ),
    "extra column": (
        "E_DATA_COLUMN_EXTRA",
        column(DATA, lambda c: c.update(mystery=c["timestamp"])),
        {"field": "mystery", "severity": "warning"},
    ),
    "a lie about the shape": (
        "E_DATA_SHAPE",
        feature("next.reward", shape=[5]),
        {"file": Path(DATA), "field": "next.reward"},
    ),
    "a lie about the bounds": (
        "E_DATA_INFO",
        feature("action", shape=[5]),
        {"file": Path(INFO), "field": "action_low"},
    ),
    "a lie about the type": (
        "E_DATA_DTYPE",
        feature("action", dtype="float64"),
        {"field": "action"},
    ),
    "done mid-episode": ("E_DATA_DONE_EARLY", cell(DATA, "next.done", 3, True), {"frame": 3}),
    "path out of the root": (
        "E_DATA_PATH",
        key(INFO, "data_path", "../../{chunk_index}{file_index}.parquet"),
        {"file": Path(INFO), "episode": 0},
    ),
    "bomb": ("E_DATA_BUDGET", many_equal_rows, {"file": Path(EPISODES)}),
    "broken header": ("E_DATA_JSON", truncate(INFO), {"file": Path(INFO)}),
    "nonsense feature": (
        "E_DATA_SHAPE",
        feature("next.reward", shape="many"),
        {"field": "next.reward"},
    ),
}


@pytest.mark.parametrize("name", FILE_FAULTS)
def test_a_corrupted_file_is_named(name: str, damaged: Path) -> None:
    code, edit, place = FILE_FAULTS[name]
    edit(damaged)
    inspection = inspect_path(damaged)
    found = inspection.faults
    assert {fault.code for fault in found} == {code}  # alone, and not under a second name
    assert any(all(getattr(f, k) == v for k, v in place.items()) for f in found), found
    assert len({(f.file, f.episode, f.field) for f in found}) == len(found)
    expected = {"error": (1, 2), "warning": (0, 1)}[found[0].severity]
    assert inspection.exit_code() in expected
    assert inspection.exit_code(strict=True) in (1, 2)


def test_one_damaged_file_does_not_hide_the_faults_of_the_others(damaged: Path) -> None:
    for name in ("nan in the table", "total_tasks", "stats without a key", "unknown task"):
        FILE_FAULTS[name][1](damaged)
    codes = {fault.code for fault in inspect_path(damaged).faults}
    assert {"E_DATA_NONFINITE", "E_DATA_TOTALS", "E_DATA_STATS", "E_DATA_TASK"} <= codes


def test_a_fault_in_a_file_of_another_format_is_told_once_and_the_rest_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    action = smooth(rng, 60, 2)
    action[25, 1] = np.nan
    arrays = {"observations": smooth(rng, 60, 3), "actions": action, "episode_ends": [20, 60]}
    np.savez(tmp_path / "set.npz", **arrays)
    inspection = inspect_path(tmp_path / "set.npz")
    (fault,) = [f for f in inspection.faults if f.severity == "error"]
    place = (fault.code, fault.file, fault.episode, fault.frame)
    assert place == ("E_DATA_NONFINITE", Path("set.npz"), 1, 5)
    assert (inspection.episodes, inspection.exit_code()) == (2, 1)


def test_what_is_no_data_set_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no data")
    inspection = inspect_path(tmp_path)
    assert inspection.exit_code() == 2
    assert [fault.code for fault in inspection.faults] == ["E_DATA_UNREADABLE"]
    assert inspect_path(tmp_path / "absent").exit_code() == 2


# Clean data


def joints_of_a_person(seed: int) -> Episode:
    """Long rests, an angle that wraps, and a dimension that hardly moves."""
    episode = make_episode(seed, cameras=False)
    rest = np.repeat(episode.state[:1], 60, axis=0)
    state = np.concatenate([rest, episode.state, np.repeat(episode.state[-1:], 40, axis=0)])
    state[:, 0] = (6 * state[:, 0] + np.pi) % (2 * np.pi) - np.pi
    state[:, 2] *= 1e-4
    action = np.concatenate([np.zeros((60, 3)), episode.action, np.zeros((40, 3))])
    done = np.arange(len(action)) == len(action) - 1
    reward = done * np.float32(episode.success)
    return replace(
        episode,
        state=state,
        action=action.astype(np.float32),
        reward=reward.astype(np.float32),
        extras={"done": done, "timestamp": np.arange(len(action)) / 10.0},
    )


def white_noise(seed: int) -> Episode:
    """What the steps of a random policy look like."""
    rng = np.random.default_rng(seed)
    episode = make_episode(seed)
    draw = rng.uniform(-1, 1, (len(episode), 3)).astype(np.float32)
    return replace(episode, action=draw)


def joint_targets(seed: int) -> Episode:
    """Actions that are the next joint positions."""
    episode = make_episode(seed, cameras=False)
    joints = episode.state[:, :3]
    return replace(episode, state=joints, action=np.concatenate([joints[1:], joints[-1:]]))


BLIND = replace(SPEC, cameras={})
CLEAN = {
    "smooth motion with a camera": Listed([make_episode(s) for s in range(8)], SPEC),
    "a person who rests": Listed([joints_of_a_person(s) for s in range(8)], BLIND),
    "random actions": Listed([white_noise(s) for s in range(8)], SPEC),
    "joint targets": Listed(
        [joint_targets(s) for s in range(8)], replace(BLIND, state_dim=3, state_parts={})
    ),
    "two episodes": Listed([make_episode(s) for s in range(2)], SPEC),
}


@pytest.mark.parametrize("name", CLEAN)
def test_clean_episodes_raise_no_alarm(name: str) -> None:
    assert faults_of(CLEAN[name]) == []


def test_a_clean_folder_raises_no_alarm(master: Path) -> None:
    inspection = inspect_path(master)
    assert list(inspection.faults) == []
    assert (inspection.episodes, inspection.exit_code(strict=True)) == (5, 0)


def test_recorded_experts_raise_no_alarm(tiny: Sequence[str]) -> None:
    folder = Path(tiny[-1].partition("=")[2])
    (info,) = folder.rglob("info.json")
    assert [f for f in inspect_path(info.parents[1]).faults if f.severity == "error"] == []


# Public data

SETS = find_sets(REALDATA, depth=3) if REALDATA.is_dir() else []
# What is truly wrong with public sets, as their READMEs say: folder -> codes.
BLACK, DOUBLED = {"E_DATA_IMAGE_BLANK"}, {"E_DATA_DUPLICATE"}
KNOWN: Mapping[str, set[str]] = {
    "bridge_rlds_sample": BLACK,  # its fourth camera was never connected
    "human_preferences": DOUBLED,  # segments were drawn with replacement
}
OPTIONS: Mapping[str, dict[str, Any]] = {
    "g1_real_lerobot_v21": {"video_folder": "videos_128x96", "skip_missing_videos": True},
    "umi_cup_in_the_wild": {"action": "next.observation.state"},  # it records no actions
}


@pytest.mark.realdata
@pytest.mark.parametrize("path", SETS, ids=lambda path: path.name)
def test_a_public_set_opens_has_its_known_faults_alone_and_is_shown(path: Path) -> None:
    options = OPTIONS.get(path.name, {})
    assert len(open_episodes(path, **options))
    inspection = inspect_path(path, **options)
    errors = [f for f in inspection.faults if f.severity == "error"]
    known = KNOWN.get(path.relative_to(REALDATA).parts[0], set())
    assert [str(fault) for fault in errors if fault.code not in known] == []
    assert 10_000 < len(render(inspection, shown=2)) < 6_000_000


@pytest.mark.realdata
def test_public_sets_are_there() -> None:
    if not REALDATA.is_dir():
        pytest.skip(f"no public data at {REALDATA}; name them with EMBODIED_REALDATA")
    assert SETS


# Two sets side by side


def inspected(episodes: Listed, name: str) -> Inspection:
    found: list[Fault] = []
    summaries = inspect_episodes(episodes, found.append)
    return Inspection(Path(name), None, len(summaries), 0, found, summaries, episodes.spec)


def test_episodes_of_the_other_set_are_named() -> None:
    train = inspected(make_set(6), "train")
    val = inspected(Listed([make_episode(s) for s in (7, 3)], SPEC), "val")
    assert [(f.code, f.episode) for f in compare(val, train)] == [("E_DATA_LEAK", 1)]


def test_sets_of_other_sizes_or_units_are_told_apart() -> None:
    train = inspected(make_set(4), "train")
    other = replace(SPEC, rate_hz=20.0)
    fast = Listed([make_episode(s) for s in range(10, 14)], other)
    assert "E_DATA_SPEC_DIFFERS" in {f.code for f in compare(inspected(fast, "b"), train)}
    large = every(scaled("action", 1000))(Listed([make_episode(s) for s in range(10, 14)], SPEC))
    assert "E_DATA_SCALE" in {f.code for f in compare(inspected(large, "b"), train)}


# The command line and the page of codes


def test_the_exit_code_and_the_json_say_the_same(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(damaged)]) == 0
    FILE_FAULTS["nan in the table"][1](damaged)
    capsys.readouterr()
    assert main(["check", "--json", str(damaged)]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["exit_code"] == 1
    (fault,) = [f for f in printed["faults"] if f["code"] == "E_DATA_NONFINITE"]
    place = {"file": DATA, "episode": 0, "frame": 4, "field": "action"}
    assert fault.items() >= place.items()


def test_warnings_fail_only_when_asked(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FILE_FAULTS["extra column"][1](damaged)
    assert main(["check", str(damaged)]) == 0
    assert main(["check", "--strict", str(damaged)]) == 1
    assert "warning: E_DATA_COLUMN_EXTRA" in capsys.readouterr().out


def test_many_faults_of_one_class_are_counted() -> None:
    fault = Fault("E_DATA_NONFINITE", "is NaN", "drop it")
    text = as_text(Inspection(Path("x"), "lerobot", 9, 9, [fault] * 8))
    assert text.count("is NaN") == 3
    assert "and 5 more E_DATA_NONFINITE" in text


def test_every_fault_that_the_checks_name_is_tested() -> None:
    package = ROOT / "datasets" / "embodied_datasets"
    sources = [*(package / "checking").glob("*.py"), *package.glob("lerobot_[cs]*.py")]
    named = {code for path in sources for code in re.findall(r'"(E_DATA_\w+)"', path.read_text())}
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    assert {code for code in named if code not in tests} == set()
    corrupted = {code for code, _, _ in [*ARRAY_FAULTS.values(), *FILE_FAULTS.values()]}
    assert len(corrupted) >= 25
