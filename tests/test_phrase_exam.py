"""Held-out errors of phrases and of the actions that obey them, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from embodied.data.asked import Told
from embodied.data.windows import Windows
from embodied.noise import Noise
from embodied.phrase_exam import examine
from embodied.policies.hierarchical import HierarchicalPolicy
from embodied.structs import Annotation, Batch, Condition, Metrics, Observation, Spec

WORDS = ("zero", "one", "two", "three")


class Counting(HierarchicalPolicy):
    """Does the number that its phrase names; chooses the word of the number that it sees, plus
    `shift`."""

    def __init__(self, shift: int = 0, flat: bool = False) -> None:
        nn.Module.__init__(self)
        self.spec = Spec(1, 1, (-9.0,), (9.0,), 10.0)
        self.obs_horizon, self.pred_horizon, self.shift = 1, 2, shift
        self.phrase_level = None if flat else nn.Identity()  # type: ignore[assignment]
        self.weight = nn.Parameter(torch.zeros(1))

    def labelled(self, batch: Batch) -> Batch:
        return batch

    def phrases(self, observation: Observation, condition: Condition) -> tuple[str, ...]:
        return tuple(WORDS[int(x) + self.shift] for x in observation.state[:, -1, 0])

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        words = condition.motion or ("zero",) * len(observation.state)
        numbers = torch.tensor([float(WORDS.index(word)) for word in words])
        return numbers[:, None, None].expand(-1, 2, 1)

    def loss(self, batch: Batch, *, noise: Noise) -> tuple[Tensor, Metrics]:
        raise NotImplementedError


def counted(words: Sequence[str] = WORDS, ahead: int = 0) -> Windows:
    """One episode of 0, 1, 2, 3: that is its state, its action, and in words its phrase."""
    values = torch.arange(4.0)[:, None]
    notes = [[Annotation("motion", word, t) for t, word in enumerate(words)]]
    windows = Windows(
        {"state": values, "action": values}, torch.tensor([4]), ["count"], notes=notes
    )
    return windows.asking(Told(phrases="motion", ahead=ahead))


def figures(policy: Any, windows: Windows) -> list[float | None]:
    found = examine(policy, windows)
    accuracy = None if found.accuracy is None else float(found.accuracy[0])
    return [float(found.told[0]), float(found.own[0]), accuracy]


def test_with_the_right_phrases_only_the_next_step_is_wrong() -> None:
    # Chunks 01 12 23 3-: the second step is off by 1 in the three chunks that have one.
    assert figures(Counting(), counted()) == [pytest.approx(3 / 7), pytest.approx(3 / 7), 1.0]


def test_wrong_phrases_of_its_own_cost_it_what_they_say() -> None:
    windows = counted(("one", "one", "three", "three"))
    # Told 1 1 3 3 for 01 12 23 3: 1+0, 0+1, 1+0, 0. Own are 0 1 2 3, two of them as recorded.
    assert figures(Counting(), windows) == [pytest.approx(3 / 7), pytest.approx(3 / 7), 0.5]


def test_phrases_ahead_are_obeyed_when_their_time_has_come() -> None:
    # Seen one step before, and one more: the word of the frame itself, from the second frame on.
    found = figures(Counting(shift=1), counted(ahead=1))
    assert found == [pytest.approx(2 / 5), pytest.approx(2 / 5), 1.0]
    # Without the one more it lags: 0 1 2 for chunks 12 23 3.
    assert figures(Counting(), counted(ahead=1))[1:] == [pytest.approx((1 + 4 + 1 + 4 + 1) / 5), 0]


def test_a_flat_policy_is_told_nothing() -> None:
    found = figures(Counting(flat=True), counted())
    expected = (0 + 1 + 1 + 4 + 4 + 9 + 9) / 7
    assert found == [pytest.approx(expected), pytest.approx(expected), None]


def test_the_difference_to_a_flat_policy_is_paired() -> None:
    two, flat = (examine(Counting(flat=flat), counted()) for flat in (False, True))
    found = two.against(flat)
    assert found["mse_own_phrases"]["mean"] == pytest.approx((3 - 28) / 7)
    assert two.figures()["motion_accuracy"]["mean"] == 1.0
    assert flat.figures()["motion_accuracy"] is None


def test_windows_without_phrases_are_refused() -> None:
    values = torch.zeros(4, 1)
    windows = Windows({"state": values, "action": values}, torch.tensor([4]), ["count"])
    with pytest.raises(ValueError, match=r"no phrases; ask them so: told.phrases=motion"):
        examine(Counting(), windows)


def test_frames_are_spread_evenly() -> None:
    few = examine(Counting(), counted(("zero", "zero", "zero", "three")), frames=2)
    assert np.allclose(few.accuracy, 1.0)  # the first and the last frame alone
