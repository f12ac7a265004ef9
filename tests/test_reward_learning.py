"""Rewards from comparisons: the loss, what is reported of it, and that it finds the true reward."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embodied.data.preferences import Comparisons
from embodied.data.teachers import Teacher
from embodied.networks.rewards import RewardEnsemble
from embodied.objectives.bradley_terry import (
    accuracy,
    bradley_terry,
    calibration_error,
    excess,
    label_entropy,
    preference_logits,
    reward_loss,
)
from embodied.reward_learning import fit_rewards, judge_rewards

S, A, T = 3, 1, 5


def test_the_loss_of_a_pair_is_worked_out() -> None:
    rewards = torch.tensor([[[0.5, 0.5, -1.0], [0.1, 0.2, 0.3]]])  # sums 0 and 0.6
    logits = preference_logits(rewards)
    assert logits.tolist() == pytest.approx([0.6])
    for label in (0.0, 0.5, 1.0, 0.3):
        p = 1 / (1 + math.exp(-0.6))
        expected = -label * math.log(p) - (1 - label) * math.log(1 - p)
        found = bradley_terry(logits, torch.tensor([label]))
        assert found.tolist() == pytest.approx([expected], abs=1e-6)


@given(st.floats(-20, 20), st.floats(0, 1))
def test_the_excess_is_a_divergence(logit: float, label: float) -> None:
    said = torch.tensor([label], dtype=torch.float64)
    found = float(excess(torch.tensor([logit], dtype=torch.float64), said))
    assert found >= -1e-9
    if 0.01 < label < 0.99:
        exact = torch.logit(said)
        assert float(excess(exact, said)) == pytest.approx(0.0, abs=1e-9)


def test_sure_labels_have_no_entropy_and_ties_the_most() -> None:
    found = label_entropy(torch.tensor([0.0, 1.0, 0.5]))
    assert found.tolist() == pytest.approx([0, 0, math.log(2)])


def test_members_of_an_ensemble_learn_apart() -> None:
    rewards = torch.randn(3, 4, 2, T, requires_grad=True)
    label = torch.tensor([0.0, 1.0, 0.5, 0.2])
    loss, metrics = reward_loss(rewards, label)
    alone = sum(reward_loss(rewards[i : i + 1], label)[0] for i in range(3))
    assert torch.allclose(loss, torch.as_tensor(alone))
    assert float(metrics["reward/loss"]) == pytest.approx(float(loss.detach()) / 3)


def test_accuracy_counts_no_ties() -> None:
    logits = torch.tensor([1.0, -1.0, 1.0, 2.0])
    assert float(accuracy(logits, torch.tensor([1.0, 0.0, 0.0, 0.5]))) == pytest.approx(2 / 3)
    assert math.isnan(float(accuracy(logits, torch.full((4,), 0.5))))


def test_calibration_compares_what_is_said_with_what_was_foretold() -> None:
    # Two bins: 0.8 foretold where 3 of 4 are 1 (gap 0.05), 0.1 where 1 of 2 (gap 0.4).
    probability = torch.tensor([0.8] * 4 + [0.1] * 2)
    label = torch.tensor([1.0, 1, 1, 0, 0, 1])
    assert float(calibration_error(probability, label)) == pytest.approx((4 * 0.05 + 2 * 0.4) / 6)
    assert float(calibration_error(torch.tensor([1.0]), torch.tensor([1.0]))) == 0.0
    # In one bin both gaps point apart: 0.2 and -0.8 of six.
    assert float(calibration_error(probability, label, num_bins=1)) == pytest.approx(0.6 / 6)
    with pytest.raises(ValueError, match="num_bins"):
        calibration_error(probability, label, num_bins=0)


def compared(count: int, teacher: Teacher, seed: int = 0) -> Comparisons:
    """Random segments; the true reward is the state's first number less the action."""
    draw = np.random.default_rng(seed)
    state = draw.standard_normal((count, 2, T, S)).astype(np.float32)
    action = draw.uniform(-1, 1, (count, 2, T, A)).astype(np.float32)
    said = teacher.label(state[..., 0] - action[..., 0], usual_return=1.0, rng=draw)
    return Comparisons(state, action, said.second_better)


def ensemble(**options: Any) -> RewardEnsemble:
    torch.manual_seed(0)
    return RewardEnsemble(S, A, **{"num_members": 3, "hidden": (16, 16), **options})


def fit(model: RewardEnsemble, data: Comparisons, **options: Any) -> dict[str, float]:
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return fit_rewards(model, data, optimizer=optimizer, **{"epochs": 30, **options})


def test_comparisons_teach_the_reward_behind_them() -> None:
    model, held_out = ensemble(), compared(500, Teacher(), seed=1)
    before = judge_rewards(model, held_out)["reward/held_out_accuracy"]
    metrics = fit(model, compared(300, Teacher()))
    after = judge_rewards(model, held_out)
    assert before < 0.7
    assert metrics["reward/accuracy"] > 0.85
    assert after["reward/held_out_accuracy"] > 0.85
    state, action = torch.randn(400, S), torch.rand(400, A) * 2 - 1
    found = model(state, action).mean(0).detach()
    truth = state[:, 0] - action[:, 0]
    assert float(torch.corrcoef(torch.stack([found, truth]))[0, 1]) > 0.8


def test_noisy_people_are_foretold_with_doubt() -> None:
    model, teacher = ensemble(), Teacher(beta=1.0)
    fit(model, compared(1000, teacher), epochs=10, target_accuracy=1.1)
    found = judge_rewards(model, compared(1000, teacher, seed=1))
    assert found["reward/calibration_error"] < 0.12
    assert found["reward/held_out_loss"] < math.log(2)


def test_fitting_stops_once_the_labels_are_known() -> None:
    data = compared(40, Teacher())
    known = fit(ensemble(), data, epochs=100, batch_size=8)
    assert known["reward/epochs"] < 100
    never = fit(ensemble(), data, epochs=12, batch_size=8, target_accuracy=1.1)
    assert never["reward/epochs"] == 12


def test_ties_alone_teach_that_returns_are_equal() -> None:
    data = compared(64, Teacher())
    ties = Comparisons(data.state, data.action, np.full(64, 0.5, np.float32))
    model = ensemble()
    metrics = fit(model, ties)
    assert math.isnan(metrics["reward/accuracy"])  # nothing to be right about
    assert metrics["reward/loss"] == pytest.approx(math.log(2), abs=0.01)


def test_the_same_seed_gives_the_same_rewards() -> None:
    found = []
    for _ in range(2):
        model = ensemble()
        fit(model, compared(50, Teacher()), epochs=2)
        found.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_rewards_are_bounded_and_each_member_can_have_its_own_inputs() -> None:
    model = ensemble()
    state, action = 100 * torch.randn(6, 2, T, S), torch.randn(6, 2, T, A)
    rewards = model(state, action)
    assert rewards.shape == (3, 6, 2, T)
    assert float(rewards.detach().abs().max()) <= 1
    own = model.each(state.expand(3, *state.shape), action.expand(3, *action.shape))
    assert torch.allclose(own, rewards, atol=1e-6)


def test_inputs_are_scaled_and_what_does_not_vary_is_left_out() -> None:
    model = ensemble()
    state = torch.randn(500, S) * torch.tensor([100.0, 1.0, 0.0]) + torch.tensor([5.0, 0.0, 7.0])
    action = torch.randn(500, A)
    model.fit_normalizer(state, action)
    before = model(state, action)
    assert torch.allclose(model(state + torch.tensor([0.0, 0.0, 9.0]), action), before)
    inputs = model._inputs(state, action)
    assert torch.allclose(inputs.std(0, correction=0), torch.tensor([1.0, 1, 0, 1]), atol=1e-4)
    assert "mean" in model.state_dict()
