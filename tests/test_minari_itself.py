"""The minari package reads what we write, and we read what it writes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from embodied.testing import check_episodes
from embodied_datasets.formats import find_format, open_episodes
from embodied_datasets.formats.minari import Minari
from tests.roundtrip import CAMERAS, SPEC, assert_same, make_episode, write

minari = pytest.importorskip("minari", reason="needs pip install 'embodied-policies[test]'")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")
both = pytest.mark.parametrize("data_format", ["hdf5", "arrow"])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def _buffer(seed: int, length: int, observations: Any, actions: Any, **more: Any) -> Any:
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(seed)
    last = np.arange(length) == length - 1
    return EpisodeBuffer(
        seed=seed,
        observations=observations,
        actions=actions,
        rewards=rng.standard_normal(length).tolist(),
        terminations=(last & (seed == 0)).tolist(),
        truncations=(last & (seed == 1)).tolist(),
        **more,
    )


def _create(name: str, buffers: list[Any], space: Any, action: Any, **options: Any) -> Path:
    minari.create_dataset_from_buffers(
        name, buffers, observation_space=space, action_space=action, **options
    )
    return Path(os.environ["MINARI_DATASETS_PATH"]) / name


@both
def test_minari_loads_our_sets(data_format: str, home: Path) -> None:
    extras = {"torque": np.ones((4, 2, 3), np.float32), "count": np.arange(4)}
    full = make_episode(0, 4, CAMERAS, extras=extras, terminated=True)
    state = np.ones(3, np.float32)
    final = {"state": state, "images.front": full.images["front"][0] // 2}
    episodes = {
        "a": make_episode(0, 4, CAMERAS, extras=extras, terminated=True, final=final),
        "b": make_episode(1, 1, CAMERAS, extras={k: v[:1] for k, v in extras.items()}),
    }
    write(
        Minari(),
        home / "pick" / "ours-v0",
        CAMERAS,
        episodes,
        data_format=data_format,
        dataset_id="pick/ours-v0",
    )
    loaded = minari.load_dataset("pick/ours-v0")
    assert (loaded.total_episodes, loaded.total_steps) == (2, 5)
    assert loaded.observation_space["front"].shape == (16, 18, 3)
    np.testing.assert_allclose(loaded.action_space.low, CAMERAS.action_low)
    for episode, wanted in zip(loaded.iterate_episodes(), episodes.values(), strict=True):
        seen = episode.observations
        assert len(seen["pose"]) == len(wanted) + 1
        joined = np.concatenate([seen["pose"], seen["grip"]], axis=1)
        np.testing.assert_array_equal(joined[:-1], wanted.state)
        np.testing.assert_array_equal(joined[-1], wanted.final.get("state", wanted.state[-1]))
        np.testing.assert_array_equal(seen["front"][:-1], wanted.images["front"])
        np.testing.assert_array_equal(episode.actions, wanted.action)
        np.testing.assert_array_equal(episode.rewards, wanted.reward)
        np.testing.assert_array_equal(episode.infos["torque"][:-1], wanted.extras["torque"])
        np.testing.assert_array_equal(episode.infos["count"][:-1], wanted.extras["count"])
        assert episode.terminations[-1] == wanted.terminated
        assert not episode.truncations.any()
    assert loaded.observation_space.contains({k: v[0] for k, v in seen.items()})


@both
def test_minari_loads_our_sets_of_plain_states(data_format: str, home: Path) -> None:
    episode = make_episode(3, 4, SPEC, truncated=True)
    write(Minari(), home / "ours-v1", SPEC, {"a": episode}, data_format=data_format)
    (found,) = minari.load_dataset("ours-v1").iterate_episodes()
    np.testing.assert_array_equal(found.observations[:-1], episode.state)
    assert (found.terminations.tolist(), found.truncations.tolist()) == ([False] * 4, [0, 0, 0, 1])


@both
def test_we_read_goal_environments(data_format: str, home: Path) -> None:
    box = gymnasium.spaces.Box
    space = gymnasium.spaces.Dict(
        {
            "observation": box(-np.inf, np.inf, (4,), np.float64),
            "goals": gymnasium.spaces.Dict(
                {"desired": box(-1, 1, (2,)), "kind": gymnasium.spaces.Discrete(3)}
            ),
        }
    )
    rng = np.random.default_rng(0)
    buffers = []
    for seed, length in enumerate((5, 1)):
        observations = {
            "observation": rng.standard_normal((length + 1, 4)),
            "goals": {
                "desired": rng.uniform(-1, 1, (length + 1, 2)).astype(np.float32),
                "kind": rng.integers(0, 3, length + 1),
            },
        }
        infos = {"success": [False] * length + [seed == 1], "pos": rng.random((length + 1, 3))}
        infos["pos"] = list(infos["pos"])
        actions = rng.uniform(-2, 2, (length, 2)).astype(np.float32)
        buffers.append(_buffer(seed, length, observations, actions, infos=infos))
    path = _create("theirs/goal-v0", buffers, space, box(-2, 2, (2,)), data_format=data_format)
    found = open_episodes(path)
    assert find_format(path).name == "minari"
    check_episodes(found)
    assert list(found.spec.state_parts) == ["goals.desired", "goals.kind", "observation"]
    assert (found.spec.action_low, found.spec.action_high) == ((-2.0, -2.0), (2.0, 2.0))
    for episode, buffer in zip(found, buffers, strict=True):
        values = {
            "observation": buffer.observations["observation"],
            "goals.desired": buffer.observations["goals"]["desired"],
            "goals.kind": buffer.observations["goals"]["kind"][:, None],
        }
        joined = np.concatenate([values[k] for k in found.spec.state_parts], 1).astype(np.float32)
        np.testing.assert_array_equal(episode.state, joined[:-1])
        np.testing.assert_array_equal(episode.final["state"], joined[-1])
        np.testing.assert_array_equal(episode.action, buffer.actions)
        np.testing.assert_array_equal(episode.reward, np.float32(buffer.rewards))
        np.testing.assert_array_equal(episode.extras["pos"], np.stack(buffer.infos["pos"])[:-1])
        assert (episode.terminated, episode.truncated) == (buffer.seed == 0, buffer.seed == 1)
        assert episode.info["seed"] == buffer.seed
        assert episode.success == (buffer.seed == 1)  # said with the last observation only
    assert found[0].instruction == "theirs goal v0"


@both
@pytest.mark.parametrize("jpeg", [True, False])
def test_we_read_images_and_words(data_format: str, jpeg: bool, home: Path) -> None:
    box = gymnasium.spaces.Box
    space = gymnasium.spaces.Dict(
        {
            "gray": box(0, 255, (33, 32), np.uint8),
            "mission": gymnasium.spaces.Text(40),
            "pixels": box(0, 255, (40, 32, 3), np.uint8),
            "code": box(0, 255, (3, 3, 3), np.uint8),
        }
    )
    y = np.linspace(0, 1, 40)[:, None, None]
    smooth = [np.uint8(255 * (y * (t + 1) / 4) * np.ones((40, 32, 3))) for t in range(4)]
    smooth[1][:, :, 1] = np.random.default_rng(0).integers(0, 99, (40, 32))  # another JPEG size
    observations = {
        "gray": [image[:33, :, 0] for image in smooth],
        "mission": ["go to the red ball"] * 4,
        "pixels": smooth,
        "code": np.full((4, 3, 3, 3), 7, np.uint8),
    }
    actions = np.array([2, 0, 1])
    path = _create(
        *("pixels-v0", [_buffer(0, 3, observations, actions)], space),
        *(gymnasium.spaces.Discrete(3),),
        data_format=data_format,
        jpeg_encoding=jpeg,
    )
    found = open_episodes(path / "data")
    check_episodes(found)
    assert found.spec.cameras == {"pixels": (40, 32)}
    assert found.spec.state_parts == {"code": 27}
    assert (found.spec.action_low, found.spec.action_high) == ((0.0,), (2.0,))
    episode = found[0]
    assert episode.action.tolist() == [[2], [0], [1]]
    assert episode.instruction == "go to the red ball"
    assert episode.extras["gray"].shape == (3, 33, 32)
    loaded = next(iter(minari.load_dataset("pixels-v0").iterate_episodes())).observations["pixels"]
    np.testing.assert_array_equal(episode.images["pixels"], loaded[:-1])
    np.testing.assert_array_equal(episode.final["images.pixels"], loaded[-1])
    if not jpeg:
        np.testing.assert_array_equal(loaded, smooth)


def test_we_read_tuples_and_unbounded_actions(home: Path) -> None:
    box = gymnasium.spaces.Box
    space = gymnasium.spaces.Tuple([box(-1, 1, (2,)), gymnasium.spaces.MultiBinary(3)])
    observations = (np.ones((4, 2), np.float32), np.zeros((4, 3), np.int8))
    actions = np.array([[1.0], [-3], [2]], np.float32)
    buffer = _buffer(2, 3, observations, actions)
    path = _create("tuple-v0", [buffer], space, box(-np.inf, np.inf, (1,)), data_format="hdf5")
    found = open_episodes(path)
    assert found.spec.state_parts == {"0": 2, "1": 3}
    assert (found.spec.action_low, found.spec.action_high) == ((-3.0,), (2.0,))
    assert found[0].state.tolist() == [[1, 1, 0, 0, 0]] * 3
    assert not found[0].terminated
    assert not found[0].truncated


def test_our_reader_needs_neither_minari_nor_gymnasium(home: Path) -> None:
    path = write(Minari(), home / "set-v0", SPEC, {"a": make_episode(0)})
    code = f"""
import sys
sys.modules["minari"] = sys.modules["gymnasium"] = None
from embodied_datasets.formats import open_episodes
print(len(open_episodes({str(path)!r})[0]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "5", done.stderr
    assert_same(open_episodes(path)[0], make_episode(0))
