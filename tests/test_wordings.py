"""Which words mean the same, which are held out, and which episodes with them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied.data.wordings import Wordings, gather_wordings, hold_out, split_episodes

SEVERAL = [("lift it", "pick it up", "raise it", "take it"), ("stop",)]


def test_wordings_that_share_an_episode_mean_the_same() -> None:
    found = gather_wordings([("a", "b"), ("c",), ("b", "d"), ("c", "e"), ("f",)])
    assert found.groups == (("a", "b", "d"), ("c", "e"), ("f",))
    assert found.like("d") == ("a", "b", "d")
    assert found.others("c") == ("a", "f")


def test_nothing_held_out_by_default_and_rewording_is_a_choice() -> None:
    words = hold_out(gather_wordings(SEVERAL), 0.0, seed=0)
    assert words.held_out == frozenset()
    assert words.rewordings(reword=True)["take it"] == SEVERAL[0]
    assert words.rewordings(reword=False)["take it"] == ("take it",)


@given(fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_held_out_wordings_are_never_said_in_training(fraction: float, seed: int) -> None:
    words = hold_out(gather_wordings(SEVERAL), fraction, seed)
    unseen = words.unseen("lift it")
    assert 1 <= len(unseen) <= 3
    assert words.trained("stop") == ("stop",)  # or else nobody would learn what it means
    for reword in (True, False):
        said = words.rewordings(reword=reword)
        assert not {text for texts in said.values() for text in texts} & set(unseen)


def test_where_every_meaning_has_one_wording_some_are_held_out_with_their_episodes() -> None:
    texts = [f"task {i % 5}" for i in range(20)]
    words = hold_out(gather_wordings([(text,) for text in texts]), 0.4, seed=1)
    assert len(words.held_out) == 2
    train, held_out = split_episodes(texts, words, 0.1, seed=1)
    assert sorted([*train, *held_out]) == list(range(20))
    assert not {texts[i] for i in train} & words.held_out
    assert {i for i, text in enumerate(texts) if text in words.held_out} < set(held_out)


def test_episodes_are_split_by_the_seed() -> None:
    texts = ["go"] * 30
    words = gather_wordings([("go",)])
    splits = [split_episodes(texts, words, 0.1, seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]
    assert [len(part) for part in splits[0]] == [27, 3]


def test_a_fraction_too_small_still_holds_one_out_and_one_episode_is_trained_on() -> None:
    words = gather_wordings([("go",)])
    assert [len(x) for x in split_episodes(["go"] * 3, words, 0.01, 0)] == [2, 1]
    assert [len(x) for x in split_episodes(["go"] * 2, words, 0.99, 0)] == [1, 1]
    assert split_episodes(["go"], words, 0.5, 0) == ([0], [])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_fractions_that_leave_nothing_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"val_fraction must lie in \(0, 1\)"):
        split_episodes(["go"], Wordings((("go",),)), fraction, 0)
    if fraction:
        with pytest.raises(ValueError, match=r"held_out_wordings must lie in \[0, 1\)"):
            hold_out(Wordings((("go",),)), fraction, 0)
