"""LeRobot sets as others write them: v1, v2.0, v2.1, images in rows, several states, language."""

import io
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embodied.structs import Episode
from embodied.testing import check_episodes
from embodied_datasets import lerobot_video
from embodied_datasets.faults import DataError, Fault
from embodied_datasets.formats import open_episodes
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.lerobot_check import check_lerobot
from embodied_datasets.lerobot_columns import feature, to_column

LENGTHS = (4, 6, 5)
FPS = 10.0
CAMERA = "observation.images.top"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


def _frames(number: int, length: int) -> Any:
    """(L, 16, 32, 3): every frame has its own brightness."""
    levels = 30 * number + 10 * np.arange(length)
    return np.broadcast_to(levels[:, None, None, None], (length, 16, 32, 3)).astype(np.uint8)


def _columns(number: int, first: int, **extra: Any) -> dict[str, Any]:
    length = LENGTHS[number]
    rng = np.random.default_rng(number)
    steps = np.arange(length)
    return {
        "observation.state": rng.standard_normal((length, 3), np.float32),
        "action": rng.standard_normal((length, 2), np.float32),
        "timestamp": (steps / FPS).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(length, number),
        "index": first + steps,
        "task_index": np.full(length, number % 2),
    } | {name: make(number, length) for name, make in extra.items()}


def _feature(values: Any) -> dict[str, Any]:
    return feature(values.dtype.name, values.shape[1:] or (1,))


def _table(columns: Mapping[str, Any]) -> Any:
    """Arrays as columns of their features; Arrow arrays as they are."""
    return pa.table(
        {
            name: to_column(values, _feature(values)) if isinstance(values, np.ndarray) else values
            for name, values in columns.items()
        }
    )


def _features(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {n: _feature(v) for n, v in columns.items() if isinstance(v, np.ndarray)}


def _write_v2(root: Path, version: str = "v2.1", *, video: bool = True, **extra: Any) -> Path:
    """Writes three episodes; `extra` are functions (number, length) -> column."""
    (root / "meta").mkdir(parents=True)
    first, features = 0, {}
    for number, length in enumerate(LENGTHS):
        columns = _columns(number, first, **extra)
        features = _features(columns)
        path = root / f"data/chunk-000/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_table(columns), path)
        if video:
            film = root / f"videos/chunk-000/{CAMERA}/episode_{number:06d}.mp4"
            film.parent.mkdir(parents=True, exist_ok=True)
            lerobot_video.encode(film, _frames(number, length), FPS)
        first += length
    if video:
        features[CAMERA] = feature("video", (16, 32, 3), ["height", "width", "channels"])
    info = {
        "codebase_version": version,
        "fps": FPS,
        "features": features,
        "total_episodes": 3,
        "total_frames": sum(LENGTHS),
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": VIDEO_PATH,
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    episodes = [
        {"episode_index": i, "tasks": [f"do {i % 2}"], "length": n} for i, n in enumerate(LENGTHS)
    ]
    _write_lines(root / "meta/episodes.jsonl", episodes)
    _write_lines(root / "meta/tasks.jsonl", [{"task_index": i, "task": f"do {i}"} for i in (0, 1)])
    return root


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _stills(number: int, length: int) -> Any:
    rows = [{"bytes": _png(frame), "path": None} for frame in _frames(number, length)]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def _write_v1(root: Path, *, film: Any = _stills, shards: int = 1, action: bool = True) -> Path:
    """Writes two episodes as Hugging Face's library saves them."""
    (root / "train").mkdir(parents=True)
    tables = []
    for number in range(2):
        columns = _columns(number, number * LENGTHS[0])
        del columns["task_index"]
        if not action:
            del columns["action"]
        tables.append(_table(columns | {"observation.image": film(number, LENGTHS[number])}))
    table = pa.concat_tables(tables)
    size = -(-len(table) // shards)  # an episode may lie in two of them
    for shard in range(shards):
        path = root / f"train/data-{shard:05d}-of-{shards:05d}.arrow"
        part = table.slice(shard * size, size)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(part)
    return root


def _assert_read(episode: Episode, number: int, first: int = 0) -> None:
    wanted = _columns(number, first)
    np.testing.assert_array_equal(episode.state, wanted["observation.state"])
    np.testing.assert_array_equal(episode.action, wanted["action"])


# v2


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_a_v2_set_is_read_episode_by_episode(tmp_path: Path, version: str) -> None:
    dataset = open_episodes(_write_v2(tmp_path / "set", version))
    check_episodes(dataset)
    assert dataset.spec.rate_hz == FPS
    assert dataset.spec.cameras == {"top": (16, 32)}
    for number, episode in enumerate(dataset):
        _assert_read(episode, number)
        assert episode.instruction == f"do {number % 2}"
        brightness = episode.images["top"].mean((1, 2, 3))
        wanted = _frames(number, LENGTHS[number]).mean((1, 2, 3))
        np.testing.assert_allclose(brightness, wanted, atol=3)


def test_episodes_without_video_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _write_v2(tmp_path / "set")
    (root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4").unlink()
    with pytest.raises(DataError, match=r"episode 1: is missing.*skip_missing_videos=True"):
        LeRobotDataset(root)[1].images["top"]
    with caplog.at_level(logging.WARNING):
        dataset = LeRobotDataset(root, skip_missing_videos=True)
    assert "left out episodes without video: 1" in caplog.text
    check_episodes(dataset)
    assert [len(episode) for episode in dataset] == [4, 5]
    assert len(LeRobotDataset(root, skip_missing_videos=True, cameras=[])) == 3


def test_videos_of_another_folder_have_their_own_size(tmp_path: Path) -> None:
    root = _write_v2(tmp_path / "set")
    for number, length in enumerate(LENGTHS):
        film = root / f"small/chunk-000/{CAMERA}/episode_{number:06d}.mp4"
        film.parent.mkdir(parents=True, exist_ok=True)
        lerobot_video.encode(film, _frames(number, length)[:, ::2, ::2], FPS)
    dataset = LeRobotDataset(root, video_folder="small")
    assert dataset.spec.cameras == {"top": (8, 16)}
    check_episodes(dataset)
    assert dataset.fingerprint != LeRobotDataset(root).fingerprint
    with pytest.raises(DataError, match="leads out of the data set's folder"):
        LeRobotDataset(root, video_folder="../other")
    with pytest.raises(DataError, match="has the videos of no episode"):
        LeRobotDataset(root, video_folder="none", skip_missing_videos=True)


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("episodes", [{"episode_index": 1, "length": 4}], "episode_index is 1, expected 0"),
        ("episodes", [{"episode_index": 0, "length": -4}], "a positive number of frames, got -4"),
        ("episodes", [{"episode_index": 0, "length": 4}], "total_episodes = 3, but .* lists 1"),
        ("tasks", [{"task_index": 0, "task": None}], "a task_index and a task"),
        ("tasks", [{"task_index": 1, "task": "x"}], "must count from 0 without gaps"),
        ("tasks", [{"task_index": 0, "task": "x"}], "task_index is not in the list"),
    ],
)
def test_lists_of_v2_that_lie_are_refused(
    tmp_path: Path, file: str, rows: list[Any], message: str
) -> None:
    root = _write_v2(tmp_path / "set", video=False)
    _write_lines(root / f"meta/{file}.jsonl", rows)
    with pytest.raises(DataError, match=message):
        LeRobotDataset(root)


@pytest.mark.parametrize("text", ["{", "[]\n", "1"])
def test_lists_of_v2_that_are_no_objects_are_refused(tmp_path: Path, text: str) -> None:
    root = _write_v2(tmp_path / "set", video=False)
    (root / "meta/episodes.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"E_DATA_JSON: meta/episodes\.jsonl"):
        LeRobotDataset(root)


# What columns become


def test_floats_that_are_observed_are_joined_and_other_numbers_are_extras(tmp_path: Path) -> None:
    extra = {
        "observation.environment_state": lambda i, n: np.full((n, 2), i, np.float32),
        "observation.step": lambda i, n: np.arange(n),
        "camera_pose": lambda i, n: np.full((n, 2, 3), i, np.float64),
        "next.reward": lambda i, n: np.arange(n, dtype=np.float32),
    }
    root = _write_v2(tmp_path / "set", video=False, **extra)
    dataset = LeRobotDataset(root)
    assert dataset.spec.state_dim == 5
    assert dataset.spec.state_parts == {"state": 3, "environment_state": 2}
    episode = dataset[1]
    np.testing.assert_array_equal(episode.state[:, 3:], np.ones((6, 2)))
    assert set(episode.extras) == {"observation.step", "camera_pose"}
    assert episode.extras["camera_pose"].shape == (6, 2, 3)
    np.testing.assert_array_equal(episode.extras["observation.step"], np.arange(6))
    np.testing.assert_array_equal(episode.reward, np.arange(6))  # type: ignore[arg-type]
    chosen = LeRobotDataset(root, state=["observation.environment_state"])
    assert chosen.spec.state_dim == 2
    assert chosen.spec.state_parts == {}
    assert LeRobotDataset(root, state=["observation.state"]).spec.state_dim == 3


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ({"next.done": True}, (False, False)),  # nobody knows how it ended
        ({"next.done": True, "next.truncated": False}, (True, False)),
        ({"next.done": True, "next.truncated": True}, (False, True)),
        ({"next.terminated": True, "next.truncated": True}, (True, True)),
    ],
)
def test_how_an_episode_ended_is_read_from_its_last_row(
    tmp_path: Path, flags: dict[str, bool], wanted: tuple[bool, bool]
) -> None:
    def column(flag: bool) -> Any:
        return lambda i, n: (np.arange(n) == n - 1) & flag

    extra = {name: column(flag) for name, flag in flags.items()}
    episode = LeRobotDataset(_write_v2(tmp_path / "set", video=False, **extra))[0]
    assert (episode.terminated, episode.truncated) == wanted
    assert not episode.extras


def _without(root: Path, name: str) -> Path:
    for path in (root / "data").rglob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns([name]), path)
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"][name]
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def test_a_set_without_states_is_read_for_its_images(tmp_path: Path) -> None:
    root = _without(_write_v2(tmp_path / "set"), "observation.state")
    with pytest.raises(DataError, match=r"features lack 'observation.state'.*\[\] for images") as e:
        LeRobotDataset(root)
    assert e.value.fault.code == "E_DATA_FEATURE"
    dataset = LeRobotDataset(root, state=())
    check_episodes(dataset)
    assert dataset.spec.state_dim == 0


def test_a_set_without_actions_is_read_with_what_is_reached(tmp_path: Path) -> None:
    root = _without(_write_v2(tmp_path / "set", video=False), "action")
    with pytest.raises(DataError, match=r"features lack 'action'.*next.observation.state"):
        LeRobotDataset(root)
    dataset = LeRobotDataset(root, action="next.observation.state")
    check_episodes(dataset)
    for episode in dataset:
        np.testing.assert_array_equal(episode.action[:-1], episode.state[1:])
        np.testing.assert_array_equal(episode.action[-1], episode.state[-1])


# Images in rows


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    root = _write_v2(tmp_path / "set", video=False, **{CAMERA: _stills})
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][CAMERA] = feature("image", (3, 16, 32), ["channels", "height", "width"])
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def test_images_in_rows_are_read_exactly(stills: Path) -> None:
    dataset = LeRobotDataset(stills)
    check_episodes(dataset)
    assert dataset.spec.cameras == {"top": (16, 32)}
    for number, episode in enumerate(dataset):
        np.testing.assert_array_equal(episode.images["top"], _frames(number, LENGTHS[number]))


def test_images_are_read_from_the_row_groups_of_their_episode(stills: Path) -> None:
    path = stills / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=4)
    frames = LeRobotDataset(stills)[1].images["top"]
    np.testing.assert_array_equal(frames, _frames(1, 6))


def _replace_image(root: Path, data: bytes | None) -> None:
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    rows = table[CAMERA].to_pylist()
    rows[2]["bytes"] = data
    column = pa.array(rows, table.schema.field(CAMERA).type)
    pq.write_table(table.set_column(table.column_names.index(CAMERA), CAMERA, column), path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "no bytes are embedded"),
        (b"GIF89a", "cannot identify image"),
        (_png(np.zeros((16, 33, 3), np.uint8)), "16 x 33 pixels, expected 16 x 32"),
        (_png(np.zeros((4000, 4001), np.uint8)), "4000 x 4001 pixels, expected 16 x 32"),
        (_png(np.zeros((16, 32, 3), np.uint8))[:50], "cannot be read"),
    ],
)
def test_images_that_cannot_be_read_are_named(
    stills: Path, data: bytes | None, message: str
) -> None:
    _replace_image(stills, data)
    with pytest.raises(DataError, match=message) as error:
        LeRobotDataset(stills)[0].images["top"]
    fault = error.value.fault
    assert (fault.code, fault.episode, fault.frame) == ("E_DATA_IMAGE", 0, 2)
    assert fault.file == Path("data/chunk-000/episode_000000.parquet")


def test_images_beyond_the_budget_are_not_decoded(stills: Path) -> None:
    with pytest.raises(DataError, match="more than max_bytes = 5000"):
        LeRobotDataset(stills, max_bytes=5000)[0].images["top"]


# v1


@pytest.mark.parametrize("shards", [1, 3])
def test_a_v1_set_is_read(tmp_path: Path, shards: int) -> None:
    dataset = open_episodes(_write_v1(tmp_path / "push_the_block", shards=shards))
    check_episodes(dataset)
    assert dataset.spec.rate_hz == FPS
    assert dataset.spec.cameras == {"observation.image": (16, 32)}
    assert len(dataset) == 2
    for number, episode in enumerate(dataset):
        _assert_read(episode, number)
        assert episode.instruction == "push the block"
        frames = episode.images["observation.image"]
        np.testing.assert_array_equal(frames, _frames(number, LENGTHS[number]))
    named = LeRobotDataset(tmp_path / "push_the_block", instruction="push it")
    assert named[0].instruction == "push it"


def _film(number: int, length: int) -> Any:
    times = np.arange(length) / FPS
    rows = [{"path": f"videos/{number}.mp4", "timestamp": float(time)} for time in times]
    return pa.array(rows, pa.struct([("path", pa.string()), ("timestamp", pa.float32())]))


def test_videos_of_v1_are_read(tmp_path: Path) -> None:
    root = _write_v1(tmp_path / "set", film=_film)
    (root / "videos").mkdir()
    for number in range(2):
        frames = _frames(number, LENGTHS[number])
        lerobot_video.encode(root / f"videos/{number}.mp4", frames, FPS)
    dataset = LeRobotDataset(root)
    check_episodes(dataset)
    assert dataset.spec.cameras == {"observation.image": (16, 32)}
    brightness = dataset[1].images["observation.image"].mean((1, 2, 3))
    np.testing.assert_allclose(brightness, _frames(1, 6).mean((1, 2, 3)), atol=3)


def test_a_v1_video_outside_the_set_is_refused(tmp_path: Path) -> None:
    def film(number: int, length: int) -> Any:
        rows = [{"path": "../secret.mp4", "timestamp": i / FPS} for i in range(length)]
        return pa.array(rows, pa.struct([("path", pa.string()), ("timestamp", pa.float32())]))

    with pytest.raises(DataError, match="leads out of the data set's folder"):
        LeRobotDataset(_write_v1(tmp_path / "set", film=film))


def test_compressed_streams_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    root = _write_v1(tmp_path / "set")
    path = next((root / "train").iterdir())
    with pa.ipc.open_stream(path) as reader:
        table = reader.read_all()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_stream(file, table.schema, options=options) as writer,
    ):
        writer.write_table(table)
    with pytest.raises(DataError, match="holds compressed or dictionary batches"):
        LeRobotDataset(root)


def test_times_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    def film(number: int, length: int) -> Any:
        rows = [{"path": "videos/0.mp4", "timestamp": "now"}] * length
        return pa.array(rows, pa.struct([("path", pa.string()), ("timestamp", pa.string())]))

    with pytest.raises(DataError, match=r"E_DATA_COLUMNS: train.*unexpected types"):
        LeRobotDataset(_write_v1(tmp_path / "set", film=film))


def test_a_cut_stream_is_named(tmp_path: Path) -> None:
    root = _write_v1(tmp_path / "set")
    path = next((root / "train").iterdir())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"E_DATA_UNREADABLE: train/data-00000-of-00001\.arrow"):
        LeRobotDataset(root)


# Real sets


def _real(name: str) -> Path:
    root = Path(os.environ.get("EMBODIED_REALDATA", "../shared/data")) / name
    if not root.exists():
        pytest.skip(f"{root} is not there; name its parent folder in EMBODIED_REALDATA")
    return root


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "rate_hz", "sizes"),
    [
        ("aloha_sim_insertion_human", 50, (500, 14, 14)),
        ("aloha_sim_insertion_scripted", 50, (400, 14, 14)),
        ("aloha_sim_transfer_cube_human", 50, (400, 14, 14)),
        ("aloha_sim_transfer_cube_scripted", 50, (400, 14, 14)),
        ("pusht", 10, (161, 2, 2)),
        ("pusht_image", 10, (161, 2, 2)),
        ("umi_cup_in_the_wild", 10, (400, 7, 7)),
        ("xarm_lift_medium", 15, (25, 4, 4)),
        ("xarm_lift_medium_replay", 15, (25, 4, 4)),
        ("xarm_push_medium", 15, (25, 4, 3)),
    ],
)
def test_real_v1_sets_are_read(name: str, rate_hz: float, sizes: tuple[int, int, int]) -> None:
    root = _real("lerobot_v1_samples") / name
    action = "next.observation.state" if name.startswith("umi") else "action"
    is_large = name.startswith("aloha")  # decoding 500 frames of 640 x 480 takes seconds
    dataset = LeRobotDataset(root, action=action, cameras=[] if is_large else None)
    check_episodes(dataset)
    spec = dataset.spec
    assert (len(dataset[0]), spec.state_dim, spec.action_dim) == sizes
    assert spec.rate_hz == rate_hz
    faults: list[Fault] = []
    check_lerobot(root, faults.append, action=action)
    assert not faults


@pytest.mark.realdata
def test_the_films_of_pusht_agree_with_its_images() -> None:
    root = _real("lerobot_v1_samples")
    film, images = (
        LeRobotDataset(root / name)[0].images["observation.image"]
        for name in ("pusht", "pusht_image")
    )
    error = np.abs(film.astype(int) - images.astype(int)).mean((1, 2, 3))
    assert error.max() < 3


@pytest.mark.realdata
def test_the_real_v21_set_is_read(caplog: pytest.LogCaptureFixture) -> None:
    root = _real("g1_real_lerobot_v21")
    small = LeRobotDataset(root, video_folder="videos_128x96", skip_missing_videos=True)
    assert "without video: 0, 3, 6, 9, 47, 58, 61" in caplog.text
    assert len(small) == 93
    assert small.spec.cameras == {"cam_high": (96, 128)}
    assert small[92].images["cam_high"].shape == (len(small[92]), 96, 128, 3)
    originals = LeRobotDataset(root, skip_missing_videos=True)  # AV1
    assert len(originals) == 4
    assert originals.spec.cameras == {"cam_high": (480, 640)}
    large = originals[0].images["cam_high"][::50, 2::5, 2::5]
    same = LeRobotDataset(root, video_folder="videos_128x96")[29].images["cam_high"][::50]
    assert np.abs(large.astype(int) - same.astype(int)).mean() < 12  # one scene, two encodings
    states = LeRobotDataset(root, cameras=[])
    check_episodes(states)
    assert sum(len(episode) for episode in states) == 35_965


@pytest.mark.realdata
def test_the_sample_of_lerobot_itself_passes_the_checks() -> None:
    check_episodes(LeRobotDataset(_real("lerobot_v3_sample")))
