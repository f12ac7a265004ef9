"""FamO2O: a family of policies, and the coefficients that its balance model chooses."""

import math

import pytest
import torch

from embodied.algorithms.trade_off import Family, Fixed
from embodied.networks.balance import BalanceModel, embed_coefficient
from embodied.networks.ensemble import EnsembleMLP
from embodied.noise import BatchNoise
from embodied.policies.actor import ActorPolicy
from embodied.structs import Condition, Observation, Spec

SPEC = Spec(1, 1, (-1.0,), (1.0,), rate_hz=10.0)


def noise(seed=0):
    return BatchNoise(torch.Generator().manual_seed(seed))


def make_policy(low=1.0, high=5.0):
    torch.manual_seed(0)
    policy = ActorPolicy(spec=SPEC, kind="gaussian", hidden=(16,), coefficient_range=(low, high))
    policy.fit_normalizers(Observation(torch.zeros(0, 1, 1)), Condition(), torch.zeros(0, 1))
    return policy


def test_a_coefficient_is_told_by_sines_and_cosines_of_falling_frequency():
    found = embed_coefficient(torch.tensor([2.0]))[0]
    angles = [2.0, 2.0 / 10_000 ** (1 / 3), 2.0 / 10_000 ** (2 / 3)]
    expected = [f(x) for x in angles for f in (math.sin, math.cos)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_before_the_policy_acts_coefficients_are_uniform_in_the_range():
    policy, family = make_policy(), Family()
    features = torch.zeros(4000, 1)
    found = family.coefficient(policy, features, online=False, noise=noise())
    assert found.min() >= 1
    assert found.max() <= 5
    assert found.mean().item() == pytest.approx(3.0, abs=0.1)
    assert found.std().item() == pytest.approx(4 / math.sqrt(12), abs=0.1)


def test_once_it_acts_the_balance_model_draws_them_without_gradient():
    policy, family = make_policy(), Family()
    features = torch.randn(8, 1)
    found = family.coefficient(policy, features, online=True, noise=noise())
    expected, _ = policy.balance(features, noise=noise())
    assert found.equal(expected.detach())
    assert not found.requires_grad


def test_the_balance_models_probabilities_integrate_to_one_and_match_its_draws():
    net = EnsembleMLP(1, 1, (4,), 1)
    balance = BalanceModel(net, low=-1.0, high=1.0)  # so that the coefficient is x itself
    x, log_prob = balance(torch.zeros(200_000, 1), noise=noise())
    # E[1 / p(x)] over draws is the length of the interval.
    assert (-log_prob).exp().mean().item() == pytest.approx(2.0, rel=0.1)
    assert x.abs().max() <= 1


@pytest.mark.parametrize(("best", "expected"), [(1.0, 5.0), (-1.0, 1.0)])
def test_the_balance_model_learns_the_coefficient_whose_action_is_worth_most(best, expected):
    """The family acts by its coefficient; where high actions are better it should choose high."""
    policy, family = make_policy(), Family(entropy=False)
    optimizer = torch.optim.Adam(policy.actor.parameters(), lr=3e-3)
    features = torch.zeros(256, 1)
    for step in range(300):  # teach the family to act (c - 3) / 2
        c = family.coefficient(policy, features, online=False, noise=noise(step))
        action, _ = policy.choose(features, noise=None, coefficient=c)
        ((action[:, 0] - (c - 3) / 2 * 0.9) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    kept = [p.clone() for p in policy.actor.parameters()]
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for step in range(200):
        losses, _ = family.losses(policy, features, lambda s, a: best * a[:, 0], noise(step))
        losses["balance"].backward()
        optimizer.step()
        optimizer.zero_grad()
    found, _ = policy.balance(features[:1], noise=None)
    assert found.item() == pytest.approx(expected, abs=0.3)
    after = policy.actor.parameters()
    assert all(a.equal(b) for a, b in zip(kept, after, strict=True))


@pytest.mark.parametrize(("target_entropy", "direction"), [(-0.5, 1), (1.0, -1)])
def test_its_temperature_falls_where_there_is_more_entropy_than_asked_and_rises_where_less(
    target_entropy, direction
):
    """No number in (-1, 1) has more entropy than log 2 = 0.69; a fresh model has nearly that."""
    policy, family = make_policy(), Family(target_entropy=target_entropy)
    losses, _ = family.losses(policy, torch.zeros(512, 1), lambda s, a: a[:, 0], noise())
    losses["balance_alpha"].backward()
    assert family.log_alpha.grad.item() * direction > 0.2


def test_one_coefficient_for_all_states_is_no_family():
    found = Fixed(3.0).coefficient(make_policy(), torch.zeros(4, 1), online=True, noise=noise())
    assert found.tolist() == [3.0] * 4


def test_a_range_has_to_rise():
    with pytest.raises(ValueError, match=r"coefficient_range must rise, got \(5.0, 1.0\)"):
        make_policy(5.0, 1.0)
