"""Conservative exploration in tables: values, mixtures, and the published setting."""

import numpy as np
import pytest

from embodied.algorithms.stepmix import (
    Counts,
    Worlds,
    boltzmann,
    eps_mix,
    explore,
    hand_over,
    play,
    random_worlds,
    step_mix,
    unconstrained,
)


def chain():
    """Two steps, two states: action 1 earns 1 in state 0; action 0 leads to state 1, which earns
    0.9 whatever is done."""
    transition = np.zeros((1, 2, 2, 2, 2))
    transition[..., 0, 0, 1] = 1  # from state 0 by action 0 to state 1
    transition[..., 0, 1, 0] = 1
    transition[..., 1, :, 1] = 1
    reward = np.zeros((1, 2, 2, 2))
    reward[:, :, 0, 1] = 1.0
    reward[:, :, 1, :] = 0.9
    return Worlds(transition, reward)


def test_the_value_of_a_policy_is_what_it_earns():
    always = np.zeros((1, 3, 2, 2, 2))
    always[:, 0, ..., 1] = 1  # 1 + 1
    always[:, 1, ..., 0] = 1  # 0 + 0.9
    always[:, 2] = 0.5  # 0.5 (1 + 0.5) + 0.5 (0 + 0.9)
    assert chain().value(always)[0].tolist() == pytest.approx([2.0, 0.9, 1.2])


def test_the_best_policy_is_found_and_capped_values_stop_at_what_is_left():
    q, policy = chain().optimal()
    assert q[0, 0, 0].tolist() == pytest.approx([0.9, 2.0])
    assert policy[0, :, 0].tolist() == [[0, 1], [0, 1]]
    generous = Worlds(chain().transition, chain().reward + 5)
    assert generous.optimal(cap=True)[0].max(axis=(0, 2, 3)).tolist() == [2, 1]


def test_candidates_follow_the_baseline_first():
    baseline, learned = np.zeros((1, 2, 1, 2)), np.ones((1, 2, 1, 2))
    found = hand_over(baseline, learned)[0, :, :, 0, 0]
    assert found.tolist() == [[1, 1], [0, 1], [0, 0]]


def test_step_mix_keeps_the_bound_between_neighbouring_candidates():
    bounds = np.array([[0.2, 0.4, 0.9, 1.0], [0.7, 0.1, 0.2, 1.0], [0.0, 0.1, 0.2, 1.0]])
    threshold = np.array([0.5, 0.6, 0.6])
    found = step_mix(bounds, threshold)
    # 0.5 = 0.8 * 0.4 + 0.2 * 0.9; the second may do as it likes; 0.6 = 0.5 * 0.2 + 0.5 * 1.
    assert found[0].tolist() == pytest.approx([0, 0.8, 0.2, 0])
    assert found[1].tolist() == [1, 0, 0, 0]
    assert found[2].tolist() == pytest.approx([0, 0, 0.5, 0.5])


def test_eps_mix_keeps_the_bound_between_the_ends():
    found = eps_mix(np.array([[0.2, 0.9, 1.0], [0.7, 0.0, 1.0]]), np.array([0.6, 0.6]))
    assert found[0].tolist() == pytest.approx([0.5, 0, 0.5])
    assert found[1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("rule", [eps_mix, step_mix])
def test_a_mixture_is_a_distribution_whose_bound_is_at_least_the_threshold(rule):
    generator = np.random.default_rng(0)
    bounds = generator.random((500, 4))
    threshold = generator.random(500) * bounds[:, -1]
    found = rule(bounds, threshold)
    assert (found >= -1e-12).all()
    assert found.sum(1).tolist() == pytest.approx([1] * 500)
    assert ((found * bounds).sum(1) >= threshold - 1e-9).all()


def test_what_is_counted_comes_to_the_world_itself():
    worlds = random_worlds(2, 0, states=2, actions=2, horizon=2)
    counts = Counts(worlds.reward.shape)
    uniform = np.full(worlds.reward.shape, 0.5)
    generator = np.random.default_rng(0)
    for _ in range(8000):
        play(worlds, uniform, counts, generator)
    model = counts.model(0.0)
    seen = counts.visits > 500
    assert np.abs(model.transition - worlds.transition)[seen].max() < 0.06
    assert np.allclose(model.reward[seen], worlds.reward[seen])


def test_in_the_published_setting_nothing_is_violated_and_little_is_lost():
    """S = A = 5, H = 3; extra regret below 1.6 of what exploring freely costs."""
    worlds = random_worlds(4, 0)
    baseline = boltzmann(worlds, 0.1)
    free = explore(worlds, baseline, unconstrained, episodes=1500)
    assert (free.violated.sum(1) > 0).all()
    for rule, alpha in ((eps_mix, 0.1), (step_mix, 0.1), (step_mix, 0.05)):
        found = explore(worlds, baseline, rule, episodes=1500, alpha=alpha)
        assert found.violated.sum() == 0
        assert found.regret.sum() < 1.6 * free.regret.sum()
