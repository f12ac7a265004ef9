"""What a recorder leaves behind: all that an episode holds, in LeRobot's layout, at any moment."""

import contextlib
import dataclasses
import json
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied.structs import Annotation, Episode, Spec
from embodied_datasets import lerobot_stats
from embodied_datasets.faults import DataError
from embodied_datasets.formats.lerobot import FORMAT
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.lerobot_writer import LeRobotWriter, record
from tests.plain_lerobot import assert_plain

SPEC = Spec(3, 2, (-1.0, -2.0), (1.0, 2.0), 10.0)
FILMED = dataclasses.replace(SPEC, cameras={"top": (16, 16), "side": (16, 32)})
EPISODES = "meta/episodes/chunk-000/file-{:03d}.parquet"
DATA = "data/chunk-000/file-{:03d}.parquet"


def _episode(seed: int, length: int = 5, spec: Spec = SPEC, **fields: Any) -> Episode:
    rng = np.random.default_rng(seed)
    images = {
        name: np.full((length, *shape, 3), 20 * seed % 200, np.uint8)
        for name, shape in spec.cameras.items()
    }
    return Episode(
        state=rng.standard_normal((length, spec.state_dim), np.float32),
        action=rng.standard_normal((length, spec.action_dim), np.float32),
        **({"instruction": f"do {seed % 3}", "images": images} | fields),
    )


# All that an episode holds

DTYPES = ("bool", "int8", "uint8", "int16", "int64", "uint64", "float16", "float32", "float64")


@st.composite
def _extras(draw: st.DrawFn) -> dict[str, tuple[str, tuple[int, ...]]]:
    names = st.sampled_from(["observation.effort", "contact", "joints", "camera_pose", "n"])
    shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
    return draw(st.dictionaries(names, st.tuples(st.sampled_from(DTYPES), shapes), max_size=3))


@st.composite
def _annotations(draw: st.DrawFn, length: int) -> tuple[Annotation, ...]:
    step = st.integers(0, length - 1)
    style = st.sampled_from(["motion", "subtask", "plan", "memory", "task_aug", "interjection"])
    role = st.sampled_from(["user", "assistant"])
    words = st.builds(Annotation, style, st.text(max_size=5), step, st.none(), role)
    mark = st.builds(
        Annotation, st.sampled_from(["trace", "vqa"]), st.just("[[1, 2]]"), step, st.just("top")
    )
    found = draw(st.lists(st.one_of(words, mark), max_size=5))
    lasting = ("motion", "subtask", "plan", "memory", "task_aug")
    return tuple(sorted(found, key=lambda each: (each.step, each.style not in lasting)))


def _numbers(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Any:
    return np.asarray(100 * rng.random(shape)).astype(dtype)


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_an_episode_comes_back_with_all_that_it_held(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kinds = data.draw(_extras())
    parts = data.draw(
        st.sampled_from([{}, {"state": 3}, {"state": 1, "environment_state": 2}, {"a": 2, "b": 1}])
    )
    spec = dataclasses.replace(SPEC, cameras={"top": (16, 16)}, state_parts=parts)
    wanted = {}
    for seed in range(data.draw(st.integers(1, 3))):
        length = data.draw(st.integers(1, 5))
        rng = np.random.default_rng(seed)
        extras = {n: _numbers(rng, kind, (length, *shape)) for n, (kind, shape) in kinds.items()}
        final: dict[str, Any] = {n: _numbers(rng, kind, s) for n, (kind, s) in kinds.items()}
        final |= {
            "state": rng.standard_normal(3, np.float32),
            "images.top": rng.integers(0, 256, (16, 16, 3), np.uint8),
        }
        keep = data.draw(st.sets(st.sampled_from(sorted(final))))
        wanted[str(seed)] = _episode(
            seed,
            length,
            spec,
            extras=extras,
            final={name: final[name] for name in keep},
            annotations=data.draw(_annotations(length)),
            terminated=data.draw(st.booleans()),
            truncated=data.draw(st.booleans()),
        )
    root = tmp_path_factory.mktemp("held") / "set"
    with LeRobotWriter(root, spec=spec) as writer:
        for key, episode in wanted.items():
            writer.add(key, episode)
        assert_plain(root, len(wanted))
        recording = LeRobotDataset(root)
        assert recording.spec == spec
        for got, want in zip(recording, wanted.values(), strict=True):
            _assert_equal(got, want)
        writer.finalize()
    assert_plain(root, len(wanted))
    final_set = LeRobotDataset(root)
    assert final_set.spec == spec
    for got, want in zip(final_set, wanted.values(), strict=True):
        _assert_equal(got, want)


def _assert_equal(got: Episode, want: Episode) -> None:
    np.testing.assert_array_equal(got.state, want.state)
    np.testing.assert_array_equal(got.action, want.action)
    assert got.annotations == want.annotations
    assert (got.terminated, got.truncated) == (want.terminated, want.truncated)
    for name in ("extras", "final"):
        ours, theirs = getattr(got, name), getattr(want, name)
        assert set(ours) == set(theirs)
        for key, values in theirs.items():
            assert ours[key].dtype == values.dtype, key
            assert ours[key].shape == values.shape, key
            np.testing.assert_array_equal(ours[key], values)


def test_annotations_lie_in_lerobots_columns(tmp_path: Path) -> None:
    annotations = (
        Annotation("motion", "move left", 0),
        Annotation("interjection", "no, the other one", 2, role="user"),
        Annotation("trace", "[[0.1, 0.2]]", 2, camera="top"),
        Annotation("motion", "close gripper", 3),
    )
    spec = dataclasses.replace(SPEC, cameras={"top": (16, 16)})
    with LeRobotWriter(tmp_path, spec=spec) as writer:
        writer.add("a", _episode(0, 4, spec, annotations=annotations))
    rows = pq.read_table(tmp_path / DATA.format(0))
    spoken = {"role": "assistant", "camera": None, "tool_calls": None}
    lasting = [
        {"content": "move left", "style": "motion", "timestamp": 0.0} | spoken,
        {"content": "close gripper", "style": "motion", "timestamp": np.float32(0.3)} | spoken,
    ]
    assert rows["language_persistent"].to_pylist() == [lasting] * 4
    said = {"content": "no, the other one", "style": "interjection"} | spoken | {"role": "user"}
    drawn = {"content": "[[0.1, 0.2]]", "style": "trace"} | spoken
    drawn |= {"camera": "observation.images.top"}
    assert rows["language_events"].to_pylist() == [[], [], [said, drawn], []]
    info = json.loads((tmp_path / "meta/info.json").read_text())
    feature = {"dtype": "language", "shape": [1], "names": None}
    assert info["features"]["language_persistent"] == feature
    assert info["features"]["language_events"] == feature


def test_rows_of_tool_calls_and_of_no_style_are_read(tmp_path: Path) -> None:
    with LeRobotWriter(tmp_path, spec=SPEC) as writer:
        writer.add("a", _episode(0, 2, annotations=(Annotation("interjection", "x", 1),)))
        writer.finalize()
    path = tmp_path / DATA.format(0)
    table = pq.read_table(path)
    rows = [
        [{"role": "assistant", "content": None, "style": None, "camera": None}],
        [{"role": "user", "content": "go", "style": None, "camera": None}],
    ]
    plain = pa.array(rows)
    pq.write_table(
        table.set_column(table.column_names.index("language_events"), "language_events", plain),
        path,
    )
    assert LeRobotDataset(tmp_path)[0].annotations == (Annotation("", "go", 1, role="user"),)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Annotation("motion", "x", 0, camera="top"), "'motion' must not name a camera"),
        (Annotation("trace", "[]", 0), r"'trace' needs one of the cameras \['top'\], got None"),
        (Annotation("trace", "[]", 0, camera="up"), "got 'up'"),
        (Annotation("motion", "x", 5), r"step 5, which must lie in \[0, 5\)"),
        (Annotation("song", "x"), "'song' is of no known style"),
    ],
)
def test_annotations_that_lerobot_cannot_hold_are_refused(
    tmp_path: Path, annotation: Annotation, message: str
) -> None:
    spec = dataclasses.replace(SPEC, cameras={"top": (16, 16)})
    with (
        LeRobotWriter(tmp_path, spec=spec) as writer,
        pytest.raises(DataError, match=message) as error,
    ):
        writer.add("a", _episode(0, 5, spec, annotations=(annotation,)))
    assert error.value.fault.code == "E_DATA_ANNOTATION"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"extras": {"timestamp": np.zeros(5)}}, "a name that LeRobot uses itself"),
        ({"extras": {"observation.images.x": np.zeros(5)}}, "a name that LeRobot uses itself"),
        ({"extras": {"a/b": np.zeros(5)}}, "cannot name a file"),
        ({"extras": {"x": np.zeros(4)}}, r"must have shape \(5,\)"),
        ({"extras": {"x": np.zeros((5, 0))}}, "one to five dimensions"),
        ({"extras": {"x": np.full(5, np.inf)}}, "is not finite at frame 0"),
        ({"extras": {"x": np.array(list("abcde"))}}, "must hold numbers"),
        ({"final": {"y": np.zeros(3)}}, "'y'.* is not among"),
        ({"final": {"state": np.zeros(2)}}, r"must have shape \(3,\)"),
    ],
)
def test_extras_that_cannot_be_recorded_are_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with LeRobotWriter(tmp_path, spec=SPEC) as writer:
        with pytest.raises(DataError, match=message):
            writer.add("a", _episode(0, **fields))
        assert not writer.keys


# LeRobot's layout after each episode


def test_the_layout_follows_each_episode(tmp_path: Path) -> None:
    with LeRobotWriter(tmp_path, spec=FILMED) as writer:
        for count in range(1, 4):
            writer.add(f"{9 - count}", _episode(count, 3 + count, FILMED))
            assert assert_plain(tmp_path, count)[-1] == f"do {count % 3}"
    assert [len(e) for e in LeRobotDataset(tmp_path)] == [6, 5, 4]  # ours go by key
    shared = (tmp_path / "videos").rglob("*.mp4")
    assert all(path.stat().st_nlink == 2 for path in shared)  # no second copy of the pixels


def test_episodes_recorded_by_other_processes_join_at_the_next_add(tmp_path: Path) -> None:
    with LeRobotWriter(tmp_path, spec=SPEC) as writer:
        record(writer.incoming, "b", _episode(1), spec=SPEC)
        assert not (tmp_path / "meta").exists()
        writer.add("a", _episode(2))
        assert sorted(assert_plain(tmp_path, 2)) == ["do 1", "do 2"]


def test_a_writer_that_is_not_live_shows_nothing_until_it_is_finalised(tmp_path: Path) -> None:
    with LeRobotWriter(tmp_path, spec=SPEC) as writer:
        writer.add("a", _episode(0))
    with FORMAT.create(tmp_path, SPEC) as other:
        other.add("b", _episode(1))
        assert not (tmp_path / "meta").exists()
        other.finalize()
    assert_plain(tmp_path, 2)


def test_a_replaced_episode_is_replaced_in_the_layout(tmp_path: Path) -> None:
    with LeRobotWriter(tmp_path, spec=FILMED) as writer:
        for key, seed in (("a", 0), ("b", 1), ("a", 2)):
            writer.add(key, _episode(seed, 4 + seed, FILMED))
        assert assert_plain(tmp_path, 2) == ["do 2", "do 1"]
    assert [len(episode) for episode in LeRobotDataset(tmp_path)] == [6, 5]


def test_the_first_annotation_gives_all_episodes_the_columns(tmp_path: Path) -> None:
    said = (Annotation("interjection", "stop", 1),)
    with LeRobotWriter(tmp_path, spec=SPEC) as writer:
        writer.add("a", _episode(0))
        assert "language_events" not in pq.read_schema(tmp_path / DATA.format(0)).names
        writer.add("b", _episode(1, annotations=said))
    with LeRobotWriter(tmp_path, spec=SPEC) as writer:  # takes up the view as it was left
        writer.add("c", _episode(2))
        assert_plain(tmp_path, 3)
    for number in range(3):
        assert "language_events" in pq.read_schema(tmp_path / DATA.format(number)).names


def test_the_layout_is_a_set_of_its_own_when_copied_without_the_rest(tmp_path: Path) -> None:
    with LeRobotWriter(tmp_path / "set", spec=SPEC) as writer:
        for seed in range(3):
            writer.add(str(seed), _episode(seed))
    (tmp_path / "set/incoming").rename(tmp_path / "elsewhere")
    assert [episode.instruction for episode in LeRobotDataset(tmp_path / "set")] == [
        "do 0",
        "do 1",
        "do 2",
    ]


def test_statistics_of_the_recording_are_those_of_its_frames(tmp_path: Path) -> None:
    episodes = [_episode(seed, 4 + seed) for seed in range(4)]
    with LeRobotWriter(tmp_path, spec=SPEC) as writer:
        for seed, episode in enumerate(episodes):
            writer.add(str(seed), episode)
    actions = np.concatenate([episode.action for episode in episodes]).astype(np.float64)
    stats = json.loads((tmp_path / "meta/stats.json").read_text())["action"]
    for name, value in (
        ("mean", actions.mean(0)),
        ("std", actions.std(0)),
        ("min", actions.min(0)),
    ):
        np.testing.assert_allclose(stats[name], value, err_msg=name)
    assert stats["count"] == [len(actions)]


def test_merged_statistics_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).standard_normal((30, 2))
    parts = [lerobot_stats.array_stats(part) for part in (rows[:7], rows[7:12], rows[12:])]
    merged = lerobot_stats.merge(lerobot_stats.merge(parts[0], parts[1]), parts[2])
    whole = lerobot_stats.array_stats(rows)
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(merged[name], whole[name], err_msg=name)


# Crashes


def _record_until_killed(root: Path, num_episodes: int, reports: Connection) -> None:
    with LeRobotWriter(root, spec=FILMED) as writer:
        for number in range(num_episodes):
            if f"{number:06d}" not in writer.keys:
                said = (Annotation("motion", f"{number}", 0),) * (number > 2)
                episode = _episode(number, 4, FILMED, annotations=said)
                writer.add(f"{number:06d}", dataclasses.replace(episode, instruction=f"{number}"))
                reports.send(number)


def _kill_while_recording(root: Path, num_episodes: int, wait: int, delay_s: float) -> list[int]:
    """Kills a recorder some time after it reported `wait` episodes; returns what it reported."""
    context = multiprocessing.get_context("fork")  # a fresh process would import for seconds
    reports, remote = context.Pipe(duplex=False)
    process = context.Process(target=_record_until_killed, args=(root, num_episodes, remote))
    process.start()
    remote.close()
    reported: list[int] = []
    with contextlib.suppress(EOFError):
        reported += [reports.recv() for _ in range(wait)]
        time.sleep(delay_s)
    process.kill()
    process.join()
    with contextlib.suppress(EOFError):
        while True:
            reported.append(reports.recv())
    return reported


def _drill(root: Path, kills: int, num_episodes: int) -> None:
    """Records under random kills; looks at what is there after each, before anything mends it."""
    rng = random.Random(0)
    reported: set[int] = set()
    for _ in range(kills):
        reported |= set(
            _kill_while_recording(root, num_episodes, rng.randint(0, 1), rng.random() / 9)
        )
        if reported:
            assert {str(number) for number in reported} <= set(assert_plain(root))
            ours = {episode.instruction: episode for episode in LeRobotDataset(root)}
            for number in reported:
                wanted = _episode(number, 4, FILMED)
                np.testing.assert_array_equal(ours[f"{number}"].state, wanted.state)
                assert set(ours[f"{number}"].images["top"].shape) == {4, 16, 3}
    reported |= set(_kill_while_recording(root, num_episodes, num_episodes, 0))
    assert sorted(map(int, assert_plain(root))) == list(range(num_episodes))
    with LeRobotWriter(root, spec=FILMED) as writer:
        writer.finalize()
    assert sorted(map(int, assert_plain(root))) == list(range(num_episodes))


def test_every_finished_episode_survives_a_kill_in_lerobots_layout(tmp_path: Path) -> None:
    _drill(tmp_path / "set", kills=4, num_episodes=6)


@pytest.mark.slow
def test_every_finished_episode_survives_twenty_kills(tmp_path: Path) -> None:
    _drill(tmp_path / "set", kills=20, num_episodes=25)


@pytest.mark.parametrize("stop", range(12))
def test_a_crash_between_any_two_renames_leaves_the_episodes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    calls = iter(range(10**6))
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if next(calls) == stop:
            raise KeyboardInterrupt
        return replace(self, target)

    with LeRobotWriter(tmp_path, spec=FILMED) as writer:
        writer.add("a", _episode(0, 4, FILMED))
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(Path, "replace", fail)
            writer.add("b", _episode(1, 5, FILMED))
    assert assert_plain(tmp_path)[0] == "do 0"
    with LeRobotWriter(tmp_path, spec=FILMED) as writer:
        writer.add("b", _episode(1, 5, FILMED))
    assert assert_plain(tmp_path, 2) == ["do 0", "do 1"]
    assert not list(tmp_path.rglob(".tmp-*"))
