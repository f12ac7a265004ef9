"""robomimic, Minari and D4RL: what is written is read, whatever interrupts the writing."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from embodied.structs import Episode, Spec
from embodied.testing import check_episodes
from embodied_datasets.formats import Format
from embodied_datasets.formats.d4rl import D4RL
from embodied_datasets.formats.minari import Minari
from embodied_datasets.formats.robomimic import Robomimic
from tests.roundtrip import (
    CAMERAS,
    PARTS,
    SPEC,
    assert_same,
    assert_same_set,
    make_episode,
    write,
)

FORMATS: dict[str, tuple[Format, dict[str, Any], set[str]]] = {
    "robomimic": (Robomimic(), {}, set()),
    "d4rl": (D4RL(), {}, {"images"}),
    "minari-hdf5": (Minari(), {"data_format": "hdf5"}, set()),
    "minari-arrow": (Minari(), {"data_format": "arrow"}, set()),
}
every_format = pytest.mark.parametrize("name", FORMATS)
EPISODES = {f"{seed:03d}": make_episode(seed, 3 + seed, PARTS) for seed in range(3)}


def _write(
    name: str, path: Path, spec: Spec = PARTS, episodes: Mapping[str, Episode] = EPISODES
) -> Path:
    format, options, _ = FORMATS[name]
    return write(format, path, spec, episodes, **options)


def _bytes(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return {each.relative_to(path).as_posix(): each.read_bytes() for each in sorted(files)}


@every_format
def test_an_interrupted_writer_goes_on_and_nothing_stands_at_the_path_before(
    name: str, tmp_path: Path
) -> None:
    format, options, _ = FORMATS[name]
    path = tmp_path / "set-v0"
    keys = list(EPISODES)
    with format.create(path, PARTS, **options) as writer:
        writer.add(keys[2], EPISODES[keys[2]])
        writer.add(keys[0], EPISODES[keys[0]])
    assert not path.exists()
    with format.create(path, PARTS, **options) as writer:
        assert writer.keys == {keys[0], keys[2]}
        writer.add(keys[1], EPISODES[keys[1]])
        writer.finalize()
        assert writer.keys == set(keys)
    whole = _write(name, tmp_path / "other" / "set-v0")
    assert _bytes(path) == _bytes(whole)
    assert [each.name for each in tmp_path.iterdir() if each.name != "other"] == ["set-v0"]


@every_format
def test_a_finished_set_knows_its_keys_and_takes_no_more(name: str, tmp_path: Path) -> None:
    format, options, _ = FORMATS[name]
    path = _write(name, tmp_path / "set-v0")
    before = _bytes(path)
    with format.create(path, PARTS, **options) as writer:
        assert writer.keys == set(EPISODES)
        writer.finalize()
        with pytest.raises(ValueError, match="finalised"):
            writer.add("new", EPISODES["000"])
    assert _bytes(path) == before


@every_format
def test_a_failed_finalize_leaves_nothing_at_the_path_and_can_be_repeated(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    format, options, _ = FORMATS[name]
    path = tmp_path / "set-v0"
    with format.create(path, PARTS, **options) as writer:
        writer.add("000", EPISODES["000"])
        with monkeypatch.context() as patch:
            patch.setattr("embodied_datasets.staging.Staged.__getitem__", lambda self, role: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                writer.finalize()
        assert not path.exists()
    with format.create(path, PARTS, **options) as writer:
        writer.finalize()
    assert_same(format.open(path)[0], EPISODES["000"])


@every_format
def test_another_spec_another_writer_and_foreign_files_are_refused(
    name: str, tmp_path: Path
) -> None:
    format, options, _ = FORMATS[name]
    path = tmp_path / "set-v0"
    refused = pytest.raises(BlockingIOError, match="another writer")
    with format.create(path, PARTS, **options), refused:
        format.create(path, PARTS, **options)
    with pytest.raises(ValueError, match="spec"):
        format.create(path, SPEC, **options)
    foreign = tmp_path / "foreign-v0"
    foreign.write_text("mine")
    with pytest.raises(ValueError, match="not written by this project"):
        format.create(foreign, PARTS, **options)
    assert foreign.read_text() == "mine"


@every_format
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"state": np.zeros((5, 4), np.float32)}, "state"),
        ({"reward": np.zeros(4, np.float32)}, "reward"),
        ({"reward": np.array([0, 0, np.nan, 0, 0], np.float32)}, "frame 2"),
        ({"images": {"front": np.zeros((5, 2, 2, 3), np.uint8)}}, "cameras"),
        ({"info": {"bad": object()}}, "JSON"),
        ({"extras": {"text": np.array(["a"] * 5)}}, "numbers"),
        ({"extras": {"thing": np.array([None] * 5)}}, "numbers"),
        ({"final": {"unknown": np.zeros(2)}}, "unknown"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_at_once(
    name: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    format, options, _ = FORMATS[name]
    episode = make_episode(0, 5, SPEC)
    arguments = {"state": episode.state, "action": episode.action, "instruction": "x"}
    with format.create(tmp_path / "set-v0", SPEC, **options) as writer:
        with pytest.raises(ValueError, match=message):
            writer.add("000", Episode(**(arguments | fields)))
        assert not writer.keys
        with pytest.raises(ValueError, match="no episode"):
            writer.finalize()


@every_format
def test_what_is_lost_is_said(name: str) -> None:
    format, _, lost = FORMATS[name]
    plain = make_episode(0, 3, CAMERAS, instruction="", images={}, terminated=True)
    rich = make_episode(0, 3, CAMERAS, success=True, truncated=True, info={"a": 1})
    said = " ".join(format.losses(CAMERAS, rich))
    assert all(word in said for word in ("instruction", "success", "info", *lost))
    assert "instruction" not in " ".join(format.losses(CAMERAS, plain))


@every_format
def test_the_fingerprint_follows_the_content(name: str, tmp_path: Path) -> None:
    format, _, _ = FORMATS[name]
    one, same = (format.open(_write(name, tmp_path / folder / "s-v0")) for folder in ("a", "b"))
    other = {**EPISODES, "001": make_episode(9, 4, PARTS)}
    changed = format.open(_write(name, tmp_path / "c" / "s-v0", episodes=other))
    worded = format.open(tmp_path / "a" / "s-v0", instruction="another")
    assert one.fingerprint == same.fingerprint
    assert len({one.fingerprint, changed.fingerprint, worded.fingerprint}) == 3
    assert worded[0].instruction == "another"


# robomimic as others write it


def _robomimic(path: Path, **attributes: str) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        kwargs = {"control_freq": 25}
        env = {"env_name": "PickPlaceCan", "env_type": 1, "env_kwargs": kwargs}
        data.attrs["env_args"] = json.dumps(env)
        for i in (10, 2, 1):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = i + 1
            demo.attrs.update(attributes)
            demo["actions"] = np.full((i + 1, 7), i / 10)
            demo["states"] = rng.standard_normal((i + 1, 5))
            demo["rewards"] = np.zeros(i + 1)
            demo["dones"] = np.arange(i + 1) == i
            for group in ("obs", "next_obs"):
                demo[f"{group}/z_first"] = np.full((i + 1, 2), float(group == "obs"))
                demo[f"{group}/angle"] = np.arange(i + 1.0) + (group == "next_obs")
                demo[f"{group}/agentview_image"] = np.full((i + 1, 4, 6, 3), i, np.uint8)
                demo[f"{group}/depth"] = np.ones((i + 1, 4, 6, 1), np.float32)
            demo["action_dict/abs_pos"] = np.ones((i + 1, 3))
        file["mask/train"] = np.array(["demo_1", "demo_10"], "S8")
        file.create_dataset("mask/valid", data=["demo_2"], dtype=h5py.string_dtype())
    return path


def test_robomimic_joins_observations_by_name_and_counts_demonstrations(tmp_path: Path) -> None:
    found = Robomimic().open(_robomimic(tmp_path / "a.hdf5"))
    check_episodes(found)
    assert [len(episode) for episode in found] == [2, 3, 11]
    assert found.spec.state_parts == {"angle": 1, "z_first": 2}
    assert found.spec.cameras == {"agentview_image": (4, 6)}
    assert found.spec.rate_hz == 25
    assert found.spec.action_low == (-1.0,) * 7
    episode = found[1]
    np.testing.assert_array_equal(episode.state, [[0, 1, 1], [1, 1, 1], [2, 1, 1]])
    np.testing.assert_array_equal(episode.final["state"], [3, 0, 0])
    assert (episode.final["images.agentview_image"] == 2).all()
    assert episode.extras.keys() == {"states", "action_dict/abs_pos", "obs/depth"}
    assert episode.extras["states"].dtype == np.float64
    assert episode.instruction == "pick place can"
    assert (episode.terminated, episode.truncated, episode.success) == (True, False, False)


def test_robomimic_takes_masks_keys_and_words(tmp_path: Path) -> None:
    path = _robomimic(tmp_path / "a.hdf5", ep_meta=json.dumps({"lang": "put the can away"}))
    train = Robomimic().open(path, mask="train", state_keys=["z_first", "angle"], cameras=[])
    assert [len(episode) for episode in train] == [2, 11]
    assert train.spec.state_parts == {"z_first": 2, "angle": 1}
    assert not train.spec.cameras
    assert not train[0].images
    assert train[0].instruction == "put the can away"
    valid = Robomimic().open(path, mask="valid", rate_hz=5.0)
    assert ([len(e) for e in valid], valid.spec.rate_hz) == ([3], 5.0)
    for options in ({"mask": "test"}, {"state_keys": ["depth"]}, {"cameras": ["nowhere"]}):
        with pytest.raises(ValueError, match=r"has no (mask|observations|cameras)"):
            Robomimic().open(path, **options)


# D4RL as others write it


def _d4rl(path: Path, terminals: list[int], timeouts: list[int], **more: Any) -> Path:
    total = len(terminals)
    with h5py.File(path, "w") as file:
        file["observations"] = np.arange(total * 2.0).reshape(total, 2)
        file["actions"] = np.linspace(-0.5, 0.75, total)[:, None]
        file["rewards"] = np.arange(total, dtype=np.float32)
        file["terminals"] = np.array(terminals, bool)
        file["timeouts"] = np.array(timeouts, bool)
        file["infos/goal"] = np.arange(total * 3.0).reshape(total, 3)
        file["metadata/algorithm"] = "SAC"
        file["metadata/policy/fc0/weight"] = np.ones((4, 4))
        for name, values in more.items():
            file[name] = values
    return path


def test_d4rl_splits_at_terminals_and_timeouts_and_keeps_them_apart(tmp_path: Path) -> None:
    path = _d4rl(tmp_path / "hopper-medium-v2.hdf5", [0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 1, 0])
    found = D4RL().open(path)
    check_episodes(found)
    assert [len(episode) for episode in found] == [2, 1, 2, 1]
    ends = [(episode.terminated, episode.truncated) for episode in found]
    assert ends == [(True, False), (False, True), (True, True), (False, True)]
    assert ["note" in episode.info for episode in found] == [False, False, False, True]
    np.testing.assert_array_equal(found[2].state, [[6, 7], [8, 9]])
    np.testing.assert_array_equal(found[2].extras["goal"], [[9, 10, 11], [12, 13, 14]])
    assert not found[0].final
    assert found[0].instruction == "hopper medium v2"
    assert found[0].info["metadata"] == {"algorithm": "SAC"}
    assert (found.spec.action_low, found.spec.action_high) == ((-0.5,), (0.75,))
    assert len(D4RL().open(path, unfinished="drop")) == 3


def test_d4rl_takes_the_last_observation_from_the_next_ones(tmp_path: Path) -> None:
    following = np.arange(8.0).reshape(4, 2) + 100
    path = _d4rl(tmp_path / "a.hdf5", [0, 1, 0, 1], [0] * 4, next_observations=following)
    finals = [episode.final["state"].tolist() for episode in D4RL().open(path)]
    assert finals == [[102, 103], [106, 107]]


def test_d4rl_marks_every_boundary_for_others(tmp_path: Path) -> None:
    flags = [(False, False), (True, False), (False, True), (True, True)]
    episodes = {
        f"{i}": make_episode(i, 2, SPEC, terminated=terminated, truncated=truncated)
        for i, (terminated, truncated) in enumerate(flags)
    }
    path = _write("d4rl", tmp_path / "a.hdf5", SPEC, episodes)
    with h5py.File(path) as file:
        assert file["terminals"][:].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
        assert file["timeouts"][:].tolist() == [0, 1, 0, 0, 0, 1, 0, 1]
    found = D4RL().open(path)
    assert [(episode.terminated, episode.truncated) for episode in found] == flags


def test_d4rl_keeps_extras_that_differ_between_episodes(tmp_path: Path) -> None:
    episodes = {
        "0": make_episode(
            0, 2, extras={"a": np.ones(2), "b/c d": np.zeros((2, 1)), "e": np.ones(2)}
        ),
        "1": make_episode(1, 3, extras={"a": np.ones((3, 2), int)}),
    }
    path = _write("d4rl", tmp_path / "a.hdf5", SPEC, episodes)
    assert_same_set(D4RL().open(path), SPEC, list(episodes.values()))
    with h5py.File(path) as file:
        assert set(file["infos"]) == {"e"}


@pytest.mark.parametrize(
    ("maker", "format"), [(_robomimic, Robomimic()), (lambda p: _d4rl(p, [1], [0]), D4RL())]
)
def test_values_that_are_not_finite_are_reported_where_they_are(
    maker: Any, format: Format, tmp_path: Path
) -> None:
    path = maker(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        name = "data/demo_2/actions" if "data" in file else "actions"
        file[name][-1, 0] = np.nan
    episode = 1 if format.name == "robomimic" else 0
    with pytest.raises(ValueError, match=f"E_DATA_NONFINITE.*episode {episode}.*action"):
        format.open(path)[episode]
    faults: list[Any] = []
    assert np.isnan(format.open(path, report=faults.append)[episode].action).any()
    assert [fault.code for fault in faults] == ["E_DATA_NONFINITE"]


def test_a_missing_library_is_named_with_what_to_install(tmp_path: Path) -> None:
    path = _write("d4rl", tmp_path / "a.hdf5")
    code = f"""
import sys
sys.modules["h5py"] = None
from pathlib import Path
from embodied_datasets.formats import all_formats, open_episodes
formats = all_formats()
assert not {{"minari", "zarr", "torchvision"}} & set(sys.modules)
for attempt in (
    lambda: open_episodes({str(path)!r}),
    lambda: open_episodes({str(path)!r}, format="d4rl"),
    lambda: formats["robomimic"].create(Path({str(tmp_path / "b.hdf5")!r}), None),
):
    try:
        attempt()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.count("pip install 'embodied-policies[data]'") == 3, done.stderr
