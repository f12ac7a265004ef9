"""TQ and SACo: what a data set offers a learner from rewards."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodied.structs import Episode, Spec
from embodied_datasets import measures
from embodied_datasets.checking.commands import main
from embodied_datasets.faults import DataError
from embodied_datasets.lerobot_writer import LeRobotWriter
from embodied_datasets.measures import coverage, measure, returns_of, trajectory_quality


def pairs(n, dims, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).uniform(-1, 1, (n, dims))


class Some(list):
    """Episodes in a list."""

    spec = Spec(1, 1, (-1.0,), (1.0,), 10.0)
    fingerprint = "some"


def episodes(*returns):
    return Some(
        Episode(
            np.full((2, 1), r, np.float32),
            np.full((2, 1), r / 10, np.float32),
            "go",
            reward=np.array([0, r], np.float32),
        )
        for r in returns
    )


def test_quality_is_zero_for_random_data_and_one_for_the_best_policys():
    random, best = np.array([0.0, 4.0]), np.array([9.0, 11.0])
    assert trajectory_quality(random, random, best.mean()) == 0
    assert trajectory_quality(best, random, best.mean()) == 1
    assert trajectory_quality(np.array([6.0]), random, 10.0) == 0.5
    assert trajectory_quality(np.array([18.0]), random, 10.0) == 2
    with pytest.raises(ValueError, match=r"best must exceed .* return of 2, got 2"):
        trajectory_quality(random, random, 2)


def test_coverage_counts_distinct_bins_in_the_replay_datas_limits():
    # Bins of the replay data are a tenth wide: [0, 10] in a hundred.
    replay = np.array([[0.0], [10.0], [5.0], [2.5]])
    expert = np.array([[5.01], [5.02], [5.09], [5.0]])
    beyond = np.array([[10.0], [11.0], [900.0], [9.95]])
    assert coverage(expert, replay)[0] == 1 / 4
    assert coverage(beyond, replay)[0] == 1 / 4
    assert coverage(expert, replay)[1] == 0  # log 1 / log 4
    assert coverage(replay, replay) == (1, 1)


@pytest.mark.parametrize("dims", [2, 8, 9, 23])
def test_replay_data_cover_themselves_and_an_expert_much_less(dims):
    replay = pairs(3000, dims)
    assert coverage(replay, replay) == (1, 1)
    expert = np.tile(pairs(30, dims, seed=1), (100, 1))
    expert += 1e-6 * pairs(3000, dims, seed=2)
    assert coverage(expert, replay)[0] < 0.1


def test_wider_behaviour_covers_more_also_where_it_is_projected():
    replay = np.random.default_rng(0).standard_normal((20_000, 23))
    found = [coverage(pairs(20_000, 23, seed=1, scale=s), replay)[0] for s in (0.02, 0.1, 1.0)]
    assert found[0] < 0.8 * found[1]
    assert found[1] < found[2]


@given(seed=st.integers(0, 2**16), dims=st.integers(1, 12), repeats=st.integers(1, 3))
def test_order_does_not_count_and_what_is_repeated_counts_once(seed, dims, repeats):
    rows, replay = pairs(40, dims, seed=seed), pairs(200, dims, seed=seed + 1)
    again = np.repeat(rows, repeats, axis=0)
    shuffled = np.random.default_rng(seed).permutation(again)
    low, high = replay.min(0), replay.max(0)
    alone = measures._distinct(rows, low, high)
    assert measures._distinct(again, low, high) == alone == measures._distinct(shuffled, low, high)
    assert coverage(shuffled, np.tile(replay, (repeats, 1))[: len(again)])[0] >= 0


def test_no_more_pairs_are_counted_of_one_set_than_of_the_other():
    replay, large = pairs(50, 2), pairs(5000, 2, seed=1)
    assert coverage(large, replay)[0] <= 50 / 40


def test_a_number_that_never_changes_counts_as_one_bin():
    replay = np.column_stack([np.linspace(0, 1, 10), np.full(10, 3.0)])
    assert coverage(replay, replay) == (1, 1)


def test_sets_of_another_task_and_sets_without_rewards_are_refused():
    with pytest.raises(ValueError, match="have 2 numbers, those of the replay data 3"):
        coverage(pairs(4, 2), pairs(4, 3))
    bare = Some([Episode(np.zeros((2, 1)), np.zeros((2, 1)), "go")])
    with pytest.raises(DataError, match="E_DATA_REWARD: episode 0: has no rewards"):
        returns_of(bare)


def test_a_set_is_measured_without_references_and_with_them():
    bare = measure(episodes(1, 3))
    assert (bare.num_episodes, bare.num_steps, bare.mean_return) == (2, 4, 2)
    assert (bare.quality, bare.coverage) == (None, None)
    found = measure(episodes(1, 3), random=episodes(0), best=4.0, replay=episodes(1, 3))
    assert (found.quality, found.coverage, found.log_coverage) == (0.5, 1, 1)


def test_the_command_prints_what_it_was_given_references_for(tmp_path, capsys):
    for name, returns in (("random", [0, 0]), ("data", [2, 2])):
        with LeRobotWriter(tmp_path / name, spec=Some.spec) as writer:
            for i, each in enumerate(episodes(*returns)):
                writer.add(str(i), each)
            writer.finalize()
    data, random = str(tmp_path / "data"), str(tmp_path / "random")
    assert main(["measures", data, "--random", random, "--best", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["quality"], found["coverage"]) == (0.25, None)
    assert main(["measures", data, "--replay", data]) == 0
    printed = capsys.readouterr().out
    assert "SACo  1" in printed
    assert "TQ" not in printed
    assert main(["measures", data, "--best", "8"]) == 2
    assert "TQ needs both --random SET and --best RETURN" in capsys.readouterr().err
