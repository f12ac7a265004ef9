"""What learners from rewards compute, where the answer is known."""

import functools
import math
from dataclasses import replace
from pathlib import Path

import hydra
import pytest
import torch

from embodied.algorithms.actor_critic import Transition
from embodied.algorithms.cql import CQL
from embodied.algorithms.gradients import frozen
from embodied.algorithms.iql import IQL, expectile_loss
from embodied.algorithms.sac import SAC
from embodied.algorithms.td3_bc import TD3BC
from embodied.build import instantiate, resolve
from embodied.data.transitions import Layout
from embodied.distributed import World
from embodied.noise import BatchNoise
from embodied.policies.actor import ActorPolicy
from embodied.structs import Condition, Observation, Spec
from embodied.targets import ConfigError
from embodied.testing.algorithms import check_algorithm

ROOT = Path(__file__).parents[1]
SPEC = Spec(1, 1, (-2.0,), (2.0,), rate_hz=10.0)
WORLD = World(0, 1, torch.device("cpu"))
ALGORITHMS = (
    "iql",
    "awac",
    "td3_bc",
    "sac",
    "rlpd",
    "mdpo_off_policy",
    "cql",
    "cal_ql",
    "famo2o_iql",
    "famo2o_awac",
    "famo2o_td3_bc",
    "famo2o_cql",
)


@functools.cache
def compose(name, *overrides):
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        small = ("policy.hidden=[32]", "algorithm.critic_hidden=[32]")
        overrides = ("task=gym_mujoco", f"algorithm={name}", *small, *overrides)
        return resolve(hydra.compose("config", overrides=list(overrides)))


def make(name, *overrides, steps=1000):
    """A learner as its YAML describes it, but small."""
    config = compose(name, "train.steps=1000", *overrides)
    torch.manual_seed(0)
    policy = instantiate(config["policy"], spec=SPEC)
    policy.fit_normalizers(Observation(torch.zeros(0, 1, 1)), Condition(), torch.zeros(0, 1))
    return instantiate(config["algorithm"])(policy, world=WORLD, steps=steps, seed=0)


def rows(state, action, reward, next_state, *, discount=0.9, return_to_go=-math.inf):
    """A batch of single steps with one-dimensional states and actions."""
    n = len(action)
    layout = Layout(1, 1, discount=discount)
    columns = (state, action, next_state, reward, discount, return_to_go, 1.0, 0.0)
    filled = [torch.as_tensor(x, dtype=torch.float32).expand(n) for x in columns]
    return layout.batch(torch.stack(filled, 1), ("go",))


def random_batch(n=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state, action, reward, next_state = torch.randn(4, n, generator=generator)
    return rows(state, 2 * action.tanh(), reward, next_state)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_learner_keeps_the_contract(name):
    extra = ("algorithm.actor_every=1",)
    check_algorithm(functools.partial(make, name, *extra), random_batch())


@pytest.mark.parametrize("name", ["cal_ql", "famo2o_iql", "famo2o_awac"])
def test_a_learner_keeps_the_contract_while_the_policy_acts(name):
    extra = ("algorithm.actor_every=1", "source=offline_to_online", "source.offline_steps=0")
    check_algorithm(functools.partial(make, name, *extra), random_batch())


BANDIT = {
    "iql": ("algorithm.coefficient=300", "algorithm.actor_cosine=false"),
    "awac": ("algorithm.coefficient=30", "algorithm.learning_rate=0.003"),
    "td3_bc": ("algorithm.coefficient=30", "algorithm.actor_learning_rate=0.003"),
    "sac": ("algorithm.initial_alpha=0.001", "algorithm.learn_alpha=false"),
    "cql": (
        "algorithm.initial_alpha=0.001",
        "algorithm.learn_alpha=false",
        "algorithm.penalty=0.01",
        "algorithm.num_actions=3",
        "algorithm.actor_learning_rate=0.01",
    ),
}


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "fp32") for name in BANDIT), ("sac", "bf16"), ("iql", "bf16")]
)
def test_the_best_arm_of_a_bandit_is_found(name, precision):
    """Reward c - (a - 1)^2 for a in [-2, 2] and an episode of one step: act 1, which is worth c."""
    worth = 5.0 if name == "td3_bc" else 0.0  # it divides by values, which must not be 0
    extra = ("algorithm.actor_every=1", "algorithm.learning_rate=0.01", *BANDIT[name])
    deep = ("policy.hidden=[32,32]", "algorithm.critic_hidden=[32,32]")  # else nothing is rounded
    rounded = (f"algorithm.precision={precision}", *(deep if precision == "bf16" else ()))
    learner = make(name, *extra, *rounded, steps=300)
    generator = torch.Generator().manual_seed(0)
    for step in range(300):
        action = 4 * torch.rand(128, generator=generator) - 2
        batch = rows(0.0, action, worth - (action - 1) ** 2, 0.0, discount=0.0)
        learner.update(batch, step)
    observation = Observation(torch.zeros(1, 1, 1))
    act = learner.policy.act(observation, Condition(), noise=BatchNoise(torch.Generator()))
    assert act.item() == pytest.approx(1.0, abs=0.3)
    values = learner.q(learner.critic, torch.zeros(1, 1), torch.tensor([[0.5]]))
    assert values.mean().item() == pytest.approx(worth, abs=0.4)


def fit_expectile(x, expectile):
    v = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([v], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = expectile_loss(x - v, expectile).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return v.item()


def test_an_expectile_of_a_half_is_the_mean_and_near_one_the_maximum():
    x = torch.tensor([-1.0, 0.0, 4.0])
    assert fit_expectile(x, 0.5) == pytest.approx(1.0, abs=1e-4)
    assert fit_expectile(x, 0.9999) == pytest.approx(4.0, abs=1e-2)
    assert fit_expectile(x, 0.0001) == pytest.approx(-1.0, abs=1e-2)


def test_an_expectile_balances_the_weighted_distances():
    # tau E[(x - v)+] = (1 - tau) E[(v - x)+]; for 0 and 1 in equal parts v = tau.
    assert fit_expectile(torch.tensor([0.0, 1.0]), 0.7) == pytest.approx(0.7, abs=1e-4)


def constant(ensemble, value):
    """Makes every member's output this value."""
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter.zero_()
        ensemble.layers[-1].bias.fill_(value)


@pytest.mark.parametrize("name", ["iql", "awac", "td3_bc", "cql"])
def test_targets_bootstrap_after_a_cut_and_not_after_a_termination(name):
    """Critics and values say 5 everywhere: targets are r + 0.9 * 5, and r where it was over."""
    learner = make(name, "algorithm.actor_every=1")
    constant(learner.target, 5.0)
    constant(learner.critic, 0.0)
    if isinstance(learner, IQL):
        constant(learner.value, 5.0)
    for discount, target in ((0.9, 1 + 0.9 * 5), (0.0, 1.0)):
        batch = rows(0.0, torch.zeros(4), 1.0, 0.0, discount=discount)
        transition = Transition.of(learner.policy, batch)
        losses, _ = learner.losses(transition, 0, BatchNoise(torch.Generator()))
        # Two critics that say 0: each has the squared target as its error.
        assert losses["critic"].item() == pytest.approx(2 * target**2, rel=1e-5)


def test_soft_targets_count_the_entropy_of_the_next_action():
    learner = make("sac", "algorithm.initial_alpha=0.5")
    constant(learner.target, 5.0)
    batch = rows(0.0, torch.zeros(4), 1.0, 0.0)
    transition = Transition.of(learner.policy, batch)
    target = learner.td_target(transition, 0, BatchNoise(torch.Generator().manual_seed(0)))
    noise = BatchNoise(torch.Generator().manual_seed(0))
    _, log_prob = learner.policy.choose(transition.next_s, noise=noise)
    assert torch.allclose(target, 1 + 0.9 * (5 - 0.5 * log_prob))


def test_a_subset_of_critics_is_the_least_of_fewer():
    learner = make("rlpd", "algorithm.num_critics=10")
    q = torch.arange(10.0)[:, None].expand(10, 3)
    least = [
        learner._some(q, BatchNoise(torch.Generator().manual_seed(i))).amin(0)[0].item()
        for i in range(200)
    ]
    # The least of two of 0..9 without replacement has mean 8/3.
    assert sum(least) / 200 == pytest.approx(8 / 3, abs=0.5)
    assert max(least) > 5


class Quadratic(torch.nn.Module):
    """Q(s, a) = -4 (a - s)^2, twice."""

    num_members = 2

    def forward(self, x):
        q = -4 * (x[:, 1:] - x[:, :1]) ** 2
        return q.expand(2, *q.shape)


def transition(s, a, return_to_go):
    """Without reward, and over at once."""
    n = len(s)
    none, returns = torch.zeros(n), torch.full((n,), return_to_go)
    return Transition(s, a, none, none, s, returns, random_batch(n))


def cql_with(critic, **options):
    learner = make("cql", "algorithm.num_actions=4000")
    learner.critic = critic
    for name, value in options.items():
        setattr(learner, name, value)
    return learner


def test_the_conservative_gap_is_the_integral_over_all_actions_less_the_datas_value():
    learner = cql_with(Quadratic())
    s = torch.tensor([[0.0], [0.5]])
    a = torch.tensor([[0.25], [0.5]])
    t = transition(s, a, -math.inf)
    found = learner._difference(t, 0, BatchNoise(torch.Generator().manual_seed(0)))
    grid = torch.linspace(-1, 1, 20_001)
    integral = torch.trapezoid((-4 * (grid - s) ** 2).exp(), grid, dim=1).log()
    expected = (integral - torch.tensor([-4 * 0.25**2, 0.0])).mean()
    assert found.tolist() == pytest.approx([expected.item()] * 2, abs=0.02)


class Flat(torch.nn.Module):
    """Q = c for all actions, so that what gradients reach can be counted."""

    num_members = 1

    def __init__(self):
        super().__init__()
        self.c = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return (self.c + 0 * x[:, :1]).expand(1, -1, 1)


@pytest.mark.parametrize(
    ("calibrated", "return_to_go", "pushed"),
    [(False, 9.0, 1.0), (True, -9.0, 1.0), (True, 9.0, 0.0)],
)
def test_calibration_pushes_no_value_below_the_datas_returns(calibrated, return_to_go, pushed):
    """Where the policy's values lie below the return, they are constants in the sum, whose gradient
    is then that of the uniform third alone, and of little weight beside exp(9)."""
    learner = cql_with(Flat(), calibrated=calibrated, num_actions=50)
    s = torch.zeros(4, 1)
    t = transition(s, s, return_to_go)
    difference = learner._difference(t, 0, BatchNoise(torch.Generator().manual_seed(0)))
    total = difference + learner.q(learner.critic, s, s).mean(1)  # the sum over actions alone
    total.sum().backward()
    assert learner.critic.c.grad.item() == pytest.approx(pushed, abs=0.01)


def test_calibration_ends_when_the_policy_acts_unless_it_is_kept():
    s = torch.zeros(4, 1)
    t = transition(s, s, 9.0)
    q = torch.zeros(1, 12)
    learner = cql_with(Flat(), calibrated=True, num_actions=1, offline_steps=10)
    assert learner._at_least(q, t, 9).tolist() == [[0.0] * 4 + [9.0] * 8]
    assert learner._at_least(q, t, 10).tolist() == [[0.0] * 12]
    learner.calibrated_online = True
    assert learner._at_least(q, t, 10).tolist() == [[0.0] * 4 + [9.0] * 8]


def test_log_probabilities_of_squashed_actions_integrate_to_one():
    learner = make("sac")
    grid = torch.linspace(-1 + 1e-4, 1 - 1e-4, 20_001)[:, None]
    density = learner.policy.log_prob(torch.zeros(len(grid), 1), grid).exp()
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("name", ["sac", "iql"])
def test_drawn_actions_are_as_likely_as_they_say(name):
    policy = make(name).policy
    features = torch.randn(16, 1)
    noise = BatchNoise(torch.Generator().manual_seed(0))
    action, log_prob = policy.choose(features, noise=noise)
    assert torch.allclose(policy.log_prob(features, action), log_prob, atol=1e-4)


def test_an_actor_sees_its_critics_and_leaves_them_alone():
    learner = make("sac", "algorithm.learn_alpha=false")
    batch = Transition.of(learner.policy, random_batch())
    losses, _ = learner.actor_losses(batch, 0, BatchNoise(torch.Generator()))
    losses["actor"].backward()
    assert all(p.grad is None for p in learner.critic.parameters())
    assert any(p.grad.abs().sum() > 0 for p in learner.policy.actor.parameters())
    assert all(p.requires_grad for p in learner.critic.parameters())


def test_frozen_modules_thaw_after_an_error():
    module = torch.nn.Linear(1, 1)
    with pytest.raises(RuntimeError), frozen(module):
        raise RuntimeError
    assert module.weight.requires_grad


def test_targets_follow_by_polyak():
    learner = make("sac", "algorithm.polyak=0.25")
    before = [x.clone() for x in learner.target.parameters()]
    learner.update(random_batch(), 0)
    pairs = zip(learner.target.parameters(), before, learner.critic.parameters(), strict=True)
    for target, old, new in pairs:
        assert torch.allclose(target, old + 0.25 * (new - old))


def test_the_actor_may_learn_less_often():
    learner = make("rlpd", "algorithm.actor_every=3")
    found = []
    for step in range(6):
        before = learner.inference_state()["actor.layers.0.weight"]
        learner.update(random_batch(), step)
        found.append(not learner.inference_state()["actor.layers.0.weight"].equal(before))
    assert found == [False, False, True, False, False, True]


def test_a_wrong_policy_is_named():
    learner = make("iql")
    with pytest.raises(ValueError, match=r"kind=deterministic.*'gaussian'"):
        TD3BC(learner.policy, world=WORLD, steps=1)
    deterministic = ActorPolicy(spec=SPEC, kind="deterministic", hidden=(4,))
    with pytest.raises(ValueError, match="kind=squashed"):
        SAC(deterministic, world=WORLD, steps=1)
    with pytest.raises(TypeError, match="policy=actor"):
        CQL(torch.nn.Linear(1, 1), world=WORLD, steps=1)


def test_batches_without_rewards_are_refused():
    learner = make("iql")
    batch = replace(random_batch(), reward=None)
    with pytest.raises(ValueError, match="source=rewards"):
        learner.update(batch, 0)


def test_a_misspelt_option_is_refused():
    config = compose("iql", "+algorithm.expectil=0.5")
    with pytest.raises((ConfigError, TypeError), match="expectil"):
        instantiate(config["algorithm"])(make("iql").policy, world=WORLD, steps=1, seed=0)
