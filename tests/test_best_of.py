"""Choosing among what a policy draws, and IDQL, which learns how."""

import functools
import json

import pytest
import torch

from embodied.algorithms.idql import IDQL
from embodied.data.transitions import Layout
from embodied.distributed import World
from embodied.encoders.fuse import TokenEncoder
from embodied.encoders.observation import StateEncoder
from embodied.experiment import train
from embodied.heads.edm import EDMHead
from embodied.noise import BatchNoise, Repeated, RowNoise
from embodied.policies.actor import ActorPolicy
from embodied.policies.best_of import BestOfPolicy
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Batch, Condition, Observation, Spec
from embodied.testing.algorithms import check_algorithm
from embodied.testing.policies import check_policy

SPEC = Spec(2, 1, (-2.0,), (2.0,), rate_hz=10.0)
WORLD = World(0, 1, torch.device("cpu"))


def make_policy(**options):
    torch.manual_seed(0)
    inner = functools.partial(
        ChunkPolicy,
        encoder=functools.partial(TokenEncoder, {"state": StateEncoder}),
        head=functools.partial(EDMHead, num_layers=1, num_heads=2, sigma_max=5.0, num_steps=4),
        pred_horizon=4,
        dim=16,
    )
    sizes = {"action_horizon": 2, "num_candidates": 5, "critic_hidden": (8,)}
    policy = BestOfPolicy(spec=SPEC, policy=inner, **{**sizes, **options})
    states = torch.randn(64, 1, 2)
    actions = 4 * torch.rand(64, 1) - 2
    policy.fit_normalizers(Observation(states), Condition(), actions)
    return policy


def observe(rows, seed=0):
    return Observation(torch.randn(rows, 1, 2, generator=torch.Generator().manual_seed(seed)))


def noise(rows):
    return RowNoise([torch.Generator().manual_seed(i) for i in range(rows)])


def make_batch(rows=32, seed=0):
    layout = Layout(2, 1, pred_horizon=4, action_horizon=2, discount=0.9)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows, layout.width, generator=generator).clamp(-1.9, 1.9)
    drawn[:, -4], drawn[:, -2], drawn[:, -1] = 0.81, 4, 0
    return layout.batch(drawn, ("go",))


def test_it_is_a_policy_like_others():
    policy = make_policy()
    policy.critic.requires_grad_(False)  # it learns from rewards, which are not of this contract
    check_policy(policy, Batch(observe(6), Condition(), torch.rand(6, 4, 1), _mask(6)))


def _mask(rows):
    mask = torch.ones(rows, 4, dtype=torch.bool)
    mask[0, 2:] = False
    return mask


def test_one_candidate_is_the_policy_as_it_is():
    policy = make_policy(num_candidates=1)
    expected = policy.policy.act(observe(3), Condition(), noise=noise(3))
    assert policy.act(observe(3), Condition(), noise=noise(3)).equal(expected)


class Likes(torch.nn.Module):
    """Values decisions, the last numbers of (x, a_0, a_1), by their first action."""

    def __init__(self, sign):
        super().__init__()
        self.sign = sign

    def forward(self, x):
        value = self.sign * x[:, 2:3]
        return torch.stack([value, value + 100])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_candidate_that_the_lowest_critic_values_most_is_executed(sign):
    policy = make_policy()
    policy.critic = Likes(sign)
    found = policy.act(observe(3), Condition(), noise=noise(3))
    drawn = policy.policy.act(
        observe(3).repeated(5), Condition(), noise=Repeated(noise(3), 5)
    ).reshape(3, 5, 4, 1)
    best = (sign * drawn[:, :, 0, 0]).argmax(1)
    assert len(drawn[:, :, 0, 0].unique()) == 15
    assert found.equal(drawn[torch.arange(3), best])


def test_repeated_noise_draws_each_rows_own():
    single = noise(2).normal(2, 3, 1, device=torch.device("cpu"))
    repeated = Repeated(noise(2), 3).normal(6, 1, device=torch.device("cpu"))
    assert repeated.equal(single.flatten(0, 1))


def test_repeated_rows_lie_beside_each_other():
    condition = Condition(language=("a", "b"), present={"language": torch.tensor([True, False])})
    found = condition.repeated(2)
    assert found.language == ("a", "a", "b", "b")
    assert found.present["language"].tolist() == [True, True, False, False]


def make_learner(**options):
    return IDQL(make_policy(), world=WORLD, steps=100, value_hidden=(8,), **options)


@pytest.mark.parametrize("keep", ["all", "better"])
def test_the_learner_keeps_the_contract(keep):
    check_algorithm(functools.partial(make_learner, keep=keep), make_batch())


def test_only_better_actions_are_cloned_where_asked():
    learner = make_learner(keep="better")
    with torch.no_grad():  # V = 1000: nothing is better
        learner.value.layers[-1].bias.fill_(1000.0)
    metrics = learner.update(make_batch(), 0)
    assert metrics["kept"] == 0
    assert metrics["actor_loss"] == 0


def test_it_learns_which_of_two_ways_pays():
    """Data act 1 or -1 in equal parts, and 1 earns: the policy draws both and executes 1."""
    learner = IDQL(
        make_policy(num_candidates=8, action_horizon=1),
        world=WORLD,
        steps=400,
        value_hidden=(16,),
        learning_rate=3e-3,
        actor_learning_rate=3e-3,
    )
    layout = Layout(2, 1, pred_horizon=4, discount=0.9)
    generator = torch.Generator().manual_seed(0)
    for step in range(400):
        way = 2.0 * torch.randint(2, (64, 1), generator=generator) - 1
        states = 0.1 * torch.randn(64, 2, generator=generator)
        columns = [states, way.expand(-1, 4), states, way, 0 * way, 0 * way, 0 * way + 4, 0 * way]
        learner.update(layout.batch(torch.cat(columns, 1), ("go",)), step)
    policy = learner.policy.eval()
    observation = Observation(torch.zeros(64, 1, 2))
    drawn = policy.policy.act(observation, Condition(), noise=BatchNoise(torch.Generator()))
    share = (drawn[:, 0, 0] > 0).float().mean().item()
    assert 0.2 < share < 0.8
    chosen = policy.act(observation, Condition(), noise=BatchNoise(torch.Generator()))
    assert (chosen[:, 0, 0] > 0.5).float().mean().item() > 0.9


def test_a_trained_policy_is_improved_from_its_run(compose, small, tmp_path):
    from tests.conftest import compose_config

    train(compose(tmp_path / "base"))
    overrides = (
        "algorithm=idql",
        "source=offline_to_online",
        "source.offline_steps=2",
        "source.warmup_steps=3",
        "source.ends_at_success=true",
        "source.reward.of=success",
        "~policy.dim",
        "~policy.encoder",
        "~policy.head",
        "policy.policy.dim=16",
        "policy.policy.head.num_layers=1",
        "policy.policy.head.num_heads=2",
        "~policy.policy.encoder.parts.language",
        "+policy.policy.encoder.parts.state.pieces=[2, 2, 2, 2, 2]",
        "policy.num_candidates=3",
        "policy.critic_hidden=[8]",
        "eval.every=3",
        "train.steps=4",
        f"init_from={tmp_path / 'base'}",
    )
    config = compose_config(*small, f"run_dir={tmp_path / 'better'}", *overrides)
    result = train(config)
    assert json.loads(result.read_text())["protocol"] == "point"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_candidates": 0}, "num_candidates.*0"),
        ({"action_horizon": 5}, r"action_horizon.*\[1, 4\].*5"),
    ],
)
def test_options_out_of_range_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        make_policy(**options)


def test_a_policy_without_candidates_is_refused():
    actor = ActorPolicy(spec=SPEC, hidden=(4,))
    with pytest.raises(TypeError, match=r"policy=best_of.*ActorPolicy"):
        IDQL(actor, world=WORLD, steps=1)
