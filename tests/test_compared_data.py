"""Comparisons on their way to learners: who is asked, what is held out, what batches hold."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from embodied.compared_source import Compared
from embodied.data.asking import ask
from embodied.data.compared import Stretches, pairs_of, take
from embodied.data.held_out import hold_out, linked
from embodied.data.preferences import Comparisons, Preferences, Segments
from embodied.data.teachers import Teacher
from embodied.early_stop import EarlyStop
from embodied.sources import Source
from embodied.structs import Batch, Condition, Episode, Observation

CPU = torch.device("cpu")


def preferences(first: list[int], second: list[int], length: int = 2) -> Preferences:
    sides = [Segments(np.array(x), np.zeros(len(x), np.int64), length) for x in (first, second)]
    label = (np.arange(len(first)) % 2).astype(np.float32)
    return Preferences(sides[0], sides[1], label, ("ann",) * len(first))


def test_pairs_are_linked_through_others() -> None:
    found = linked(preferences([0, 1, 5, 7, 3], [1, 2, 6, 8, 2]))
    assert found[0] == found[1] == found[4]
    assert len({found[0], found[2], found[3]}) == 3


def episodes_of(part: Preferences) -> set[int]:
    return set(part.first.episode.tolist()) | set(part.second.episode.tolist())


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=12, max_size=40),
    st.integers(0, 5),
)
def test_what_is_held_out_shares_no_episode_with_what_is_learned(
    pairs: list[tuple[int, int]], seed: int
) -> None:
    said = preferences([a for a, _ in pairs], [b for _, b in pairs])
    assume(len(set(linked(said).tolist())) > 2)
    learned, kept = hold_out(said, 0.25, seed=seed)
    assert len(learned) + len(kept) == len(pairs)
    assert 0 < len(kept) <= 0.5 * len(pairs)
    assert not episodes_of(learned) & episodes_of(kept)


@pytest.mark.parametrize("share", [0.2, 0.34, 0.5])
def test_over_all_folds_each_pair_is_held_out_once(share: float) -> None:
    said = preferences(list(range(0, 40, 2)), list(range(1, 41, 2)))
    folds = round(1 / share)
    kept = [hold_out(said, share, fold)[1] for fold in range(folds)]
    held = [episode for part in kept for episode in part.first.episode.tolist()]
    assert sorted(held) == sorted(set(held))
    assert set(held) == set(range(0, 40, 2))


def test_pairs_that_are_all_linked_are_divided_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = preferences([0] * 10, list(range(1, 11)))
    with caplog.at_level(logging.WARNING):
        learned, kept = hold_out(said, 0.2)
    assert (len(learned), len(kept)) == (8, 2)
    assert "linked by the episodes that they share" in caplog.text


@pytest.mark.parametrize(("share", "fold"), [(0.0, 0), (1.0, 0), (0.2, 5), (0.2, -1)])
def test_a_fold_that_does_not_exist_is_refused(share: float, fold: int) -> None:
    with pytest.raises(ValueError, match="held_out must lie in"):
        hold_out(preferences([0, 2, 4, 6], [1, 3, 5, 7]), share, fold)


def test_a_fold_with_nothing_or_almost_all_in_it_is_refused() -> None:
    linked_all = preferences([0] * 9 + [20], [*range(1, 10), 21])
    with pytest.raises(ValueError, match="choose another fold"):
        hold_out(linked_all, 0.2, 2)


def walk(rewards: list[float], *, final: bool = True, offset: float = 0.0) -> Episode:
    """States count the steps."""
    n = len(rewards)
    states = np.arange(n + 1, dtype=np.float32)[:, None] + offset
    return Episode(
        states[:-1],
        np.zeros((n, 1), np.float32),
        "go",
        reward=np.array(rewards, np.float32),
        final={"state": states[-1]} if final else {},
    )


class Recorded(list[Episode]):
    """Episodes enough for what asks about them."""


@pytest.mark.parametrize("of", ["return", "regret"])
def test_a_teacher_prefers_the_higher_sum(of: str) -> None:
    """With V = 0 the advantages are the rewards."""
    rng = np.random.default_rng(0)
    each = Recorded(walk(rng.normal(size=8).tolist()) for _ in range(12))
    values = (lambda states: np.zeros(len(states))) if of == "regret" else None
    said = ask(each, teacher=Teacher(), num_pairs=50, length=3, of=of, values=values)  # type: ignore[arg-type]
    sums = [side.take([x.reward for x in each]).sum(1) for side in (said.first, said.second)]
    expected = 0.5 * (1 + np.sign(sums[1] - sums[0]))  # a segment may meet itself, a tie
    np.testing.assert_array_equal(said.second_better, expected)
    learned, kept = hold_out(said, 0.2)
    assert (len(learned), len(kept)) == (40, 10)
    assert not episodes_of(learned) & episodes_of(kept)


def test_regret_is_of_the_oracle_and_not_of_the_reward() -> None:
    """V rises by 2 a step and discount is 0.5: A = r + 0.5 V' - V = r + 1 - V / 2, where V = 2 s;
    so early segments are better than late ones, whatever these earn."""
    each = Recorded(walk([0.1 * step for step in range(9)]) for _ in range(10))
    said = ask(
        each,  # type: ignore[arg-type]
        teacher=Teacher(),
        num_pairs=60,
        length=2,
        values=lambda states: 2 * states[:, 0],
        discount=0.5,
    )
    sign = np.sign(said.first.start - said.second.start)
    np.testing.assert_array_equal(said.second_better, 0.5 * (1 + sign))


def test_a_step_whose_successor_is_unknown_is_not_asked_about() -> None:
    each = Recorded(walk([0.0] * 4, final=False) for _ in range(10))
    with pytest.raises(ValueError, match=r"length must lie in \[1, 3\]"):
        ask(each, teacher=Teacher(), num_pairs=9, length=4, values=lambda s: s[:, 0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"of": "taste"}, "comparisons.of must be 'return' or 'regret', got 'taste'"),
        ({"of": "regret"}, "source.critic"),
        ({"of": "return", "values": lambda s: s[:, 0]}, "leave it null"),
    ],
)
def test_a_teacher_without_an_oracle_is_named(options: dict[str, Any], says: str) -> None:
    each = Recorded(walk([0.0] * 4) for _ in range(4))
    with pytest.raises(ValueError, match=says):
        ask(each, teacher=Teacher(), num_pairs=4, length=2, **options)  # type: ignore[arg-type]


def test_episodes_without_rewards_are_for_people() -> None:
    bare = Recorded(dataclasses.replace(walk([0.0] * 4), reward=None) for _ in range(4))
    with pytest.raises(ValueError, match=r"E_DATA_REWARD.*scripts/label\.py"):
        ask(bare, teacher=Teacher(), num_pairs=4, length=2, of="return")  # type: ignore[arg-type]


def compared(count: int = 6) -> Comparisons:
    rng = np.random.default_rng(0)
    state, action = (rng.normal(size=(count, 2, 3, 1)).astype(np.float32) for _ in range(2))
    return Comparisons(state, action, rng.random(count).astype(np.float32))


def test_pairs_keep_their_sides_and_labels() -> None:
    comparisons = compared()
    some = take(pairs_of(comparisons, "go", CPU), torch.tensor([4, 1]))
    np.testing.assert_array_equal(some.first.state, comparisons.state[[4, 1], 0])
    np.testing.assert_array_equal(some.second.action, comparisons.action[[4, 1], 1])
    np.testing.assert_array_equal(some.second_better, comparisons.second_better[[4, 1]])
    assert some.second.told == ("go", "go")


def test_a_stretch_never_leaves_its_episode() -> None:
    lengths = (3, 5, 2)
    states = [np.full((n, 1), i, np.float32) for i, n in enumerate(lengths)]
    actions = [np.arange(n, dtype=np.float32)[:, None] for n in lengths]
    drawn = Stretches(states, actions, length=4, told="go", device=CPU).draw(
        200, torch.Generator().manual_seed(0)
    )
    assert (drawn.state == drawn.state[:, :1]).all()
    left = torch.tensor(lengths)[drawn.state[:, 0, 0].long()] - drawn.action[:, 0, 0].long()
    torch.testing.assert_close(drawn.mask.sum(1), left.clamp(max=4))
    steps = drawn.action[..., 0].diff(dim=1)
    assert (steps == drawn.mask[:, 1:]).all()  # one further while it lasts, then its last step


class Steps(Source):
    """Batches that tell their number."""

    batch_size = 1

    def __init__(self) -> None:
        self.position = 0

    def __next__(self) -> Batch:
        self.position += 1
        empty = torch.full((1, 1, 1), float(self.position))
        return Batch(Observation(empty), Condition(), empty, torch.ones(1, 1, dtype=torch.bool))

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def source(seed: int = 0, num_pairs: int = 3) -> Compared:
    pairs = pairs_of(compared(), "go", CPU)
    states = [np.arange(7, dtype=np.float32)[:, None]] * 2
    loose = Stretches(states, states, length=3, told="go", device=CPU)
    return Compared(Steps(), pairs, pairs, loose, num_pairs=num_pairs, seed=seed, facts={"x": 1.0})


def test_a_source_goes_on_to_the_bit_and_depends_on_its_seed() -> None:
    first, second = source(), source()
    for _ in range(3):
        next(first)
    second.load_state_dict(first.state_dict())
    a, b, other = next(first), next(second), next(source(seed=1))
    assert a.pairs is not None
    assert b.pairs is not None
    assert a.segments is not None
    assert b.segments is not None
    assert a.pairs.first.state.equal(b.pairs.first.state)
    assert a.segments.state.equal(b.segments.state)
    assert a.action.item() == b.action.item() == 4
    assert other.pairs is not None
    assert not a.pairs.second_better.equal(other.pairs.second_better)
    assert first.take_metrics() == {"x": 1.0}
    with pytest.raises(ValueError, match="has seed 1, the saved one 0"):
        source(seed=1).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="num_pairs must be at least 1"):
        source(num_pairs=0)


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(value)}


def test_the_best_weights_are_kept_and_training_ends_when_patience_does() -> None:
    stop = EarlyStop(patience=2, after=10)
    for step, value in ((0, 0.9), (10, 0.2), (20, 0.5), (30, 0.5)):
        stop.see({"eval/success": value}, step, weights(step))
    assert (stop.step, stop.value, stop.misses, stop.is_over) == (20, 0.5, 1, False)
    stop.see({"eval/return": 7.0}, 35, weights(35))  # says nothing of success
    assert not stop.is_over
    stop.see({"eval/success": 0.4}, 40, weights(40))
    assert stop.is_over
    assert stop.weights["w"] == 20


def test_keeping_account_survives_a_restart_and_changes_no_weight() -> None:
    stop, mine = EarlyStop(), weights(1.0)
    stop.see({"eval/success": 0.5}, 0, mine)
    mine["w"] += 5
    again = EarlyStop()
    again.load_state_dict(*stop.state_dict())
    assert (again.weights["w"], again.value, again.step) == (1.0, 0.5, 0)
    fresh = EarlyStop()
    fresh.load_state_dict(*EarlyStop().state_dict())
    assert fresh.value == float("-inf")


@pytest.mark.parametrize("options", [{"measure": "loss"}, {"patience": 0}])
def test_an_early_stop_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"train\.early_stop\.measure"):
        EarlyStop(**options)
