"""Open-loop errors against values worked out by hand, and the ways of asking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from embodied.data.goals import Goals
from embodied.data.windows import Windows
from embodied.data.wordings import Wordings
from embodied.exam import Exam
from embodied.noise import Noise
from embodied.open_loop import Errors, Probe, some_evenly
from embodied.policies.base import Policy
from embodied.structs import Batch, Condition, Metrics, Observation, Spec
from tests.test_windows import Recorded


class Constant(Policy):
    """Always predicts one number, and remembers what it was asked."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.spec = Spec(2, 1, (-100.0,), (100.0,), 10.0)
        self.obs_horizon, self.pred_horizon = 1, 3
        self.value = nn.Parameter(torch.tensor(value))
        self.asked: list[Condition] = []

    def loss(self, batch: Batch, *, noise: Noise) -> tuple[Tensor, Metrics]:
        return 2 * self.value, {}

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        self.asked.append(condition)
        return self.value.expand(len(observation.state), 3, 1)

    def fit_normalizers(self, *args: Any) -> None:
        pass


def probe(lengths: list[int], held_out: list[int], **changes: Any) -> Probe:
    """Actions of episode i are 10 i, 10 i + 1, and so on; the others are trained on."""
    windows = Windows.load(Recorded(lengths), label="action")
    train = [i for i in range(len(lengths)) if i not in held_out]
    chosen = {"windows": windows.select(held_out), "train": windows.select(train)}
    return Probe(**chosen, obs_horizon=1, pred_horizon=3, **changes)


def test_errors_by_hand() -> None:
    # Trained on 0, 1, 2, 3, 4: half the range is 2. Held out: 10, 11, 12, 13.
    found = probe([5, 4], [1]).measure(Constant(12.0), {0: "go"})
    # From frame 1: 11, 12, 13; from 2: 12, 13; from 3: 13. Errors 1 0 1, 0 1, 1.
    assert found.total[0, :, 0].tolist() == [2.0, 1.0, 1.0]
    assert found.count[0].tolist() == [3.0, 2.0, 1.0]
    assert found.scale.tolist() == [2.0]
    assert found.mean().mean == pytest.approx(4 / 6 / 2)
    assert found.per_dimension()[0].mean == pytest.approx(4 / 6)
    assert [step.mean for step in found.per_step()] == pytest.approx([1 / 3, 1 / 4, 1 / 2])
    assert found.loss is not None
    assert found.loss.tolist() == [24.0]


def test_baselines_by_hand() -> None:
    asked = probe([5, 4], [1])
    assert asked.baselines == ("hold_last_action", "mean_action")
    hold = asked.baseline("hold_last_action", [0])
    # The action before each frame misses the next ones by 1, 2 and 3.
    assert hold.total[0, :, 0].tolist() == [3.0, 4.0, 3.0]
    mean = asked.baseline("mean_action", [0])
    assert mean.total[0, :, 0].tolist() == [9 + 10 + 11, 10 + 11, 11]


@pytest.mark.parametrize(("offset", "is_target"), [(0.5, True), (50.0, False)])
def test_the_state_is_a_baseline_where_actions_are_its_targets(
    offset: float, is_target: bool
) -> None:
    state = torch.arange(10.0)[:, None]
    columns = {"state": state, "action": state + offset}
    windows = Windows(columns, torch.tensor([5, 5]), ["go", "go"])
    asked = Probe(windows.select([1]), windows.select([0]), obs_horizon=1, pred_horizon=3)
    assert ("hold_state" in asked.baselines) is is_target
    if is_target:  # half an action's distance behind, and one more for each step ahead
        total = asked.baseline("hold_state", [0]).total[0, :, 0]
        assert total.tolist() == [4 * 0.5, 3 * 1.5, 2 * 2.5]


def test_a_policy_is_compared_on_the_same_episodes() -> None:
    asked = probe([5, 4, 4], [1, 2])
    policy = asked.measure(Constant(12.0), {1: "go"})
    hold = asked.baseline("hold_last_action", [0, 1]).only(np.array([False, True]))
    expected = policy.per_episode()[0] - hold.per_episode()[0]
    assert policy.minus(hold).mean == pytest.approx(expected)


def test_frames_are_spread_over_an_episode_and_begin_with_its_second() -> None:
    asked = probe([3, 101], [1], frames=5)
    assert (asked.frames_of(0) - 3).tolist() == [1, 26, 50, 75, 100]
    assert (probe([3, 3], [1], frames=5).frames_of(0) - 3).tolist() == [1, 2]


def test_episodes_of_one_step_are_left_out() -> None:
    assert probe([3, 1, 2], [1, 2]).episodes == (1,)
    with pytest.raises(ValueError, match=r"no held-out episode has two steps"):
        probe([3, 1], [1])


def test_the_goal_is_the_end_of_the_episode() -> None:
    policy = Constant(0.0)
    probe([3, 4], [1], goals=Goals()).measure(policy, {0: None})
    (condition,) = policy.asked
    assert condition.language is None
    assert condition.goal is not None
    assert condition.goal.state[:, 0].tolist() == [[1.0, 3.0]] * 3


def test_a_trace_predicts_anew_after_each_executed_chunk() -> None:
    class Counting(Constant):
        def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
            return observation.state[:, -1:, 1:] + torch.arange(3)[None, :, None]

    asked = probe([3, 5], [1])
    assert asked.trace(Counting(0.0), 0, "go", 2)[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert asked.recorded(0)[:, 0].tolist() == [10.0, 11.0, 12.0, 13.0, 14.0]


def test_constant_dimensions_are_not_scaled_up() -> None:
    total, count = np.full((1, 2, 2), 3.0), np.full((1, 2), 1.0)
    found = Errors(total, count, scale=np.array([1.0, 6.0]))
    assert found.per_episode().tolist() == [(3.0 + 0.5) / 2]
    assert probe([1, 2], [1]).scale.tolist() == [1.0]


def exam(groups: tuple[tuple[str, ...], ...], held_out: set[str], texts: list[str]) -> Exam:
    lengths = [3, *[2] * len(texts)]
    words = Wordings(groups, frozenset(held_out))
    asked = probe(lengths, list(range(1, len(lengths))))
    return Exam(asked, words, texts, list(range(len(texts))))


def test_every_way_of_asking_says_what_it_should() -> None:
    groups = (("lift", "raise"), ("stop", "halt"))
    ways = exam(groups, {"raise"}, ["lift", "raise", "halt"]).texts()
    assert ways["recorded"] == {0: "lift", 1: "lift", 2: "halt"}
    assert ways["held_out_wordings"] == {0: "raise", 1: "raise"}
    assert ways["wrong_instruction"] == {0: "stop", 1: "stop", 2: "lift"}
    assert ways["none"] == {0: None, 1: None, 2: None}


def test_ways_that_do_not_exist_are_not_asked() -> None:
    assert set(exam((("go",),), set(), ["go"]).texts()) == {"recorded", "none"}
    # A meaning that was never trained on is asked only as such.
    ways = exam((("go",), ("stop",)), {"stop"}, ["stop"]).texts()
    assert set(ways) == {"held_out_wordings", "wrong_instruction", "none"}


def test_some_are_spread_evenly() -> None:
    assert list(some_evenly(range(9), 3)) == [0, 4, 8]
    assert list(some_evenly([5], 3)) == [5]
    assert list(some_evenly([5, 6], 0)) == []
