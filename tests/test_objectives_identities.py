"""Which objectives are others in disguise, or under which setting."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embodied.objectives import advantages, denominators, likelihoods, masks, penalties
from embodied.objectives.answers import Answers, labelled
from embodied.objectives.pairs_guided import mnpo
from embodied.objectives.pairs_rewarded import copg, goal_preference, modpo
from embodied.objectives.pairwise import dpo, f_dpo, ipo, sppo, sppo_hard
from embodied.objectives.policy_gradient import PolicyGradient
from embodied.objectives.rollouts import Rollouts
from embodied.objectives.segments import cpl_kl


def pair(seed: int = 0, **fields: Tensor) -> tuple[Answers, Answers]:
    draw = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(8, 3, generator=draw, dtype=torch.float64)

    made = [Answers(normal().requires_grad_(), reference=normal()) for _ in range(2)]
    return made[0], made[1]


def same_gradient(first: Tensor, second: Tensor, *leaves: Tensor, factor: float = 1.0) -> bool:
    ours = torch.autograd.grad(first.sum(), leaves, retain_graph=True)
    theirs = torch.autograd.grad(second.sum(), leaves, retain_graph=True)
    return all(torch.allclose(a, factor * b) for a, b in zip(ours, theirs, strict=True))


def test_copg_of_rewards_half_apart_is_ipo() -> None:
    won, lost = pair()
    won = dataclasses.replace(won, reward=torch.full((8,), 1.7, dtype=torch.float64))
    lost = dataclasses.replace(lost, reward=torch.full((8,), 1.2, dtype=torch.float64))
    for beta in (0.1, 0.7):
        assert torch.allclose(copg(won, lost, beta=beta), 0.5 * beta**2 * ipo(won, lost, beta=beta))


@pytest.mark.parametrize("alpha", [1.0, 1 + 1e-7, 1 - 1e-7])
def test_f_dpo_tends_to_dpo_as_alpha_tends_to_one(alpha: float) -> None:
    won, lost = pair()
    assert torch.allclose(f_dpo(won, lost, divergence=alpha), dpo(won, lost), atol=1e-6)
    assert torch.equal(f_dpo(won, lost, divergence="reverse_kl"), dpo(won, lost))


def test_f_dpo_with_alpha_zero_is_that_with_the_forward_divergence() -> None:
    won, lost = pair()
    assert torch.allclose(
        f_dpo(won, lost, divergence=0.0), f_dpo(won, lost, divergence="forward_kl")
    )


def test_mnpo_against_the_reference_alone_is_ipo() -> None:
    won, lost = pair()
    assert torch.allclose(mnpo(won, lost, eta=0.3, reference_share=1.0), ipo(won, lost, beta=0.3))


def test_modpo_with_one_objective_is_dpo() -> None:
    assert torch.equal(modpo(*pair(), weight=1.0), dpo(*pair()))


def test_modpo_of_other_rewards_that_agree_is_a_sharper_dpo() -> None:
    won, lost = (dataclasses.replace(x, other_rewards=torch.ones(8, 1).double()) for x in pair())
    found = modpo(won, lost, beta=0.1, weight=0.25, other_weights=(0.75,))
    assert torch.allclose(found, dpo(won, lost, beta=0.4))


def test_cpl_kl_without_bias_is_dpo() -> None:
    won, lost = pair()
    assert torch.allclose(cpl_kl(won, lost, alpha=0.2, bias=1.0), dpo(won, lost, beta=0.2))


def test_sppo_of_certain_wins_is_its_hard_form() -> None:
    won, lost = pair()
    won = dataclasses.replace(won, win_rate=torch.ones(8))
    lost = dataclasses.replace(lost, win_rate=torch.zeros(8))
    assert torch.allclose(sppo(won, lost, beta=0.3), sppo_hard(won, lost, beta=0.3))


def test_sppo_pulls_to_the_reference_where_answers_win_half_the_time() -> None:
    won, lost = (dataclasses.replace(x, win_rate=torch.full((8,), 0.5)) for x in pair())
    distance = won.delta().square() + lost.delta().square()
    assert torch.allclose(sppo(won, lost, beta=0.01), distance)


def test_ipo_of_soft_labels_regresses_on_their_mean() -> None:
    won, lost = pair()
    p = torch.rand(8, dtype=torch.float64)  # of the second
    margin = won.delta() - lost.delta()
    regression = (margin - (1 - 2 * p) / (2 * 0.1)).square()
    assert same_gradient(labelled(ipo, won, lost, p), regression, won.log_prob, lost.log_prob)


@given(st.integers(-9, 9), st.integers(-9, 9))
def test_exchanging_the_goal_exchanges_the_label(first: int, second: int) -> None:
    one, other = torch.tensor([first / 4]), torch.tensor([second / 4])
    asked_one = float(goal_preference(one, one, other))
    asked_other = float(goal_preference(other, one, other))
    assert asked_one == (0.0 if first != second else 0.5)
    assert asked_other == 1 - asked_one
    assert float(goal_preference(one, other, one)) == 1 - asked_one


# Policy gradients


def rollouts(**changes: Any) -> Rollouts:
    draw = torch.Generator().manual_seed(0)
    log_prob = torch.randn(6, 4, generator=draw, dtype=torch.float64).requires_grad_()
    mask = torch.arange(4) < torch.tensor([[4], [3], [2], [4], [1], [4]])
    made = Rollouts(
        log_prob=log_prob,
        mask=mask,
        reward=torch.rand(6, generator=draw, dtype=torch.float64),
        old=log_prob.detach() + 0.4 * torch.randn(6, 4, generator=draw, dtype=torch.float64),
        advantage=torch.randn(6, 4, generator=draw, dtype=torch.float64),
    )
    return dataclasses.replace(made, **changes)


def gradient(objective: PolicyGradient, r: Rollouts) -> Tensor:
    (grad,) = torch.autograd.grad(objective(r)[0], r.log_prob)
    return grad


def test_no_mask_the_current_policy_and_no_advantage_is_imitation() -> None:
    r = rollouts()
    objective = PolicyGradient(
        denominator=denominators.Current(),
        advantage=advantages.Constant(),
        likelihood=likelihoods.Joint(),
    )
    nll = -(r.log_prob * r.mask).sum() / 6
    assert torch.allclose(gradient(objective, r), torch.autograd.grad(nll, r.log_prob)[0])


def clipped(mask: masks.Mask) -> PolicyGradient:
    return PolicyGradient(
        denominator=denominators.Old(),
        advantage=advantages.Given(),
        likelihood=likelihoods.Pooled(),
        masks=[mask],
    )


@pytest.mark.parametrize("mask", [masks.Clip(), masks.ClipWeight(low=0.2), masks.SoftGate()])
def test_the_first_gradient_of_every_clip_is_the_policy_gradient(mask: masks.Mask) -> None:
    r = rollouts()
    r = dataclasses.replace(r, old=r.log_prob.detach())
    assert r.advantage is not None
    plain = -(r.advantage * r.log_prob)[r.mask].mean()
    found = gradient(clipped(mask), r)
    assert torch.allclose(found, torch.autograd.grad(plain, r.log_prob)[0])


@given(st.floats(-3, 3), st.sampled_from([-1.0, 1.0]))
def test_a_soft_gate_is_widest_where_nothing_has_moved(log_ratio: float, sign: float) -> None:
    gate = masks.SoftGate()
    at = [torch.tensor([[x]], dtype=torch.float64) for x in (0.0, log_ratio)]
    here, there = (float(gate(rollouts(), x, torch.tensor([[sign]]))) for x in at)
    assert here == pytest.approx(1.0)
    assert 0 < there <= 1 + 1e-6


def test_the_soft_gates_slope_at_one_is_one() -> None:
    for tau in (1.0, 1.05, 3.0):
        ratio = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        (torch.sigmoid(tau * (ratio - 1)) * 4 / tau).backward()
        assert float(ratio.grad) == pytest.approx(1.0)  # type: ignore[arg-type]
        gate = masks.SoftGate(positive=tau)
        moved = torch.tensor([[0.3]], dtype=torch.float64)
        r = moved.exp().requires_grad_()
        (slope,) = torch.autograd.grad(torch.sigmoid(tau * (r - 1)) * 4 / tau, r)
        assert torch.allclose(gate(rollouts(), moved, torch.ones(1, 1)).double(), slope)


def test_wide_clips_drop_nothing() -> None:
    free = PolicyGradient(
        denominator=denominators.Old(),
        advantage=advantages.Given(),
        likelihood=likelihoods.Pooled(),
    )
    r = rollouts()
    assert torch.equal(gradient(clipped(masks.Clip(low=0.999, high=1e6)), r), gradient(free, r))


def test_sequence_ratios_of_single_decisions_are_those_of_decisions() -> None:
    r = rollouts(mask=torch.tensor([[True, False, False, False]] * 6))
    one, many = denominators.OldSequence()(r), denominators.Old()(r)
    assert torch.allclose(one[:, 0], many[:, 0])


def test_risk_with_quantiles_outside_the_rewards_is_affine_in_them() -> None:
    reward = torch.linspace(-1, 2, 20, dtype=torch.float64)
    found = advantages.Risk().weigh(reward, reward.new_tensor(-1.5), reward.new_tensor(2.5))
    slopes = found.diff() / reward.diff()
    assert torch.allclose(slopes, torch.full_like(slopes, 1 / 0.7))
    assert torch.allclose(found, (reward - 2.5) / 0.7)


def test_group_advantages_do_not_change_with_scale_and_shift_of_rewards() -> None:
    r = rollouts()
    moved = dataclasses.replace(r, reward=3 * r.reward + 7)
    assert torch.allclose(advantages.Group()(r), advantages.Group()(moved), atol=1e-4)


def test_a_unanimous_group_teaches_nothing() -> None:
    r = rollouts(reward=torch.ones(6, dtype=torch.float64))
    for part in (advantages.Group(), advantages.Group(std=False), advantages.Contrast()):
        assert not part(r).any()


def test_demonstrations_stand_aside_unless_they_belong_to_the_group() -> None:
    """Where all attempts fail, a demonstration that succeeds must not get a boundless advantage."""
    reward = torch.tensor([0.0, 0, 1, 0, 0, 1], dtype=torch.float64)
    shown = torch.tensor([False, False, True] * 2)
    r = rollouts(reward=reward, demonstrated=shown)
    assert not advantages.Group()(r).any()
    found = advantages.Group(with_demonstrations=True)(r)[:, 0]
    assert found[shown].tolist() == pytest.approx([math.sqrt(2)] * 2, rel=1e-5)
    assert found[~shown].tolist() == pytest.approx([-1 / math.sqrt(2)] * 4, rel=1e-5)


def test_a_group_alone_gives_the_advantages_that_it_has_among_others() -> None:
    group = torch.tensor([7, 3, 7, 3, 7, 3])
    r = rollouts(group=group)
    whole = advantages.Group()(r)
    part = advantages.Group()(r.map(lambda x: x[group == 7]))
    assert torch.allclose(whole[group == 7], part)


def test_a_policy_at_its_reference_pays_nothing_and_moves_nowhere() -> None:
    r = rollouts()
    r = dataclasses.replace(r, reference=r.log_prob.detach(), old=r.log_prob.detach())
    for part in (penalties.KLToReference(weight=1.0), penalties.KLToOld(), penalties.KLBarrier()):
        (grad,) = torch.autograd.grad(part(r), r.log_prob, retain_graph=True)
        assert float(part(r).detach()) == 0.0
        assert not grad.any()


def test_the_penalties_are_divergences_on_average() -> None:
    """KL(N(0.5, 1) || N(0, 1)) = 0.125, of draws of the first, and of the second."""
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    made = torch.ones_like(noise, dtype=torch.bool)
    for x, name, part in (
        (noise + 0.5, "reference", penalties.KLToReference(weight=1.0)),
        (noise, "old", penalties.KLToOld()),
    ):
        other = {name: -x.square() / 2}
        r = Rollouts(-(x - 0.5).square() / 2, made, x[:, 0], **other)
        assert float(part(r)) == pytest.approx(0.125, abs=2e-3)
