"""Comparisons: from where segments are cut, what is asked, what teachers say, where it is kept."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from omegaconf import OmegaConf

from embodied.build import instantiate
from embodied.data import queries
from embodied.data.preferences import Comparisons, Preferences, Segments, draw_segments, join
from embodied.data.teachers import Teacher, usual_return
from embodied.structs import Episode, Spec
from embodied_datasets.compared import (
    folder,
    load_preferences,
    recorded_preferences,
    save_preferences,
    sets,
)
from embodied_datasets.faults import DataError
from embodied_datasets.formats import open_episodes

ROOT = Path(__file__).parents[1]
REALDATA = Path(os.environ.get("EMBODIED_REALDATA", "../shared/data"))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Recorded:
    """Episodes in memory, whose states say where they are from."""

    def __init__(self, lengths: list[int], order: list[int] | None = None) -> None:
        self.order = order or list(range(len(lengths)))
        self.episodes = [self._make(e, length) for e, length in enumerate(lengths)]
        self.fingerprint = "memory"
        self.spec = Spec(2, 1, (-1.0,), (1.0,), 10.0)

    def _make(self, number: int, length: int) -> Episode:
        state = np.stack([np.full(length, number), np.arange(length)], 1).astype(np.float32)
        return Episode(state, state[:, :1] / 10, "go", reward=state[:, 1])

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[self.order[index]]

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))


def some(lengths: list[int], length: int = 3, count: int = 8) -> Preferences:
    draw = rng()
    first, second = (draw_segments(lengths, length, count, draw) for _ in range(2))
    said = draw.choice([0.0, 0.5, 1.0], count).astype(np.float32)
    return Preferences(first, second, said, ("ann", "bo") * (count // 2))


# Segments


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 6))
def test_segments_never_cross_episodes(lengths: list[int], length: int) -> None:
    if max(lengths) < length:
        with pytest.raises(ValueError, match=r"length must lie in"):
            draw_segments(lengths, length, 4, rng())
        return
    drawn = draw_segments(lengths, length, 50, rng())
    drawn.check(lengths)
    taken = drawn.take([np.full(n, i) for i, n in enumerate(lengths)])
    assert taken.shape == (50, length)
    assert (taken == drawn.episode[:, None]).all()


def test_every_segment_is_equally_likely() -> None:
    """Of 3 + 0 + 1 places where 3 steps fit into episodes of 5, 2 and 3."""
    drawn = draw_segments([5, 2, 3], 3, 40_000, rng())
    places, counts = np.unique(
        np.stack([drawn.episode, drawn.start], 1), axis=0, return_counts=True
    )
    assert places.tolist() == [[0, 0], [0, 1], [0, 2], [2, 0]]
    assert np.abs(counts / 40_000 - 0.25).max() < 0.01


@pytest.mark.parametrize(
    ("episode", "start", "message"),
    [
        (0, 3, r"steps \[3, 6\) of episode 0, which has 5"),
        (0, -1, "cross"),
        (2, 0, "of 2 episodes"),
    ],
)
def test_segments_outside_their_episodes_are_refused(
    episode: int, start: int, message: str
) -> None:
    segments = Segments(np.array([1, episode]), np.array([0, start]), 3)
    with pytest.raises(ValueError, match=f"segment 1 .*{message}"):
        segments.check([5, 4])


def test_what_was_compared_is_cut_from_the_episodes() -> None:
    preferences = Preferences(
        Segments(np.array([1, 0]), np.array([2, 0]), 2),
        Segments(np.array([0, 1]), np.array([1, 1]), 2),
        np.array([1.0, 0.5], np.float32),
        ("ann", "bo"),
    )
    data = Recorded([4, 5])
    found = preferences.compare([x.state for x in data], [x.action for x in data])
    assert found.state[0].tolist() == [[[1, 2], [1, 3]], [[0, 1], [0, 2]]]
    assert found.action.shape == (2, 2, 2, 1)
    asked = found.exchanged()
    assert asked.second_better.tolist() == [0.0, 0.5]
    assert np.array_equal(asked.state[:, 0], found.state[:, 1])


def test_joined_and_chosen_preferences_keep_who_said_what() -> None:
    preferences = some([9, 9])
    both = join([preferences[:3], preferences[3:]])
    assert both.labeller == preferences.labeller
    assert np.array_equal(both.second.start, preferences.second.start)
    bo = preferences[np.array([each == "bo" for each in preferences.labeller])]
    assert bo.labeller == ("bo",) * 4
    with pytest.raises(ValueError, match="segments of one length"):
        join([some([9], 3), some([9], 4)])


@pytest.mark.parametrize("label", [-0.1, 1.5, math.nan])
def test_labels_that_are_no_probabilities_are_refused(label: float) -> None:
    one = Segments(np.array([0]), np.array([0]), 2)
    with pytest.raises(ValueError, match=r"second_better must lie in \[0, 1\]"):
        Preferences(one, one, np.array([label], np.float32), ("ann",))


def test_a_split_loses_nothing_and_shares_nothing() -> None:
    n = 10
    state = np.arange(n, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 3, 2), np.float32)
    whole = Comparisons(state, state[..., :1], np.zeros(n, np.float32))
    train, held_out = whole.split(0.3, rng())
    found = [x.state[:, 0, 0, 0].tolist() for x in (train, held_out)]
    assert (len(train), len(held_out)) == (7, 3)
    assert sorted(found[0] + found[1]) == list(range(n))


# Queries

THOUGHT = np.array([[0.5, 0.9, 0.99, 0.2], [0.5, 0.1, 0.99, 0.3]])


def test_disagreement_asks_where_members_differ_and_entropy_where_they_doubt() -> None:
    assert queries.disagreement(THOUGHT, 2, rng()).tolist() == [1, 3]
    assert queries.entropy(THOUGHT, 2, rng()).tolist() == [0, 3]
    for choose in (queries.uniform, queries.disagreement, queries.entropy):
        assert sorted(choose(THOUGHT, 4, rng()).tolist()) == [0, 1, 2, 3]
        with pytest.raises(ValueError, match="count"):
            choose(THOUGHT, 5, rng())


def test_without_opinions_all_choices_are_uniform() -> None:
    same = np.full((3, 5), 0.5)
    for choose in (queries.uniform, queries.disagreement, queries.entropy):
        counts = np.bincount([int(choose(same, 1, rng(i))[0]) for i in range(2000)], minlength=5)
        assert np.abs(counts / 2000 - 0.2).max() < 0.04


def test_certain_members_have_no_entropy_and_no_nan() -> None:
    assert queries.entropy(np.array([[0.0, 1.0, 0.4]]), 1, rng()).tolist() == [2]


# Teachers


def teacher(name: str) -> Teacher:
    built = instantiate(OmegaConf.load(ROOT / "conf" / "teacher" / f"{name}.yaml"))
    assert isinstance(built, Teacher)
    return built


def pairs(gap: float, n: int = 20_000, steps: int = 4) -> NDArray[np.float64]:
    """Rewards of which the second's sum is higher by `gap`."""
    rewards = np.ones((n, 2, steps))
    rewards[:, 1] += gap / steps
    return rewards


def say(name: str, rewards: Any, usual: float = 4.0) -> Any:
    return teacher(name).label(np.asarray(rewards, float), usual_return=usual, rng=rng())


def test_the_oracle_is_right_and_calls_a_tie_a_tie() -> None:
    rewards = [[[0, 1], [1, 1]], [[2, 2], [1, 0]], [[1, 0], [0, 1]]]
    said = say("oracle", rewards)
    assert said.second_better.tolist() == [1.0, 0.0, 0.5]
    assert said.answered.all()


def test_the_noisy_teacher_chooses_by_the_logistic_of_the_gap() -> None:
    said = say("noisy", pairs(0.8))
    assert set(np.unique(said.second_better)) == {0.0, 1.0}
    assert said.second_better.mean() == pytest.approx(1 / (1 + math.exp(-0.8)), abs=0.01)
    assert say("noisy", pairs(5000.0, 10)).second_better.tolist() == [1.0] * 10


def test_the_myopic_teacher_forgets_what_came_first() -> None:
    # 1.0 at first against 0.95 at last, four steps: 0.9^3 = 0.729
    rewards = [[[1, 0, 0, 0], [0, 0, 0, 0.95]], [[1, 0, 0, 0], [0, 0, 0, 0.7]]]
    assert say("myopic", rewards).second_better.tolist() == [1.0, 0.0]
    assert say("oracle", rewards).second_better.tolist() == [0.0, 0.0]


def test_the_mistaken_teacher_errs_once_in_ten() -> None:
    assert say("mistake", pairs(1.0)).second_better.mean() == pytest.approx(0.9, abs=0.01)


def test_the_skipping_teacher_answers_where_one_segment_is_good_enough() -> None:
    rewards = [[[0.1, 0.2], [0, 0]], [[0, 0], [0.3, 0.1]], [[0, 0], [0, 0]]]
    assert say("skip", rewards, usual=4.0).answered.tolist() == [False, True, False]


def test_the_indifferent_teacher_sees_no_small_differences() -> None:
    rewards = [[[1, 1], [1, 1.3]], [[1, 1], [1, 1.5]], [[1, 1], [1, 0.5]]]
    assert say("equal", rewards, usual=4.0).second_better.tolist() == [0.5, 1.0, 0.0]


def test_thresholds_are_a_tenth_of_what_is_usual_in_every_session() -> None:
    """Neither shrinks nor grows with the number of sessions."""
    returns = [float(x) for x in range(20)]  # the last ten have the mean 14.5
    usual = usual_return(returns, segment_length=50, episode_length=1000)
    assert usual == pytest.approx(14.5 * 0.05)
    built = teacher("equal")
    for _ in range(5):
        again = usual_return(returns, segment_length=50, episode_length=1000)
        for factor, label in ((0.099, 0.5), (0.101, 1.0)):
            rewards = pairs(factor * usual, n=1)
            assert built.label(rewards, usual_return=again, rng=rng()).second_better == label


def test_impossible_teachers_are_refused() -> None:
    for wrong in ({"discount": 0.0}, {"mistake": 1.5}):
        with pytest.raises(ValueError, match="discount must lie"):
            Teacher(**wrong)
    with pytest.raises(ValueError, match="episode_returns is empty"):
        usual_return([], segment_length=1, episode_length=1)


# Beside a data set


@settings(max_examples=20)
@given(st.permutations([0, 1, 2]))
def test_saved_preferences_find_their_episodes_in_any_order(order: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        data, lengths = Recorded([5, 8, 6]), [5, 8, 6]
        preferences = some(lengths)
        save_preferences(Path(root), "mine", preferences, data)
        later = Recorded(lengths, order)
        found = load_preferences(Path(root), "mine", later)
    ours = preferences.compare([x.state for x in data], [x.action for x in data])
    theirs = found.compare([x.state for x in later], [x.action for x in later])
    assert np.array_equal(ours.state, theirs.state)
    assert np.array_equal(ours.second_better, theirs.second_better)
    assert found.labeller == preferences.labeller


def test_a_set_is_replaced_and_others_stay(tmp_path: Path) -> None:
    data = Recorded([5, 8])
    few, many = some([5, 8], count=2), some([5, 8], count=6)
    for name, each in (("a", few), ("b", few), ("a", many)):
        save_preferences(tmp_path, name, each, data)
    assert sets(tmp_path) == ["a", "b"]
    assert len(load_preferences(tmp_path, "a", data)) == 6
    assert len(load_preferences(tmp_path, "b", data)) == 2
    file = tmp_path / "data.npz"
    file.write_bytes(b"")
    save_preferences(file, "a", few, data)
    assert folder(file) == tmp_path / "data.npz.preferences"
    assert sets(file) == ["a"]


def test_an_interrupted_write_leaves_the_set_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, before = Recorded([5, 8]), some([5, 8], count=2)
    save_preferences(tmp_path, "a", before, data)

    def fail(path: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("embodied_datasets.files.sync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_preferences(tmp_path, "a", some([5, 8], count=6), data)
    assert sets(tmp_path) == ["a"]
    assert len(load_preferences(tmp_path, "a", data)) == 2


def test_changed_data_are_noticed(tmp_path: Path) -> None:
    data = Recorded([5, 8])
    save_preferences(tmp_path, "a", some([5, 8]), data)
    changed = data.episodes[1]
    data.episodes[1] = dataclasses.replace(changed, state=changed.state + 1)
    with pytest.raises(DataError, match="E_DATA_LABELS_STALE"):
        load_preferences(tmp_path, "a", data)


def test_what_cannot_be_saved_or_found_is_named(tmp_path: Path) -> None:
    data = Recorded([5, 8])
    with pytest.raises(ValueError, match="must not cross"):
        save_preferences(tmp_path, "a", some([9, 9], length=9), data)
    with pytest.raises(ValueError, match="letters"):
        save_preferences(tmp_path, "../a", some([5, 8]), data)
    with pytest.raises(ValueError, match=r"no preferences 'a'; it has \[\]"):
        load_preferences(tmp_path, "a", data)


@pytest.mark.parametrize(
    ("columns", "facts"),
    [
        ({"first_episode": np.array([-1, 0])}, {}),
        ({"labeller": np.array([0, 7])}, {}),
        ({"second_start": np.array([0, 99])}, {}),
        ({"second_better": np.array([0, 2], np.float32)}, {}),
        ({"second_better": np.array([0, 1], np.float64)}, {}),
        ({"first_start": np.array([0])}, {}),
        ({"more": np.array([0, 0])}, {}),
        ({}, {"version": 2}),
        ({}, {"length": "3"}),
        ({}, {"labellers": None}),
    ],
)
def test_damaged_files_are_refused(
    columns: dict[str, Any], facts: dict[str, Any], tmp_path: Path
) -> None:
    data = Recorded([5, 8])
    save_preferences(tmp_path, "a", some([5, 8], count=2), data)
    file = folder(tmp_path) / "a.safetensors"
    with safetensors.safe_open(file, framework="numpy") as content:
        said = json.loads(content.metadata()["facts"]) | facts
        arrays = {key: content.get_tensor(key) for key in content.keys()} | columns  # noqa: SIM118
    safetensors.numpy.save_file(arrays, file, {"facts": json.dumps(said)})
    with pytest.raises(DataError):
        load_preferences(tmp_path, "a", data)
    file.write_bytes(b"not a file of tensors")
    with pytest.raises(DataError, match="cannot be read"):
        load_preferences(tmp_path, "a", data)


# What people said


def published(path: Path) -> Path:
    """A small file as the published human labels are."""
    draw = rng()
    arrays = {
        f"{name}_{side}": draw.standard_normal((4, 6, size)).astype(np.float32)
        for name, size in (("obs", 5), ("action", 2))
        for side in (1, 2)
    }
    human, script = np.array([0, 1, 0.5, 1]), np.array([0.5, 0.5, 0, 1.0])
    np.savez_compressed(path, **arrays, label_human=human, label_script=script)
    return path


def test_published_labels_are_read_as_preferences(tmp_path: Path) -> None:
    path = published(tmp_path / "Lift__train.npz")
    episodes, arrays = open_episodes(path), np.load(path)
    found = recorded_preferences(episodes)
    assert found.second_better.tolist() == [0, 1, 0.5, 1]
    assert found.labeller == ("human",) * 4
    compared = found.compare([x.state for x in episodes], [x.action for x in episodes])
    for side in (1, 2):
        np.testing.assert_array_equal(compared.state[:, side - 1], arrays[f"obs_{side}"])
        np.testing.assert_array_equal(compared.action[:, side - 1], arrays[f"action_{side}"])
    script = recorded_preferences(episodes, label="label_script")
    assert script.second_better.tolist() == [0.5, 0.5, 0, 1]
    save_preferences(path, "copied", found, episodes)
    assert load_preferences(path, "copied", episodes).labeller == ("human",) * 4


def test_other_episodes_are_no_pairs() -> None:
    with pytest.raises(ValueError, match=r"episode 0 does not say its \['label_human', 'pair'"):
        recorded_preferences(Recorded([3]))


REAL = {  # pairs, steps, ties
    "Can__num100_q50_train": (100, 50, 34),
    "Lift__num500_q100_eval": (50, 100, None),
    "walker2d-medium-expert-v2__num100_train": (100, 100, None),
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", list(REAL))
def test_real_human_labels_are_read(name: str) -> None:
    path = REALDATA / "human_preferences" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{path} is absent; EMBODIED_REALDATA names the folder of the public data")
    episodes = open_episodes(path)
    found = recorded_preferences(episodes)
    count, steps, ties = REAL[name]
    assert (len(found), found.first.length) == (count, steps)
    if ties is not None:
        assert int((found.second_better == 0.5).sum()) == ties
    compared = found.compare([x.state for x in episodes], [x.action for x in episodes])
    assert np.isfinite(compared.state).all()
    assert compared.state.shape[:3] == (count, 2, steps)
