"""Learning to reach goals in hindsight, on a chain of places whose distances are known."""

import functools
import json

import numpy as np
import pytest
import torch

from embodied.algorithms.actor_critic import Transition
from embodied.algorithms.gciql import GCIQL
from embodied.algorithms.hiql import HIQL
from embodied.data.goals import Goals
from embodied.distributed import World
from embodied.experiment import make_task, train
from embodied.hindsight import Hindsight, Paths
from embodied.noise import BatchNoise
from embodied.policies.actor import ActorPolicy
from embodied.policies.subgoals import SubgoalPolicy, scaled
from embodied.structs import Batch, Condition, Episode, Observation, Spec
from embodied.targets import ConfigError
from embodied.testing.algorithms import check_algorithm
from embodied.testing.policies import check_policy
from tests.conftest import REWARDED, compose_config

PLACES, DISCOUNT = 7, 0.9
SPEC = Spec(PLACES, 1, (-1.0,), (1.0,), rate_hz=10.0)
WORLD = World(0, 1, torch.device("cpu"))
CPU = torch.device("cpu")
VALUES = Goals(p_curgoal=0.2, p_trajgoal=0.5, p_randomgoal=0.3, geom_sample=True)


def walk(places):
    """An episode through places of the chain, each a unit vector; it acts to the next's side."""
    state = np.eye(PLACES, dtype=np.float32)[places]
    action = np.diff(places)[:, None].astype(np.float32)
    return Episode(state[:-1], action, "go", final={"state": state[-1]})


def random_walks(count=40, length=30):
    """To either side with equal chance, reflected at the ends."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        places = [int(random.integers(PLACES))]
        for _ in range(length):
            step = int(random.choice([-1, 1]))
            inside = 0 <= places[-1] + step < PLACES
            places.append(places[-1] + (step if inside else -step))
        found.append(walk(places))
    return found


def make_source(episodes=None, *, subgoal_steps=2, batch_size=256, **options):
    return Hindsight(
        Paths(random_walks() if episodes is None else episodes),
        batch_size=batch_size,
        discount=DISCOUNT,
        goals=VALUES,
        reached=Goals(),
        subgoal_steps=subgoal_steps,
        device=CPU,
        **options,
    )


def place(observation):
    """(B,) where on the chain."""
    return observation.state[:, -1].argmax(-1)


# The source


def test_each_step_is_followed_by_the_next_state_and_the_last_state_has_none():
    paths = Paths([walk([0, 1, 2]), walk([6, 5])])
    assert paths.steps.tolist() == [0, 1, 3]
    source = make_source([walk([0, 1, 2]), walk([6, 5])])
    batch = source.gather(paths.steps, torch.tensor([0, 4, 4]), torch.tensor([2, 2, 4]))
    assert place(batch.observation).tolist() == [0, 1, 6]
    assert place(batch.next_observation).tolist() == [1, 2, 5]
    assert batch.action[:, 0, 0].tolist() == [1, 1, -1]


def test_an_episode_without_a_last_state_loses_its_last_action():
    short = Episode(np.eye(PLACES, dtype=np.float32)[:3], np.ones((3, 1), np.float32), "go")
    assert Paths([short]).steps.tolist() == [0, 1]


def test_the_reward_is_0_at_the_goal_where_nothing_follows_and_minus_1_elsewhere():
    source = make_source([walk([0, 1, 2, 1])])
    batch = source.gather(torch.tensor([0, 1, 1]), torch.tensor([2, 1, 3]), torch.tensor([2, 2, 2]))
    assert batch.reward.tolist() == [-1, 0, 0]  # place 1 is the goal, whenever it was seen
    assert batch.discount.tolist() == pytest.approx([DISCOUNT, 0, 0])


def test_a_subgoal_is_some_steps_on_or_the_goal_if_that_comes_before():
    paths = Paths([walk(list(range(7))), walk([6, 5, 4])])
    index = torch.tensor([0, 0, 5, 0, 7])
    goal = torch.tensor([6, 2, 6, 8, 0])
    assert paths.towards(index, goal, 3).tolist() == [3, 2, 6, 3, 9]


def test_what_is_told_was_reached_later_and_subgoals_lie_on_the_way():
    batch = next(make_source([walk(list(range(7)))]))
    here, there, way = place(batch.observation), place(batch.reached), place(batch.subgoal)
    assert (there > here).all()
    assert way.equal(torch.minimum(here + 2, there))


def test_a_resumed_source_draws_the_same_batches():
    first = make_source()
    for _ in range(3):
        next(first)
    saved = json.loads(json.dumps(first.state_dict()))
    second = make_source()
    second.load_state_dict(saved)
    a, b = next(first), next(second)
    assert a.observation.state.equal(b.observation.state)
    assert a.condition.goal.state.equal(b.condition.goal.state)
    with pytest.raises(ValueError, match="seed"):
        make_source(seed=1).load_state_dict(saved)


# The learners


def fitted(policy):
    policy.fit_normalizers(Observation(torch.zeros(0, 1, PLACES)), Condition(), torch.zeros(0, 1))
    return policy


def make_gciql(seed=0, **options):
    torch.manual_seed(seed)
    policy = ActorPolicy(spec=SPEC, kind="gaussian", hidden=(32,), normalize=False, goal="state")
    settings = {"critic_hidden": (64,), "expectile": 0.95, "learning_rate": 3e-3, **options}
    return GCIQL(fitted(policy), world=WORLD, steps=100, polyak=0.05, seed=seed, **settings)


def make_hiql(seed=0, **options):
    torch.manual_seed(seed)
    policy = SubgoalPolicy(spec=SPEC, rep_dim=8, hidden=(64,), normalize=False)
    settings = {"critic_hidden": (64,), "expectile": 0.95, "learning_rate": 3e-3, **options}
    settings.setdefault("high_coefficient", 10.0)
    return HIQL(fitted(policy), world=WORLD, steps=100, polyak=0.05, seed=seed, **settings)


@functools.cache
def trained(make, steps, **options):
    learner, source = make(**options), make_source()
    for step in range(steps):
        learner.update(next(source), step)
    learner.policy.eval()
    return learner


def pairs():
    """All places with all goals: numbers (n,) of both, and features (n, 2 * PLACES)."""
    here, there = (x.flatten() for x in torch.meshgrid(*[torch.arange(PLACES)] * 2, indexing="ij"))
    eye = torch.eye(PLACES)
    return here, there, torch.cat([eye[here], eye[there]], -1)


def value_of(learner, features):
    if isinstance(learner, HIQL):
        return learner.v(features)
    return learner.value(features)[0, :, 0].detach()


LEARNERS = [(make_gciql, 900), (make_hiql, 400)]


@pytest.mark.parametrize(("make", "steps"), LEARNERS)
def test_values_are_the_discounted_steps_of_the_shortest_way(make, steps):
    """From walks that never went straight: -(1 - 0.9^d) / 0.1 at a distance of d."""
    here, there, features = pairs()
    distance = (here - there).abs()
    expected = -(1 - DISCOUNT**distance) / (1 - DISCOUNT)
    error = (value_of(trained(make, steps), features) - expected).abs()
    assert error.mean() < 0.15
    assert error.max() < 0.5


@pytest.mark.parametrize(("make", "steps"), LEARNERS)
def test_policies_go_the_shortest_way(make, steps):
    here, there, _ = pairs()
    away = here != there
    eye = torch.eye(PLACES)
    action = trained(make, steps).policy.act(
        Observation(eye[here][:, None]),
        Condition(goal=Observation(eye[there][:, None])),
        noise=BatchNoise(torch.Generator()),
    )[:, 0, 0]
    right = (action > 0) == (there > here)
    assert right[away].float().mean() > 0.95


def test_the_upper_level_picks_the_state_two_steps_nearer():
    """By the angle between what it says and every place as seen from here."""
    learner = trained(make_hiql, 400)
    here, there, features = pairs()
    eye = torch.eye(PLACES)
    said = scaled(learner.policy.subgoal(features))
    each = torch.stack(
        [
            learner.value.represent(torch.cat([eye[here], eye[k].expand(len(here), -1)], -1))
            for k in range(PLACES)
        ],
        1,
    )
    chosen = (each * said[:, None]).sum(-1).argmax(-1)
    far = (here - there).abs() >= 2
    expected = here + 2 * (there - here).sign()
    assert (chosen == expected)[far].float().mean() > 0.9


@pytest.mark.parametrize("make", [make_gciql, make_hiql])
def test_a_learner_keeps_the_contract(make):
    check_algorithm(make, next(make_source(batch_size=32)))


def test_the_policy_of_two_levels_keeps_the_contract():
    batch = next(make_source(batch_size=6))
    policy = make_hiql().policy
    own = Batch(batch.observation, batch.condition, batch.action, batch.mask)
    check_policy(policy, own)


def test_representations_have_one_length():
    z = make_hiql().value.represent(torch.randn(5, 2 * PLACES))
    assert z.norm(dim=-1).tolist() == pytest.approx([8**0.5] * 5, rel=1e-5)


def test_gradients_of_the_levels_leave_values_and_representation_alone():
    learner = make_hiql()
    t = Transition.of(learner.policy, next(make_source(batch_size=16)))
    (learner.high_loss(t)[0] + learner.low_loss(t)[0]).backward()
    assert all(p.grad is None for p in learner.value.parameters())
    assert all(p.grad is not None for p in learner.policy.parameters())


def test_a_policy_is_told_only_the_chosen_numbers_of_a_goal():
    policy = fitted(ActorPolicy(spec=SPEC, hidden=(4,), normalize=False, goal=[1, 3]))
    seen = Observation(torch.rand(2, 1, PLACES))
    goal = torch.rand(2, 1, PLACES)
    features = policy.features(seen, Condition(goal=Observation(goal)))
    assert features[:, PLACES:].equal(goal[:, 0, [1, 3]])


@pytest.mark.parametrize("goal", ["place", [7], []])
def test_a_goal_that_the_state_does_not_have_is_named(goal):
    with pytest.raises(ValueError, match=r"policy\.goal"):
        ActorPolicy(spec=SPEC, hidden=(4,), goal=goal)


def test_a_policy_that_is_not_told_its_goal_says_so():
    with pytest.raises(ValueError, match=r"protocol\.modalities=\[goal_state\]"):
        make_hiql().policy.features(Observation(torch.rand(1, 1, PLACES)), Condition())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: GCIQL(ActorPolicy(spec=SPEC, hidden=(4,)), world=WORLD, steps=1), "policy.goal"),
        (lambda: HIQL(make_hiql(expectile=1.0)), "expectile"),
        (lambda: make_source(subgoal_steps=0), "subgoal_steps"),
    ],
)
def test_wrong_settings_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_a_batch_without_goals_is_refused():
    learner = make_gciql()
    batch = next(make_source(batch_size=4))
    bare = Batch(**{**vars(batch), "reached": None})
    with pytest.raises(ValueError, match="source=hindsight"):
        learner.update(bare, 0)


GOALS = {
    "gciql": REWARDED,
    "hiql": (*REWARDED[:3], "policy.hidden=[8]", "algorithm.critic_hidden=[8]"),
}


@pytest.mark.parametrize("name", list(GOALS))
def test_a_run_trains_and_is_judged_by_goal_states(small, tmp_path, name):
    config = compose_config(
        *small, f"run_dir={tmp_path}", f"algorithm={name}", *GOALS[name], "source.subgoal_steps=3"
    )
    found = json.loads(train(config).read_text())
    assert found["protocol"] == "point@goal_state"


def test_a_protocol_of_words_is_refused(small, tmp_path):
    config = compose_config(
        *small,
        f"run_dir={tmp_path}",
        "algorithm=hiql",
        *GOALS["hiql"],
        "protocol.modalities=[language]",
    )
    with pytest.raises(ConfigError, match=r"protocol\.modalities=\[goal_state\]"):
        make_task(config).check()
