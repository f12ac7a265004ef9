"""Learning from what the policy has just done: estimates, gradients, and that it learns."""

import functools
import math
from dataclasses import replace
from pathlib import Path

import hydra
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embodied.algorithms.mdpo import OffPolicyMDPO
from embodied.algorithms.on_policy import standardised
from embodied.algorithms.sac import SAC
from embodied.build import instantiate, resolve
from embodied.data.transitions import Layout
from embodied.distributed import World
from embodied.networks.gaussians import normal_kl, normal_log_prob
from embodied.networks.moments import RunningMoments
from embodied.noise import BatchNoise
from embodied.objectives.gae import generalised_advantages, running_returns
from embodied.policies.actor import ActorPolicy
from embodied.structs import Batch, Condition, Observation, Spec
from embodied.testing.algorithms import check_algorithm

ROOT = Path(__file__).parents[1]
SPEC = Spec(3, 2, (-2.0, -1.0), (2.0, 1.0), rate_hz=10.0)
WORLD = World(0, 1, torch.device("cpu"))


def make(name, *overrides, steps=10):
    """A learner as its YAML describes it, but small."""
    small = ("policy.hidden=[16]", "algorithm.value_hidden=[16]", "train.batch_size=8")
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = ("task=gym_mujoco", f"algorithm={name}", *small, *overrides)
        config = resolve(hydra.compose("config", overrides=list(overrides)))
    torch.manual_seed(0)
    policy = instantiate(config["policy"], spec=SPEC)
    policy.fit_normalizers(Observation(torch.zeros(0, 1, 3)), Condition(), torch.zeros(0, 2))
    return instantiate(config["algorithm"])(policy, world=WORLD, steps=steps, seed=0)


def segments(rows=24, *, seed=0, objectives=0):
    """Rows of three segments; one ends in a termination, one in a time limit, one goes on."""
    g = torch.Generator().manual_seed(seed)
    continues = torch.ones(rows, dtype=torch.bool)
    continues[[rows // 3, 2 * rows // 3, rows - 1]] = False
    discount = torch.full((rows,), 0.9)
    discount[rows // 3] = 0
    return Batch(
        observation=Observation(state=torch.randn(rows, 1, 3, generator=g)),
        condition=Condition(),
        action=torch.randn(rows, 1, 2, generator=g).tanh(),
        mask=torch.ones(rows, 1, dtype=torch.bool),
        reward=torch.randn(rows, generator=g),
        discount=discount,
        next_observation=Observation(state=torch.randn(rows, 1, 3, generator=g)),
        continues=continues,
        objectives=torch.randn(rows, objectives, generator=g) if objectives else None,
    )


# Estimates


def slow_advantages(reward, value, next_value, discount, continues, decay):
    """Eq. 16 written out: for each row, the sum over what still followed it."""
    found = []
    for t in range(len(reward)):
        total, factor = 0.0, 1.0
        for u in range(t, len(reward)):
            total += factor * (reward[u] + discount[u] * next_value[u] - value[u])
            if not continues[u]:
                break
            factor *= discount[u] * decay
        found.append(total)
    return found


@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_advantages_equal_the_sum_over_what_followed(seed, rows, decay):
    g = torch.Generator().manual_seed(seed)
    reward, value, after = torch.randn(3, rows, 2, generator=g)
    continues = torch.rand(rows, generator=g) < 0.7
    continues[-1] = False
    ended = ~continues & (torch.rand(rows, generator=g) < 0.5)
    discount = 0.9 * (~ended).float()
    found = generalised_advantages(reward, value, after, discount, continues, decay=decay)
    for k in range(2):
        columns = (x[:, k].tolist() for x in (reward, value, after))
        slow = slow_advantages(*columns, discount.tolist(), continues.tolist(), decay)
        assert found[:, k].tolist() == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize(("discount", "expected"), [(0.0, 1.0), (0.5, 1.0 + 0.5 * 8.0)])
def test_a_time_limit_bootstraps_and_a_termination_does_not(discount, expected):
    one = torch.ones(2, 1)
    found = generalised_advantages(
        one, 0 * one, 8 * one, torch.tensor([discount] * 2), torch.tensor([False, False])
    )
    assert found.flatten().tolist() == [expected, expected]


def test_rows_that_end_with_an_open_end_are_refused():
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="must end with False"):
        generalised_advantages(one, one, one, one[:, 0], torch.tensor([True]))


def test_discounted_sums_begin_anew_where_a_segment_does():
    reward = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    found = running_returns(reward, 0.5, torch.tensor([True, False, True, False]))
    assert found.flatten().tolist() == [1.0, 2.5, 3.0, 5.5]


def test_moments_of_batches_are_those_of_all_rows():
    x = 5 + 3 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    moments = RunningMoments(2)
    assert moments.std.tolist() == [1.0, 1.0]
    for part in x.split([1, 20, 19]):
        moments.add(part)
    assert torch.allclose(moments.mean.float(), x.mean(0), atol=1e-5)
    assert torch.allclose(moments.std.float(), x.std(0, correction=0), atol=1e-5)


def test_a_divergence_is_of_the_first_gaussian_from_the_second():
    """KL(N(0, 1) || N(0, 4)) = ln 2 + 1/8 - 1/2, and the other way round -ln 2 + 2 - 1/2."""
    zero, wide = torch.zeros(1), torch.tensor([math.log(2)])
    forth, back = normal_kl(zero, zero, zero, wide), normal_kl(zero, wide, zero, zero)
    assert forth.item() == pytest.approx(math.log(2) + 1 / 8 - 1 / 2)
    assert back.item() == pytest.approx(-math.log(2) + 2 - 1 / 2)


def test_a_divergence_is_the_mean_log_ratio_over_draws_of_the_first():
    mean, log_std = torch.tensor([0.5]), torch.tensor([-0.3])
    other_mean, other_log_std = torch.tensor([-0.2]), torch.tensor([0.4])
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    x = mean + log_std.exp() * z
    ratio = normal_log_prob(z, log_std) - normal_log_prob(
        (x - other_mean) / other_log_std.exp(), other_log_std
    )
    found = normal_kl(mean, log_std, other_mean, other_log_std)
    assert ratio.mean().item() == pytest.approx(found.item(), abs=0.01)


# Gradients


def gradient(loss, policy):
    policy.zero_grad(set_to_none=True)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters()])


def plain_gradient(learner, x):
    """Of -mean(A log pi), the policy gradient."""
    return gradient(-(x.advantage * learner.policy.log_prob(x.s, x.a)).mean(), learner.policy)


@pytest.mark.parametrize("kind", ["clipped", "squashed"])
def test_the_first_gradient_of_ppo_is_the_policy_gradient(kind):
    learner = make("ppo", f"policy.kind={kind}")
    x = learner.examine(segments())
    found = gradient(learner.policy_loss(x)[0], learner.policy)
    assert torch.allclose(found, plain_gradient(learner, x), atol=1e-6)


@pytest.mark.parametrize("kind", ["clipped", "squashed"])
def test_the_first_gradient_of_mirror_descent_is_the_policy_gradient_and_no_later_one(kind):
    learner = make("mdpo", f"policy.kind={kind}")
    x = learner.examine(segments())
    found = gradient(learner.policy_loss(x, step=9)[0], learner.policy)
    assert torch.allclose(found, plain_gradient(learner, x), atol=1e-6)
    learner.descend(learner.policy_loss(x, step=9)[0])
    later = gradient(learner.policy_loss(x, step=9)[0], learner.policy)
    assert not torch.allclose(later, plain_gradient(learner, x), atol=1e-3)


def test_mirror_descent_differentiates_the_surrogate_with_its_divergence():
    learner = make("mdpo", "algorithm.min_step_size=0.01")
    x = learner.examine(segments())
    learner.descend(learner.policy_loss(x, step=5)[0])  # away from pi_k
    found = gradient(learner.policy_loss(x, step=5)[0], learner.policy)
    ratio = (learner.policy.log_prob(x.s, x.a) - x.old).exp()
    surrogate = (ratio * x.advantage).mean() - learner.divergence(x) / (1 - 5 / 10)
    assert torch.allclose(found, gradient(-surrogate, learner.policy), atol=1e-5)


def test_the_divergence_of_mirror_descent_is_of_the_new_policy_from_the_old():
    learner = make("mdpo", "algorithm.learning_rate=0.1")
    x = learner.examine(segments())
    learner.descend(learner.policy_loss(x, step=0)[0])
    mean, log_std = learner.policy.gaussian(x.s)
    new = torch.distributions.Normal(mean, log_std.exp())
    old = torch.distributions.Normal(x.mean, x.log_std.exp())
    forth, back = (
        torch.distributions.kl_divergence(*ab).sum(-1).mean().item()
        for ab in ((new, old), (old, new))
    )
    assert learner.divergence(x).item() == pytest.approx(forth, rel=1e-4)
    assert back != pytest.approx(forth, rel=1e-2)


def test_ppo_differentiates_the_clipped_surrogate():
    learner = make("ppo", "algorithm.learning_rate=0.1", "algorithm.anneal=false")
    x = learner.examine(segments())
    learner.descend(learner.policy_loss(x)[0])
    found = gradient(learner.policy_loss(x)[0], learner.policy)
    ratio = (learner.policy.log_prob(x.s, x.a) - x.old).exp()
    assert ((ratio - 1).abs() > 0.2).any()
    surrogate = torch.minimum(ratio * x.advantage, ratio.clamp(0.8, 1.2) * x.advantage).mean()
    assert torch.allclose(found, gradient(-surrogate, learner.policy), atol=1e-5)


def test_the_step_size_of_mirror_descent_falls_to_its_floor():
    learner = make("mdpo", "algorithm.min_step_size=0.25", steps=4)
    assert [learner.step_size(k) for k in range(4)] == [1, 0.75, 0.5, 0.25]
    assert learner.step_size(100) == 0.25


def test_an_entropy_bonus_widens_the_policy():
    stds = []
    for weight in (0.0, 1.0):
        learner = make("ppo", f"algorithm.entropy_weight={weight}")
        learner.update(segments(), 0)
        stds.append(learner.policy.log_std.mean().item())
    assert stds[1] > stds[0]


def test_values_that_moved_too_far_count_by_the_worse_of_both_errors():
    learner = make("ppo", "algorithm.value_clip=0.2")
    x = learner.examine(segments())
    value = learner.values(x.s).detach()
    # Values stand 1 above where they were: clipped they are 0.2 above it, at 0.8 below now.
    for target, expected in ((value + 0.5, 1.3**2), (value - 3, 3.0**2)):
        moved = replace(x, value=value - 1, target=target)
        assert learner.value_loss(moved).item() == pytest.approx(expected / 2, rel=1e-5)


# Normalisation


def test_likelihoods_are_of_the_policy_that_acted():
    """States move the normaliser after the iteration, not before."""
    learner = make("ppo")
    batch = segments()
    before = learner.policy.log_prob(
        learner.policy.features(batch.observation), learner.policy.decision(batch.action)
    ).detach()
    seen = []
    improve = learner.improve
    learner.improve = lambda x, *rest: (seen.append(x.old), improve(x, *rest))[1]
    learner.update(batch, 0)
    assert seen[0].equal(before)
    assert torch.allclose(learner.policy.normalizer.mean, batch.observation.state[:, 0].mean(0))


def test_rewards_in_other_units_make_the_same_step():
    batch = segments()
    learners = [make("ppo") for _ in range(2)]
    for scale, learner in zip((1.0, 1000.0), learners, strict=True):
        learner.update(replace(batch, reward=scale * batch.reward), 0)
    for a, b in zip(*(x.policy.parameters() for x in learners), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_objectives_are_weighed_in_their_own_units():
    """The advantage of 2 r1 - r2 is that of each, weighed, though each is normalised by itself."""
    learner = make("ppo", "algorithm.weights=[2,-1]", "algorithm.normalize_advantages=false")
    with torch.no_grad():
        for parameter in learner.value.parameters():
            parameter.zero_()
    batch = segments(objectives=2)
    batch = replace(batch, objectives=batch.objectives * torch.tensor([1.0, 100.0]))
    x = learner.examine(batch)
    zero = torch.zeros(24, 1)
    total = (batch.objectives * torch.tensor([2.0, -1.0])).sum(-1, keepdim=True)
    expected = generalised_advantages(
        total, zero, zero, batch.discount, batch.continues, decay=0.95
    )
    assert torch.allclose(x.advantage, expected[:, 0], rtol=1e-4, atol=1e-3)


def test_as_many_weights_as_objectives_are_asked_for():
    learner = make("ppo", "algorithm.weights=[1,1]")
    with pytest.raises(ValueError, match=r"algorithm\.weights has 2 numbers.*3 objectives"):
        learner.examine(segments(objectives=3))


# Contracts and learning


@pytest.mark.parametrize("extra", [(), ("algorithm.entropy_weight=0.1", "policy.kind=squashed")])
@pytest.mark.parametrize("name", ["ppo", "mdpo"])
def test_a_learner_keeps_the_contract(name, extra):
    extra = extra if name == "ppo" else extra[1:]
    check_algorithm(functools.partial(make, name, *extra), segments())


@pytest.mark.parametrize("kind", ["gaussian", "deterministic"])
def test_policies_whose_draws_are_not_recorded_are_refused(kind):
    with pytest.raises(ValueError, match=rf"policy\.kind among .*'{kind}'"):
        make("ppo", f"policy.kind={kind}")


def test_a_batch_that_is_not_of_segments_is_refused():
    with pytest.raises(ValueError, match="source=on_policy"):
        make("ppo").update(replace(segments(), continues=None), 0)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("ppo", ("algorithm.epochs=4",)),
        ("ppo", ("algorithm.epochs=4", "policy.kind=squashed")),
        ("mdpo", ("algorithm.value_epochs=1",)),
    ],
)
def test_the_best_arm_of_a_bandit_is_found(name, overrides):
    """Reward -|a - (1, -0.5)|^2 and episodes of one step."""
    fast = ("algorithm.learning_rate=0.01", "algorithm.normalize_states=false")
    learner = make(name, *fast, *overrides, "train.batch_size=64", steps=40)
    best = torch.tensor([1.0, -0.5])
    state = torch.zeros(128, 1, 3)
    no = torch.zeros(128, dtype=torch.bool)
    for step in range(40):
        noise = BatchNoise(torch.Generator().manual_seed(step))
        with torch.no_grad():
            action = learner.policy.explore(Observation(state), Condition(), noise=noise)
        reward = -(action[:, 0] - best).square().sum(-1)
        batch = Batch(
            observation=Observation(state),
            condition=Condition(),
            action=action,
            mask=torch.ones(128, 1, dtype=torch.bool),
            reward=reward,
            discount=torch.zeros(128),
            next_observation=Observation(state),
            continues=no,
        )
        learner.update(batch, step)
    act = learner.policy.act(Observation(state[:1]), Condition(), noise=noise)
    assert act[0, 0].tolist() == pytest.approx(best.tolist(), abs=0.15)


def test_draws_of_a_clipped_policy_leave_the_bounds_and_its_actions_do_not():
    policy = ActorPolicy(spec=SPEC, kind="clipped", hidden=(4,), normalize=False)
    policy.fit_normalizers(Observation(torch.zeros(0, 1, 3)), Condition(), torch.zeros(0, 2))
    state = 100 * torch.ones(64, 1, 3)
    noise = BatchNoise(torch.Generator().manual_seed(0))
    drawn = policy.explore(Observation(state), Condition(), noise=noise)
    assert (drawn[:, 0].abs() > torch.tensor([2.0, 1.0])).any()
    assert (policy.act(Observation(state), Condition(), noise=noise).abs() <= 2).all()
    unit = policy.decision(drawn)
    mean, log_std = policy.gaussian(policy.features(Observation(state)))
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(unit).sum(-1)
    assert torch.allclose(policy.log_prob(policy.features(Observation(state)), unit), expected)


# Mirror descent off-policy


def transitions(rows=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    layout = Layout(3, 2, discount=0.9)
    packed = torch.randn(rows, layout.width, generator=g)
    packed[:, 3:5] = packed[:, 3:5].tanh()
    packed[:, -4:] = torch.tensor([0.9, -math.inf, 1.0, 0.0])
    return layout.batch(packed, ("go",))


def off_policy(kind, **options):
    torch.manual_seed(0)
    policy = ActorPolicy(spec=SPEC, kind="squashed", hidden=(16,), normalize=False)
    policy.fit_normalizers(Observation(torch.zeros(0, 1, 3)), Condition(), torch.zeros(0, 2))
    return kind(policy, world=WORLD, steps=100, critic_hidden=(16,), seed=0, **options)


def run_off_policy(learner):
    for step in range(6):
        learner.update(transitions(seed=step), step)
    return torch.cat([p.detach().flatten() for p in learner.policy.parameters()])


def test_mirror_descent_with_equal_weights_is_sac_of_a_fixed_temperature():
    mirror = off_policy(OffPolicyMDPO, kl_weight=0.2, entropy_weight=0.2, shrink=0.0)
    sac = off_policy(SAC, initial_alpha=0.2, learn_alpha=False)
    other = off_policy(OffPolicyMDPO, kl_weight=1.0, entropy_weight=0.2, shrink=0.0)
    found, same = run_off_policy(mirror), run_off_policy(sac)
    assert torch.allclose(found, same, atol=1e-6)
    assert not torch.allclose(run_off_policy(other), same, atol=1e-5)


def test_the_earlier_policy_is_renewed_at_its_time():
    learner = off_policy(OffPolicyMDPO, refresh_every=3)
    for step in range(5):
        before = {name: x.clone() for name, x in learner.policy.state_dict().items()}
        learner.update(transitions(seed=step), step)
        same = all(x.equal(before[name]) for name, x in learner.earlier.state_dict().items())
        assert same == (step % 3 == 0)


def test_standardised_numbers_have_mean_zero_and_deviation_one():
    x = standardised(torch.tensor([1.0, 2.0, 6.0]))
    assert x.mean().item() == pytest.approx(0, abs=1e-6)
    assert x.square().mean().item() == pytest.approx(1, abs=1e-5)
