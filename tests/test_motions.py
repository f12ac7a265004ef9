"""Language motions: rules worked out by hand, and a grammar that round-trips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied.data.motions import STILL, Axis, MotionGrammar

AXES = (
    Axis("move arm forward", "move arm backward", 0.02),
    Axis("move arm up", "move arm down", 0.02),
    Axis("open gripper", "close gripper", 0.2),
)
GRAMMAR = MotionGrammar(AXES)


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ((0.05, 0.0, 0.0), "move arm forward"),
        ((0.03, -0.06, 0.0), "move arm down and move arm forward"),
        ((0.0199, -0.0199, 0.1999), STILL),
        ((0.03, 0.0, -1.0), "close gripper and move arm forward"),  # 5 thresholds before 1.5
        ((-0.02, 0.0, 0.0), "move arm backward"),
    ],
)
def test_the_largest_change_is_named_first_and_small_ones_not_at_all(
    change: tuple[float, ...], phrase: str
) -> None:
    assert GRAMMAR.describe(np.array(change)) == phrase


terms = st.permutations(range(3)).flatmap(
    lambda axes: st.lists(st.sampled_from([-1, 1]), max_size=3).map(
        lambda signs: tuple(zip(axes, signs, strict=False))
    )
)


@settings(max_examples=50, deadline=None)
@given(terms)
def test_every_phrase_means_the_terms_that_it_was_made_of(
    spoken: tuple[tuple[int, int], ...],
) -> None:
    assert GRAMMAR.terms(GRAMMAR.phrase(spoken)) == spoken


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_a_description_means_the_signs_of_what_exceeds_its_threshold(change: list[float]) -> None:
    wanted = {
        (i, int(np.sign(x)))
        for i, (x, axis) in enumerate(zip(change, AXES, strict=True))
        if abs(x) / axis.threshold >= 1
    }
    assert set(GRAMMAR.terms(GRAMMAR.describe(np.array(change)))) == wanted


def test_labels_look_ahead_but_not_past_the_end() -> None:
    pose = np.array([[0, 0, 1], [0.01, 0, 1], [0.02, 0, 1], [0.02, 0, 0]], float)
    assert GRAMMAR.label(pose, horizon=2) == [
        "move arm forward",
        "close gripper",
        "close gripper",
        STILL,
    ]


def test_an_unknown_phrase_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="nearest is 'move arm up'"):
        GRAMMAR.terms("move arm upp")
    with pytest.raises(ValueError, match="twice"):
        GRAMMAR.terms("move arm up and move arm down")


@pytest.mark.parametrize(
    "axes",
    [
        (),
        (Axis("up", "up", 1.0),),
        (Axis("up", "down", 0.0),),
        (Axis("up and away", "down", 1.0),),
        (Axis(STILL, "down", 1.0),),
    ],
)
def test_axes_that_could_not_be_told_apart_are_refused(axes: tuple[Axis, ...]) -> None:
    with pytest.raises(ValueError, match="words"):
        MotionGrammar(axes)


def test_a_pose_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pose must be \(L, 3\), got shape \(4, 2\)"):
        GRAMMAR.label(np.zeros((4, 2)), 1)
