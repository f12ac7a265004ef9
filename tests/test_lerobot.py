"""LeRobot v3.0 data sets: round trips, crashes while recording, and files that lie."""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied.structs import Episode, Spec
from embodied_datasets import lerobot_stats, lerobot_video
from embodied_datasets.faults import DataError
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.lerobot_compact import group_by_size
from embodied_datasets.lerobot_schema import expand
from embodied_datasets.lerobot_writer import LeRobotWriter, record

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
SPEC = Spec(3, 2, (-1.0, -2.0), (1.0, 2.0), 10.0)


def _episode(seed: int, length: int = 5, spec: Spec = SPEC, **fields: Any) -> Episode:
    rng = np.random.default_rng(seed)
    draw: Callable[..., Any] = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    defaults = {
        "instruction": f"do {seed % 3}",
        "reward": draw(length),
        "expert_action": draw(length, spec.action_dim),
        "success": seed % 2 == 0,
        "info": {"task": f"t{seed % 2}", "seed": seed},
    }
    state, action = draw(length, spec.state_dim), draw(length, spec.action_dim)
    return Episode(state, action, **(defaults | fields))


def _assert_equal(found: Episode, wanted: Episode) -> None:
    for name in ("state", "action", "expert_action", "reward"):
        got, want = getattr(found, name), getattr(wanted, name)
        assert (got is None) == (want is None), name
        if want is not None:
            assert got.dtype == want.dtype == np.float32
            np.testing.assert_array_equal(got, want)
    for name in ("instruction", "success", "terminated", "truncated", "info"):
        assert getattr(found, name) == getattr(wanted, name), name


def _write(root: Path, episodes: Mapping[str, Episode], spec: Spec = SPEC) -> Path:
    with LeRobotWriter(root, spec=spec) as writer:
        for key, episode in episodes.items():
            writer.add(key, episode)
        writer.finalize()
    return root


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    episodes = {f"{seed:03d}": _episode(seed, 4 + seed) for seed in range(4)}
    return _write(tmp_path_factory.mktemp("lerobot") / "set", episodes)


@pytest.fixture
def damaged(master: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(master, tmp_path / "set"))


# Round trips


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_episodes_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory,
    state_dim: int,
    action_dim: int,
    lengths: list[int],
    reward: bool,
    expert: bool,
    flag: bool,
) -> None:
    spec = Spec(state_dim, action_dim, (-1.0,) * action_dim, (1.0,) * action_dim, 12.5)
    drop = {} if reward else {"reward": None}
    drop |= {} if expert else {"expert_action": None}
    ends = {"terminated": flag, "truncated": not flag}
    episodes = {
        f"{i}": _episode(i, length, spec, **drop, **ends) for i, length in enumerate(lengths)
    }
    root = tmp_path_factory.mktemp("round") / "set"
    with LeRobotWriter(root, spec=spec) as writer:
        for key, episode in episodes.items():
            writer.add(key, episode)
        recording = list(LeRobotDataset(root))
        writer.finalize()
    dataset = LeRobotDataset(root)
    assert dataset.spec == spec
    for found in (recording, dataset):
        for got, want in zip(found, episodes.values(), strict=True):
            _assert_equal(got, want)


def test_the_order_of_writing_does_not_matter(master: Path, tmp_path: Path) -> None:
    episodes = {f"{seed:03d}": _episode(seed, 4 + seed) for seed in reversed(range(4))}
    other = LeRobotDataset(_write(tmp_path / "set", episodes))
    assert other.fingerprint == LeRobotDataset(master).fingerprint


def test_the_fingerprint_follows_the_content_and_the_choice(damaged: Path) -> None:
    before = LeRobotDataset(damaged).fingerprint
    assert LeRobotDataset(damaged, only_success=True).fingerprint != before
    table = pq.read_table(damaged / DATA)
    action = table["action"].combine_chunks()
    values = np.array(action.flatten())
    values[0] += 1
    changed = pa.FixedSizeListArray.from_arrays(pa.array(values), type=action.type)
    pq.write_table(
        table.set_column(table.column_names.index("action"), "action", changed), damaged / DATA
    )
    assert LeRobotDataset(damaged).fingerprint != before


def test_episodes_are_chosen_by_task_and_success(master: Path) -> None:
    assert [e.info["seed"] for e in LeRobotDataset(master, only_success=True)] == [0, 2]
    assert [e.info["seed"] for e in LeRobotDataset(master, tasks=["t1"])] == [1, 3]
    with pytest.raises(ValueError, match=r"no tasks \['t9'\]; it has \['t0', 't1'\]"):
        LeRobotDataset(master, tasks=["t9"])


def test_an_index_past_the_end_is_an_error_and_negative_ones_count_back(master: Path) -> None:
    dataset = LeRobotDataset(master)
    assert dataset[-1].info["seed"] == 3
    with pytest.raises(IndexError):
        dataset[4]


def test_bounds_of_foreign_sets_are_the_extremes_of_the_data(damaged: Path) -> None:
    _edit(damaged, lambda info: [info.pop(name) for name in ("action_low", "action_high")])
    dataset = LeRobotDataset(damaged)
    actions = np.concatenate([episode.action for episode in dataset])
    assert dataset.spec.action_low == tuple(actions.min(0).tolist())
    assert dataset.spec.action_high == tuple(actions.max(0).tolist())


def test_success_of_foreign_sets_is_read_from_the_frames(damaged: Path) -> None:
    table = pq.read_table(damaged / EPISODES)
    extra = ["key", "success", "terminated", "truncated", "info"]
    pq.write_table(table.drop_columns(extra), damaged / EPISODES)
    assert [episode.success for episode in LeRobotDataset(damaged)] == [True, False, True, False]


# The files


def test_statistics_are_those_of_the_data(master: Path) -> None:
    actions = np.concatenate([e.action for e in LeRobotDataset(master)]).astype(np.float64)
    stats = json.loads((master / "meta/stats.json").read_text())["action"]
    np.testing.assert_allclose(stats["mean"], actions.mean(0))
    np.testing.assert_allclose(stats["std"], actions.std(0))
    np.testing.assert_allclose(stats["q01"], np.quantile(actions, 0.01, axis=0))
    assert stats["count"] == [len(actions)]
    first = pq.read_table(master / EPISODES)["stats/action/max"][0].as_py()
    np.testing.assert_allclose(first, actions[:4].max(0))


def test_statistics_of_images_follow_from_their_histogram() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (7, 8, 6, 3), np.uint8)
    stats = lerobot_stats.image_stats(lerobot_stats.histogram(frames), len(frames))
    pixels = frames.reshape(-1, 3) / 255
    for name, value in (("mean", pixels.mean(0)), ("std", pixels.std(0)), ("min", pixels.min(0))):
        np.testing.assert_allclose(stats[name].ravel(), value)
    np.testing.assert_allclose(stats["q50"].ravel(), np.quantile(pixels, 0.5, 0), atol=2 / 255)


def test_each_episode_is_one_row_group(master: Path) -> None:
    metadata = pq.read_metadata(master / DATA)
    assert [metadata.row_group(i).num_rows for i in range(4)] == [4, 5, 6, 7]


def test_files_are_split_before_they_grow_too_large(tmp_path: Path) -> None:
    paths = [tmp_path / str(i) for i in range(4)]
    for path, size in zip(paths, (3, 3, 9, 1), strict=True):
        path.write_bytes(bytes(size * 2**18))
    assert group_by_size(paths, 2) == [[0, 1], [2], [3]]


# Recording


def test_keys_are_those_of_the_finished_episodes(tmp_path: Path) -> None:
    for key in ("b", "a"):  # a second writer takes up what the first has left
        with LeRobotWriter(tmp_path, spec=SPEC) as writer:
            writer.add(key, _episode(0))
    assert writer.keys == {"a", "b"}
    with LeRobotWriter(tmp_path, spec=SPEC) as writer:
        writer.finalize()
        assert writer.keys == {"a", "b"}
        with pytest.raises(ValueError, match="is finalised; record 'c' into another folder"):
            writer.add("c", _episode(0))


def test_two_writers_are_kept_apart(tmp_path: Path) -> None:
    with (
        LeRobotWriter(tmp_path, spec=SPEC),
        pytest.raises(BlockingIOError, match=rf"another writer .* \(process {os.getpid()} on"),
    ):
        LeRobotWriter(tmp_path, spec=SPEC)
    LeRobotWriter(tmp_path, spec=SPEC).close()


def test_a_folder_recorded_with_another_spec_is_refused(tmp_path: Path) -> None:
    LeRobotWriter(tmp_path, spec=SPEC).close()
    other = Spec(4, 2, (-1.0, -2.0), (1.0, 2.0), 10.0)
    with pytest.raises(ValueError, match="state_dim: 3 in the folder, 4 now"):
        LeRobotWriter(tmp_path, spec=other)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match="holds videos without meta"):
        LeRobotWriter(tmp_path, spec=SPEC)


@pytest.mark.parametrize(
    ("key", "fields", "message"),
    [
        ("../evil", {}, "cannot name a file"),
        ("a", {"reward": np.zeros(4, np.float32)}, r"reward .* must have shape \(5,\)"),
        ("a", {"expert_action": np.full((5, 2), np.nan)}, "expert_action .* at frame 0"),
        ("a", {"info": {"x": np.zeros(2)}}, "must be JSON-able"),
        ("a", {"info": {"x": float("nan")}}, "must be JSON-able"),
        ("a", {"images": {"cam": np.zeros((5, 4, 4, 3), np.uint8)}}, "the spec's cameras"),
    ],
)
def test_episodes_that_cannot_be_recorded_are_refused(
    tmp_path: Path, key: str, fields: dict[str, Any], message: str
) -> None:
    with LeRobotWriter(tmp_path, spec=SPEC) as writer:
        with pytest.raises(ValueError, match=message):
            writer.add(key, _episode(0, **fields))
        assert not writer.keys


def test_episodes_with_different_columns_are_named(tmp_path: Path) -> None:
    with LeRobotWriter(tmp_path, spec=SPEC) as writer:
        writer.add("a", _episode(0))
        with pytest.raises(DataError, match=r"'b' and 'a' differ .*next\.reward"):
            writer.add("b", _episode(1, reward=None))
        assert writer.keys == {"a"}
        record(writer.incoming, "b", _episode(1, reward=None), spec=SPEC)  # by another process
        for use in (writer.finalize, lambda: LeRobotDataset(tmp_path)):
            with pytest.raises(DataError, match=r"b\.parquet.*next\.reward"):
                use()


def _record_until_killed(root: Path, reports: Connection) -> None:
    with LeRobotWriter(root, spec=SPEC) as writer:
        for number in itertools.count():
            if f"{number:06d}" not in writer.keys:
                state = np.full((50, 3), number, np.float32)
                writer.add(f"{number:06d}", Episode(state, state[:, :2], f"do {number}"))
                reports.send(number)


def _kill_while_recording(root: Path, num_episodes: int, delay_s: float) -> list[int]:
    """Kills a recorder some time after it reported some episodes; returns what it reported."""
    context = multiprocessing.get_context("fork")  # a fresh process would import for seconds
    reports, remote = context.Pipe(duplex=False)
    process = context.Process(target=_record_until_killed, args=(root, remote))
    process.start()
    remote.close()
    reported = [reports.recv() for _ in range(num_episodes)]
    time.sleep(delay_s)
    process.kill()
    process.join()
    with contextlib.suppress(EOFError):
        while True:
            reported.append(reports.recv())
    return reported


@pytest.mark.slow  # whole processes
def test_a_killed_recorder_loses_no_finished_episode(tmp_path: Path) -> None:
    root = tmp_path / "set"
    reported: list[int] = []
    rng = random.Random(0)
    for _ in range(5):
        reported += _kill_while_recording(root, rng.randint(1, 4), rng.random() / 30)
        found = {int(e.instruction.removeprefix("do ")): e for e in LeRobotDataset(root)}
        assert set(reported) <= set(found)
        assert all((e.state == i).all() and len(e) == 50 for i, e in found.items())
    assert len(set(reported)) == len(reported)  # each run went on where the last one was killed
    with LeRobotWriter(root, spec=SPEC) as writer:
        writer.finalize()
    assert len(LeRobotDataset(root)) == len(found)


@pytest.mark.slow  # whole processes
def test_an_interrupted_finalize_leaves_a_readable_set_and_is_completed(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = LeRobotDataset(master)
    rename, replace = Path.rename, Path.replace
    for stop in range(7):  # four files, the folder of them all, and what the root shows
        root = tmp_path / str(stop)
        with LeRobotWriter(root, spec=SPEC) as writer:
            for seed in range(4):
                writer.add(f"{seed:03d}", _episode(seed, 4 + seed))
            calls = itertools.count()

            def fail(move: Callable[..., Any], *args: Any) -> Any:
                if next(calls) == stop:  # noqa: B023
                    raise KeyboardInterrupt
                return move(*args)

            with monkeypatch.context() as patch:
                patch.setattr(Path, "rename", lambda *args: fail(rename, *args))
                patch.setattr(Path, "replace", lambda *args: fail(replace, *args))
                with pytest.raises(KeyboardInterrupt) if stop < 6 else pytest.MonkeyPatch.context():
                    writer.finalize()
        for got, want in zip(LeRobotDataset(root), wanted, strict=True):
            _assert_equal(got, want)
        with LeRobotWriter(root, spec=SPEC) as writer:
            writer.finalize()
        assert LeRobotDataset(root).fingerprint == wanted.fingerprint
        assert sorted(path.name for path in root.iterdir()) == [".lock", "data", "meta"]


# Files that lie


def _edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebase_version": "v4.0"}, "codebase_version 'v4.0', expected one of .*'v3.0'"),
        ({"codebase_version": None}, "codebase_version None"),
        ({"fps": 0}, "fps must be a positive number"),
        ({"fps": "ten"}, "fps must be a positive number"),
        ({"fps": 5}, "E_DATA_RATE"),
        ({"features": []}, "features must be an object"),
        ({"data_path": "../../secret.parquet"}, "leads out of the data set's folder"),
        ({"data_path": "/etc/passwd"}, "leads out of the data set's folder"),
        ({"data_path": "data/link/x.parquet"}, "leads out of the data set's folder"),
        ({"data_path": "{chunk_index.__class__}"}, "has the field"),
        ({"data_path": "{chunk_index[0]}"}, "has the field"),
        ({"data_path": "{chunk_index!r}"}, "has the field"),
        ({"data_path": "{secret}"}, "has the field"),
        ({"data_path": "{}"}, "has the field"),
        ({"data_path": "{chunk_index:>999999999}"}, "has the field"),
        ({"data_path": "{chunk_index:{file_index}}"}, "has the field"),
        ({"data_path": "data/{chunk_index"}, "is malformed"),
        ({"data_path": "data/\0"}, "leads out of the data set's folder"),
        ({"data_path": ["data"]}, "data_path must be a path template"),
        ({"data_path": "data/none.parquet"}, "is missing"),
        ({"total_episodes": 5}, "total_episodes = 5, but meta/episodes lists 4"),
        ({"total_frames": 21}, "total_frames = 21, but meta/episodes lists 22"),
        ({"state_parts": ["a"]}, "state_parts must map names to sizes"),
        ({"state_parts": {"a": 2}}, "do not add up to the state's size 3"),
        ({"recording": True, "total_episodes": 9}, "total_episodes = 9, but .* lists 4"),
        ({"action_low": [0.0]}, "action_low must hold 2 finite numbers"),
        ({"action_high": [0.0, None]}, "action_high must hold 2 finite numbers"),
    ],
)
def test_a_hostile_info_json_is_refused(
    damaged: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    shutil.copy(damaged / DATA, tmp_path / "x.parquet")
    (damaged / "data/link").symlink_to(tmp_path)
    _edit(damaged, lambda info: info.update(changes))
    with pytest.raises(ValueError, match=message):
        LeRobotDataset(damaged)


@pytest.mark.parametrize(
    ("name", "feature", "message"),
    [
        (
            "observation.state",
            {"dtype": "float32", "shape": [4]},
            r"field observation.state: holds 66 values of type FLOAT in 22 rows",
        ),
        ("action", {"dtype": "float32", "shape": [2, 1]}, "shape of one number"),
        ("action", {"dtype": "float32", "shape": [10**9]}, "shape of one number"),
        ("action", {"dtype": "float32", "shape": [-1]}, "shape of one number"),
        ("action", "float32", "shape of one number"),
        ("extra", {"dtype": "float32", "shape": [2] * 6}, "of up to five"),
        ("extra", {"dtype": "float32", "shape": [2**11, 2**11]}, "in .1, 1048576."),
        ("extra", {"dtype": "float32", "shape": [1], "info": [1]}, "one column 'extra'"),
        ("observation.state", None, "features lack 'observation.state'"),
        ("observation.images.x", {"dtype": "image", "shape": [4, 4, 3]}, "must have one column"),
        ("observation.images.x", {"dtype": "video", "shape": "big"}, "only videos"),
        ("observation.images.x", {"dtype": "video", "shape": [4, 4, 3]}, "must be a path template"),
    ],
)
def test_features_that_do_not_fit_are_refused(
    damaged: Path, name: str, feature: Any, message: str
) -> None:
    def change(info: dict[str, Any]) -> None:
        info["features"][name] = feature
        if feature is None:
            del info["features"][name]

    _edit(damaged, change)
    with pytest.raises(ValueError, match=message):
        LeRobotDataset(damaged)


@pytest.mark.parametrize("shape", [[4, 4, 1], [3, 4, 4]])
def test_a_camera_without_colours_is_left_out_and_named(
    damaged: Path, shape: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    depth = {"dtype": "video", "shape": shape, "names": []}
    _edit(damaged, lambda info: info["features"].update(depth=depth))
    assert LeRobotDataset(damaged).spec.cameras == {}
    assert "camera depth" in caplog.text


def _set_value(root: Path, file: str, column: str, row: int, value: Any) -> None:
    table = pq.read_table(root / file)
    values = table[column].to_pylist()
    values[row] = value
    index = table.column_names.index(column)
    field = table.schema.field(column)
    pq.write_table(table.set_column(index, field, pa.array(values, field.type)), root / file)


def _drop_last_row(root: Path, file: str) -> None:
    table = pq.read_table(root / file)
    pq.write_table(table.slice(0, len(table) - 1), root / file)


def _truncate(root: Path, file: str) -> None:
    (root / file).write_bytes((root / file).read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "meta/info.json").unlink(), "no meta/info.json"),
        (lambda r: (r / "meta/info.json").write_text("{"), "is not valid JSON"),
        (lambda r: (r / "meta/info.json").write_text("[]"), "must hold a JSON object"),
        (lambda r: (r / "meta/tasks.parquet").unlink(), "tasks.parquet: is missing"),
        (lambda r: (r / DATA).unlink(), r"file-000\.parquet: is missing"),
        (lambda r: _truncate(r, DATA), "is damaged or was never finished"),
        (lambda r: _drop_last_row(r, DATA), "has 21 frames, but its episodes have 22"),
        (lambda r: _drop_last_row(r, EPISODES), "total_episodes = 4, but .* lists 3"),
        (
            lambda r: _drop_last_row(r, "meta/tasks.parquet"),
            "task_index is not in the list",
        ),
        (lambda r: _set_value(r, EPISODES, "length", 1, 6), "episode 1.*: .* without a hole"),
        (lambda r: _set_value(r, EPISODES, "length", 1, -5), "episode 1.*: .* without a hole"),
        (lambda r: _set_value(r, EPISODES, "episode_index", 2, 7), "episode_index is 7"),
        (lambda r: _set_value(r, EPISODES, "dataset_from_index", 2, 8), "dataset_from_index is 8"),
        (lambda r: _set_value(r, EPISODES, "length", 1, None), "is missing or has gaps"),
        (
            lambda r: _set_value(r, EPISODES, "data/file_index", 3, 1),
            "22 frames, but its episodes have 15",
        ),
        (
            lambda r: _set_value(r, DATA, "index", 5, 4),
            "episode 1, frame 1, field index",
        ),
        (
            lambda r: _set_value(r, DATA, "frame_index", 9, 9),
            "episode 2, frame 0, field frame",
        ),
        (
            lambda r: _set_value(r, DATA, "episode_index", 21, 2),
            "episode 3, frame 6, field epis",
        ),
        (lambda r: _set_value(r, DATA, "timestamp", 6, 0.5), "episode 1, frame 3, field timestamp"),
        (
            lambda r: _set_value(r, DATA, "task_index", 6, -1),
            "episode 1, frame 2, field task",
        ),
        (
            lambda r: _set_value(r, DATA, "action", 10, [0.0, float("nan")]),
            "episode 2, frame 1, field action: is not finite",
        ),
        (
            lambda r: _set_value(r, DATA, "observation.state", 0, [0.0, float("inf"), 0.0]),
            "frame 0, field observation.state: is not finite",
        ),
        (lambda r: _set_value(r, DATA, "action", 10, None), "field action"),
    ],
)
def test_damage_is_found_and_named(
    damaged: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(damaged)
    with pytest.raises(ValueError, match=message):
        LeRobotDataset(damaged)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    length = 2_000_000
    root = _write(tmp_path / "set", {"a": _episode(0, 4)})
    zeros = pa.array(np.zeros(length, np.int64))
    table = pq.read_table(root / DATA)
    names = table.column_names
    columns = {n: pa.nulls(length, t) for n, t in zip(names, table.schema.types, strict=True)}
    columns |= {name: zeros for name in ("frame_index", "index", "episode_index", "task_index")}
    pq.write_table(pa.table(columns), root / DATA, compression="zstd")
    assert (root / DATA).stat().st_size < 100_000
    for column in ("length", "dataset_to_index"):
        _set_value(root, EPISODES, column, 0, length)
    _edit(root, lambda info: info.update(total_frames=length))
    with pytest.raises(ValueError, match=r"takes \d+ bytes once decoded, more than max_bytes"):
        LeRobotDataset(root, max_bytes=10_000_000)


def test_plain_templates_are_filled() -> None:
    assert expand("a-{x:03d}/{y}", {"x", "y"}, x=7, y="b") == "a-007/b"


# Videos

FILMED = Spec(1, 1, (-1.0,), (1.0,), 20.0, {"top": (32, 48)})


def _film(seed: int, length: int) -> Episode:
    """Every frame has its own brightness, over a smooth pattern."""
    y, x = np.mgrid[0:32, 0:48]
    pattern = np.stack([x, y, 40 - y], -1)
    levels = (17 * seed + 5 * np.arange(length)) % 180
    frames = (pattern + levels[:, None, None, None]).astype(np.uint8)
    return _episode(seed, length, FILMED, images={"top": frames})


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films") / "set"
    return _write(root, {str(seed): _film(seed, 7 + seed) for seed in range(4)}, FILMED)


def test_every_frame_comes_back_at_its_place(tmp_path: Path) -> None:
    wanted = [_film(seed, 7 + seed) for seed in range(3)]
    with LeRobotWriter(tmp_path, spec=FILMED) as writer:
        for seed, episode in enumerate(wanted):
            writer.add(str(seed), episode)
        recording = list(LeRobotDataset(tmp_path))
        for got, want in zip(recording, wanted, strict=True):
            _assert_same_frames(got.images["top"], want.images["top"])
        writer.finalize()
    assert len(list((tmp_path / "videos").rglob("*.mp4"))) == 1
    dataset = LeRobotDataset(tmp_path)
    assert dataset.spec == FILMED
    for index in (2, 0, 1):  # in any order
        _assert_same_frames(dataset[index].images["top"], wanted[index].images["top"])


def _assert_same_frames(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == np.uint8
    error = np.abs(found.astype(int) - wanted.astype(int)).mean((1, 2, 3))
    assert error.max() < 2.5  # the next frame differs by 5


def test_cameras_can_be_left_out(films: Path) -> None:
    dataset = LeRobotDataset(films, cameras=[])
    assert dataset.spec.cameras == {}
    assert dict(dataset[0].images) == {}
    with pytest.raises(ValueError, match=r"no cameras \['side'\]; it has \['top'\]"):
        LeRobotDataset(films, cameras=["side"])


def test_a_video_shorter_than_its_table_is_named(films: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(films, tmp_path / "set"))
    video = next((root / "videos").rglob("*.mp4"))
    lerobot_video.encode(video, _film(0, 10).images["top"], 20.0)
    dataset = LeRobotDataset(root)
    assert dataset[0].images["top"].shape == (7, 32, 48, 3)
    with pytest.raises(ValueError, match=r"has no frame at 0\.5000 s \(frame 3 of 8"):
        dataset[1].images["top"]


def test_a_video_of_another_size_is_refused_before_it_is_decoded(
    films: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(films, tmp_path / "set"))
    _edit(root, lambda i: i["features"]["observation.images.top"].update(shape=[64, 96, 3]))
    with pytest.raises(ValueError, match=r"frames of 32 x 48 pixels, info.json says 64 x 96"):
        LeRobotDataset(root)[0].images["top"]
    with pytest.raises(ValueError, match="more than max_bytes"):
        LeRobotDataset(root, max_bytes=20_000)[0].images["top"]


def test_odd_sides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even sides, got 5 x 4"):
        lerobot_video.encode(tmp_path / "x.mp4", np.zeros((2, 5, 4, 3), np.uint8), 10.0)


def test_a_missing_video_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        lerobot_video.encode(tmp_path / "x.mp4", np.zeros((2, 4, 4, 3), np.uint8), 10.0)


# A set written by LeRobot itself


def _sample() -> Path:
    root = Path(os.environ.get("EMBODIED_REALDATA", "../shared/data")) / "lerobot_v3_sample"
    if not root.exists():
        pytest.skip(f"{root} is not there; name its parent folder in EMBODIED_REALDATA")
    return root


@pytest.mark.realdata
def test_a_set_written_by_lerobot_is_read() -> None:
    dataset = LeRobotDataset(_sample())
    assert dataset.spec.rate_hz == 20
    assert dataset.spec.cameras == {"cam": (96, 96)}
    assert [len(episode) for episode in dataset] == [40, 40, 40]
    episode = dataset[2]
    assert episode.instruction == "push it"
    assert (episode.state.shape, episode.action.shape) == ((40, 4), (40, 2))
    brightness = episode.images["cam"].mean((1, 2, 3))
    assert (np.diff(brightness) > 2).all()  # the sample's frames grow brighter by 5


@pytest.mark.realdata
def test_our_files_have_the_columns_of_lerobots(tmp_path: Path) -> None:
    sample = _sample()
    dataset = LeRobotDataset(sample)
    episodes = {str(i): episode for i, episode in enumerate(dataset)}
    ours = _write(tmp_path / "set", episodes, dataset.spec)
    extra = {"next.done", "next.success", "key", "success", "terminated", "truncated", "info"}
    extra |= {"final"}
    for file in (DATA, EPISODES, "meta/tasks.parquet"):
        theirs = pq.read_schema(sample / file)
        fields = [
            field
            for field in pq.read_schema(ours / file)
            if not {field.name, *field.name.split("/")} & extra
        ]
        assert [(f.name, f.type) for f in fields if not f.name.startswith("stats/")] == [
            (f.name, f.type) for f in theirs if not f.name.startswith("stats/")
        ]
        assert {(f.name, f.type) for f in fields} == {(f.name, f.type) for f in theirs}
    for file in ("meta/info.json", "meta/stats.json"):
        their_json, our_json = (json.loads((r / file).read_text()) for r in (sample, ours))
        assert their_json.keys() <= our_json.keys()
    for name in ("observation.state", "action"):
        for stat in ("min", "max", "mean", "std", "count"):
            np.testing.assert_allclose(our_json[name][stat], their_json[name][stat], rtol=1e-6)
    assert pq.read_metadata(ours / DATA).num_row_groups == 3
