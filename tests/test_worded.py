"""Demonstrations with many wordings, and preferences: what becomes of them, and lies in them."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied.structs import Spec
from embodied.testing import check_episodes
from embodied_datasets.faults import DataError, Fault
from embodied_datasets.formats import all_formats, find_format, open_episodes
from embodied_datasets.wordings import canonical, choose, hold_out

REALDATA = Path(os.environ.get("EMBODIED_REALDATA", "../shared/data"))
SAID = ["Pick it up.", "pick it up", "take the cup", "grab the cup!", "lift it", "take the cup"]
EVENTS = np.array([0, 1, 0, 0, 3, 0, 0, 0, 2], np.uint8)


def _lila(folder: Path, **changes: Any) -> Path:
    """Two episodes of 6 and 3 rows for each of two tasks, and one more of the first in `lila`."""
    rng = np.random.default_rng(0)
    arrays = {
        **{
            f"joint_{name}": rng.standard_normal((9, 7), np.float32)
            for name in ("pos", "vel", "torque")
        },
        "gripper_events": EVENTS,
        "episode_ends": np.array([6, 9]),
    } | changes
    folder.mkdir(exist_ok=True)
    for name in ("il__lift-cup", "il__turn-cup", "lila__lift-cup"):
        np.savez(folder / f"{name}.npz", **arrays)
        lines = [json.dumps({"id": i, "language": SAID}) for i in range(2)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _positions(folder: Path) -> Any:
    return np.load(folder / "il__lift-cup.npz")["joint_pos"]


def test_an_action_is_the_motion_to_the_next_position(tmp_path: Path) -> None:
    path = _lila(tmp_path / "set")
    assert find_format(path).name == "lila"
    position = _positions(path)
    delta, absolute = open_episodes(path), open_episodes(path, action="absolute")
    for episodes in (delta, absolute):
        check_episodes(episodes)
    assert [len(each) for each in delta] == [5, 2] * 3
    np.testing.assert_array_equal(delta[0].state[:, :7], position[:5])
    np.testing.assert_array_equal(delta[0].action[:, :7], np.diff(position[:6], axis=0))
    np.testing.assert_array_equal(absolute[1].action[:, :7], position[7:9])
    np.testing.assert_array_equal(absolute[1].final["state"][:7], position[8])
    assert delta.fingerprint != absolute.fingerprint


def test_the_gripper_turns_over_with_each_press_and_begins_open(tmp_path: Path) -> None:
    # Rows 1 and 4 of the first episode, row 2 of the second; a held button is one press.
    episodes = open_episodes(_lila(tmp_path / "set"))
    np.testing.assert_array_equal(episodes[0].state[:, 7], [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(episodes[0].action[:, 7], [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(episodes[1].state[:, 7], [0, 0])
    np.testing.assert_array_equal(episodes[1].action[:, 7], [0, 1])
    assert episodes[1].final["state"][7] == 1
    assert [x.info["gripper_events"] for x in episodes][:2] == [2, 1]
    assert episodes.spec.state_parts == {"joint_pos": 7, "gripper": 1}


def test_states_files_and_tasks_are_chosen(tmp_path: Path) -> None:
    path = _lila(tmp_path / "set")
    found = open_episodes(
        path, state=["joint_pos", "joint_vel"], gripper=False, tasks=["lift-cup"], files=["lila"]
    )
    check_episodes(found)
    assert len(found) == 2
    assert (found.spec.state_dim, found.spec.action_dim) == (14, 7)
    assert set(found[0].extras) == set(found[0].final) - {"state"} == {"joint_torque"}
    assert found[0].info == {
        "task": "lift-cup",
        "file": "lila",
        "recording": 0,
        "gripper_events": 2,
    }
    assert open_episodes(path, state=["joint_pos"], gripper=False).spec.state_parts == {}


@pytest.mark.parametrize(
    "options",
    [
        {"action": "velocity"},
        {"state": []},
        {"state": ["effort"]},
        {"files": ["test"]},
        {"tasks": ["turn-cup"], "files": ["lila"]},
        {"wording": "held_out"},
        {"held_out_utterances": 4},
        {"held_out_utterances": -1},
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must|no tasks"):
        open_episodes(_lila(tmp_path / "set"), **options)


def _wordings(path: Path, **options: Any) -> set[str]:
    episodes = open_episodes(path, **options)
    for episode in episodes:
        texts = [each.content for each in episode.annotations]
        assert {each.style for each in episode.annotations} == {"task_aug"}
        assert episode.instruction in texts
        assert len(texts) == len(set(texts))
    return {canonical(x.content) for episode in episodes for x in episode.annotations}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_held_out_wording_is_ever_trained_on(count: int, tmp_path: Path) -> None:
    path = _lila(tmp_path / "set")
    for task in ("lift-cup", "turn-cup"):
        options = {"tasks": [task], "held_out_utterances": count}
        trained = _wordings(path, **options)
        held = _wordings(path, wording="held_out", **options)
        assert len(held) == count
        assert not trained & held
        assert trained | held == _wordings(path) == set(map(canonical, SAID))
        assert held == _wordings(path, wording="held_out", **options)


def test_what_one_task_holds_out_no_task_trains_on(tmp_path: Path) -> None:
    path = _lila(tmp_path / "set")  # both tasks are worded alike, and draw differently
    held = _wordings(path, held_out_utterances=2, wording="held_out")
    assert len(held) == 3
    assert not held & _wordings(path, held_out_utterances=2)
    only = open_episodes(path, held_out_utterances=2, wording="held_out", files=["lila"])
    both = open_episodes(path, held_out_utterances=2, wording="held_out", tasks=["lift-cup"])
    assert {x.instruction for x in only} <= {x.instruction for x in both}


@given(
    texts=st.lists(st.text("ab .", min_size=1, max_size=3), min_size=1, max_size=9),
    count=st.integers(0, 9),
    seed=st.integers(0, 3),
)
@settings(max_examples=15, deadline=None)
def test_wordings_are_parted_by_what_they_say(texts: list[str], count: int, seed: int) -> None:
    forms = {canonical(text) for text in texts}
    if count >= len(forms):
        with pytest.raises(ValueError, match="held_out_utterances"):
            hold_out(texts, count, seed, "task")
        return
    kept, held = hold_out(texts, count, seed, "task")
    assert sorted([*kept, *held]) == sorted(set(texts))
    assert len({canonical(text) for text in held}) == count
    assert not {canonical(text) for text in held} & {canonical(text) for text in kept}
    assert (kept, held) == hold_out(texts, count, seed, "task")
    assert set(hold_out(list(reversed(texts)), count, seed, "task")[1]) == set(held)


def test_draws_are_the_same_for_ever() -> None:
    # A change here would move utterances between training and test in published results.
    texts = [f"wording {i}" for i in range(8)]
    assert choose(texts, "il/pick-banana/3") == texts[0]
    assert hold_out(texts, 3, 0, "pick-banana")[1] == [texts[0], texts[1], texts[4]]


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"gripper_events": np.zeros(8, np.uint8)}, None),
        ({"joint_vel": np.zeros((9, 7), "datetime64[s]")}, None),
        ({"episode_ends": np.array([8, 9])}, None),
        ({"joint_pos": np.full((9, 7), np.nan, np.float32)}, None),
        ({}, "[" * 10**5),
        ({}, '{"id": 0}\n{"id": 1}'),
        ({}, '{"language": "pick"}\n{"language": "pick"}'),
        ({}, '{"language": ["pick"]}'),
        ({}, '{"language": [3]}\n{"language": [""]}'),
    ],
)
def test_demonstrations_that_lie_are_refused(
    changes: dict[str, Any], lines: str | None, tmp_path: Path
) -> None:
    path = _lila(tmp_path / "set", **changes)
    if lines is not None:
        (path / "il__lift-cup.jsonl").write_text(lines)
    with pytest.raises(DataError):
        open_episodes(path)


# Preferences


def _pairs(path: Path, **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        f"{name}_{side}": rng.standard_normal((2, 3, size), np.float32)
        for name, size in (("obs", 4), ("action", 2))
        for side in (1, 2)
    }
    labels = {"label_human": np.array([0.5, 1]), "label_script": np.array([0, 1.0])}
    np.savez_compressed(path, **(arrays | labels | changes))
    return path


def test_both_segments_of_a_pair_become_episodes(tmp_path: Path) -> None:
    path = _pairs(tmp_path / "Can__train.npz")
    assert find_format(path).name == "preferences"
    episodes, arrays = open_episodes(path), np.load(path)
    check_episodes(episodes)
    assert len(episodes) == 4
    for i, episode in enumerate(episodes):
        np.testing.assert_array_equal(episode.state, arrays[f"obs_{i % 2 + 1}"][i // 2])
        np.testing.assert_array_equal(episode.action, arrays[f"action_{i % 2 + 1}"][i // 2])
    assert episodes[3].info == {
        "pair": 1,
        "side": 2,
        "task": "Can",
        "label_human": 1.0,
        "label_script": 1.0,
    }
    assert (episodes[0].terminated, episodes[0].truncated) == (False, True)


def test_labels_that_mean_nothing_are_reported(tmp_path: Path) -> None:
    path = _pairs(tmp_path / "a.npz", label_human=np.array([0.5, 2]))
    with pytest.raises(DataError, match=r"0, 0\.5 or 1"):
        open_episodes(path)
    faults: list[Fault] = []
    assert len(open_episodes(path, report=faults.append)) == 4
    assert [(x.code, x.episode, x.field) for x in faults] == [("E_DATA_LABEL", 2, "label_human")]


@pytest.mark.parametrize(
    "changes",
    [
        {"obs_2": np.zeros((2, 4, 4))},
        {"obs_1": np.zeros((2, 4)), "obs_2": np.zeros((2, 4))},
        {f"action_{side}": np.zeros((2, 4, 2)) for side in (1, 2)},
        {"label_human": np.zeros(3)},
        {f"obs_{side}": np.zeros((0, 3, 4)) for side in (1, 2)},
        {"obs_1": np.full((2, 3, 4), np.inf)},
    ],
)
def test_pairs_that_do_not_fit_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        open_episodes(_pairs(tmp_path / "a.npz", **changes))


@pytest.mark.parametrize("name", ["lila", "preferences", "rlds"])
def test_formats_that_are_only_read_say_so(name: str, tmp_path: Path) -> None:
    form = all_formats()[name]
    with pytest.raises(NotImplementedError, match="only read"):
        form.create(tmp_path / "a", Spec(1, 1, (0.0,), (1.0,), 1.0))


# The real ones


def _real(*parts: str) -> Path:
    path = REALDATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent; EMBODIED_REALDATA names the folder of the public data")
    return path


@pytest.mark.realdata
@pytest.mark.parametrize("action", ["delta", "absolute"])
def test_the_franka_demonstrations_open(action: str) -> None:
    episodes = open_episodes(_real("lila_franka_language"), action=action)
    check_episodes(episodes)
    assert len(episodes) == 4 * (30 + 15)
    tasks = {x.info["task"] for x in episodes}
    assert tasks == {"pick-banana", "pick-cereal", "pick-fruit-basket", "pour-cereal"}
    assert {len(x.annotations) for x in episodes} == {13, 14, 15}


@pytest.mark.realdata
def test_the_franka_wordings_are_held_out() -> None:
    path, count = _real("lila_franka_language"), 3
    for task in ("pick-banana", "pour-cereal"):
        options = {"tasks": [task], "held_out_utterances": count}
        held = _wordings(path, wording="held_out", **options)
        assert len(held) == count
        assert not held & _wordings(path, **options)


@pytest.mark.realdata
def test_all_human_preferences_open() -> None:
    files = sorted(_real("human_preferences").glob("*.npz"))
    assert len(files) == 11
    for path in files:
        episodes = open_episodes(path)
        check_episodes(episodes)
        assert {x.info["label_human"] for x in episodes} <= {0, 0.5, 1}
