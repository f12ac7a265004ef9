"""Rows of instructions become one batch that remembers who has what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embodied.conditions import GoalImage, GoalState, Language, LanguageMotion, Sketch, stack


def image(value: int, height: int = 2, width: int = 4) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_instructions_alone_give_a_condition_of_words() -> None:
    condition = stack([[Language("push")], [Language("pull")]])
    assert condition.language == ("push", "pull")
    assert condition.present["language"].tolist() == [True, True]
    assert set(condition.present) == {"language"}
    assert (condition.goal, condition.sketch, condition.motion) == (None, None, None)


def test_rows_of_different_modalities_mix_in_one_batch() -> None:
    condition = stack(
        [
            [Language("push"), GoalState(np.array([1.0, 2.0], np.float32))],
            [GoalImage({"top": image(7)})],
            [Sketch(image(9)), LanguageMotion("move left")],
        ]
    )
    assert condition.language == ("push", "", "")
    assert condition.motion == ("", "", "move left")
    assert {name: mask.tolist() for name, mask in condition.present.items()} == {
        "language": [True, False, False],
        "goal_state": [True, False, False],
        "goal_image": [False, True, False],
        "sketch": [False, False, True],
        "motion": [False, False, True],
    }
    assert condition.goal is not None
    assert condition.goal.state.tolist() == [[[1.0, 2.0]], [[0.0, 0.0]], [[0.0, 0.0]]]
    assert condition.goal.images["top"].shape == (3, 1, 3, 2, 4)
    assert condition.goal.images["top"].amax((1, 2, 3, 4)).tolist() == [0, 7, 0]
    assert condition.sketch is not None
    assert condition.sketch.shape == (3, 3, 2, 4)
    assert condition.sketch.dtype == torch.uint8


def test_images_keep_their_pixels_when_channels_move_to_the_front() -> None:
    picture = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    condition = stack([[Sketch(picture)]])
    assert condition.sketch is not None
    assert condition.sketch[0, 2, 1, 3] == picture[1, 3, 2]


def test_an_empty_instruction_is_still_an_instruction() -> None:
    condition = stack([[Language("")], []])
    assert condition.language == ("", "")
    assert condition.present["language"].tolist() == [True, False]


def test_a_goal_image_alone_has_a_state_of_no_width() -> None:
    condition = stack([[GoalImage({"top": image(1)})]])
    assert condition.goal is not None
    assert condition.goal.state.shape == (1, 1, 0)


def test_rows_without_any_part_give_an_empty_condition() -> None:
    condition = stack([[], []])
    assert condition.language is None
    assert condition.present == {}


def test_two_parts_of_one_kind_in_a_row_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 2 parts of kind Language; give at most one"):
        stack([[], [Language("push"), Language("pull")]])


def test_rows_of_different_shapes_are_refused_with_the_field_named() -> None:
    with pytest.raises(ValueError, match=r"sketch must have one shape .* \[\(2, 4, 3\), \(3,"):
        stack([[Sketch(image(0))], [Sketch(image(0, height=3))]])
    short, long = np.zeros(2, np.float32), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="goal state must have one shape"):
        stack([[GoalState(short)], [GoalState(long)]])
