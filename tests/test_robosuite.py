"""robosuite's recordings of human demonstrations, generated and real."""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from embodied.testing import check_episodes
from embodied_datasets.faults import DataError
from embodied_datasets.formats import find_format, open_episodes
from embodied_datasets.formats.robomimic import Robomimic
from embodied_datasets.formats.robosuite import Robosuite
from tests.roundtrip import SPEC, assert_same_set, make_episode, write

ROOT = Path(__file__).parents[1]


def _record(path: Path, lengths: tuple[int, ...] = (4, 6), **attributes: str) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs.update({"env": "NutAssembly", "date": "1-1-2020", **attributes})
        for i, length in enumerate(lengths):
            demo = data.create_group(f"demo_{i + 1}")
            demo.attrs["model_file"] = "model.xml" if i == 0 else "<mujoco>" * 100
            demo["states"] = np.column_stack([np.arange(length) * 0.02, rng.random((length, 3))])
            demo["actions"] = rng.uniform(-1, 1, (length, 2))
            demo["joint_torques"] = rng.standard_normal((length, 7))
    return path


def test_states_and_actions_are_read(tmp_path: Path) -> None:
    path = _record(tmp_path / "a.hdf5")
    found = open_episodes(path)
    assert find_format(path).name == "robosuite"
    check_episodes(found)
    assert [len(episode) for episode in found] == [4, 6]
    assert found.spec.rate_hz == 50
    assert (found.spec.action_low, found.spec.action_high) == ((-1.0, -1.0), (1.0, 1.0))
    with h5py.File(path) as file:
        demo = file["data/demo_2"]
        np.testing.assert_array_equal(found[1].state, np.float32(demo["states"][:]))
        np.testing.assert_array_equal(found[1].action, np.float32(demo["actions"][:]))
        np.testing.assert_array_equal(found[1].extras["joint_torques"], demo["joint_torques"][:])
    assert found[0].info["model_file"] == "model.xml"
    assert "model_file" not in found[1].info
    assert found[0].instruction == "nut assembly"
    assert not found[0].success
    assert not found[0].terminated


def test_the_recorded_rate_and_ones_own_words_win(tmp_path: Path) -> None:
    path = _record(tmp_path / "a.hdf5", env_info=json.dumps({"control_freq": 10}))
    assert open_episodes(path).spec.rate_hz == 10
    mine = open_episodes(path, rate_hz=5, instruction="nut on peg")
    assert (mine.spec.rate_hz, mine[0].instruction) == (5, "nut on peg")
    assert mine.fingerprint != open_episodes(path).fingerprint


def test_before_actions_were_recorded_velocities_and_gripper_stand_for_them(
    tmp_path: Path,
) -> None:
    path = _record(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            del demo["actions"]
            length = len(demo["states"])
            demo["joint_velocities"] = np.full((length, 7), 2.0)
            demo["gripper_actuations"] = np.full((length, 1), -1.0)
            demo["left_dpos"] = np.zeros((length, 0))
    found = open_episodes(path)
    check_episodes(found)
    assert found[0].action.tolist() == [[2.0] * 7 + [-1.0]] * 4
    assert found.spec.action_high == (2.0,) * 7 + (-1.0,)
    assert found[0].extras.keys() == {"joint_torques"}


def test_a_file_without_actions_opens_and_says_so(tmp_path: Path) -> None:
    path = _record(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            del demo["actions"]
    found = open_episodes(path)
    check_episodes(found)
    assert found.spec.action_dim == 0
    assert found[1].action.shape == (6, 0)
    assert "no actions" in found[1].info["note"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data/demo_2/actions", np.zeros((6, 3))),
        ("data/demo_2/actions", np.zeros((5, 2))),
        ("data/demo_2/states", np.zeros((6, 5))),
        ("data/demo_2/states", np.zeros(6)),
        ("data/demo_2/states", np.zeros((0, 4))),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Any, tmp_path: Path) -> None:
    path = _record(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = value
    with pytest.raises(DataError, match=r"E_DATA_SHAPE.*episode 1"):
        open_episodes(path)


def test_it_is_only_read(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="robomimic"):
        Robosuite().create(tmp_path / "a.hdf5", SPEC)
    assert Robosuite().losses(SPEC, make_episode(0))


def test_the_hdf5_formats_know_each_other_apart(tmp_path: Path) -> None:
    write(Robomimic(), tmp_path / "robomimic.hdf5", SPEC, {"0": make_episode(0)})
    _record(tmp_path / "robosuite.hdf5")
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        for name in ("observations", "actions", "terminals"):
            file[name] = np.zeros((3, 1))
    for path in tmp_path.iterdir():
        assert find_format(path).name == path.stem
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["data"] = np.zeros(3)
    (tmp_path / "text.hdf5").write_text("data")
    for name in ("other.hdf5", "text.hdf5"):
        with pytest.raises(ValueError, match="looks like none"):
            find_format(tmp_path / name)


@pytest.mark.realdata
def test_every_real_recording_opens_and_survives_a_trip_through_robomimic(tmp_path: Path) -> None:
    folder = Path(os.environ.get("EMBODIED_REALDATA", ROOT / "../shared/data"))
    paths = sorted((folder / "robosuite_human_demos").glob("*.hdf5"))
    if not paths:
        pytest.skip(f"no robosuite_human_demos in {folder}; set EMBODIED_REALDATA")
    steps = {}
    for path in paths:
        found = open_episodes(path)
        assert find_format(path).name == "robosuite"
        check_episodes(found)
        steps[path.stem] = [len(episode) for episode in found]
        episodes = {f"{i}": episode for i, episode in enumerate(found)}
        copy = write(Robomimic(), tmp_path / path.name, found.spec, episodes)
        assert_same_set(Robomimic().open(copy), found.spec, list(found))
    panda = {name: count for name, (count, *_) in steps.items() if name.startswith("panda")}
    assert sorted(panda.values()) == [261, 412, 532, 1036, 1482]
    assert steps["BaxterLift"] == [1793, 1775]
    lift = open_episodes(folder / "robosuite_human_demos" / "panda_lift.hdf5")
    assert (lift.spec.rate_hz, lift.spec.action_dim, lift.spec.state_dim) == (20, 7, 32)
