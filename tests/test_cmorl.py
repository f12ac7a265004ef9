"""C-MORL: extensions in a world of two objectives whose front is known, and the search."""

import functools

import numpy as np
import pytest
import torch

from embodied.algorithms.cmorl import ConstrainedPPO
from embodied.algorithms.ppo import PPO
from embodied.build import instantiate
from embodied.distributed import World
from embodied.experiment import train as train_run
from embodied.loggers import read_jsonl
from embodied.noise import BatchNoise
from embodied.objectives.pareto import undominated
from embodied.pareto_search import Found, search
from embodied.policies.actor import ActorPolicy
from embodied.structs import Batch, Condition, Observation, Spec
from embodied.testing.algorithms import check_algorithm
from embodied_envs.gym_mujoco import GymMujoco
from tests.conftest import compose_config

SPEC = Spec(1, 1, (-2.0,), (2.0,), rate_hz=10.0)
WORLD = World(0, 1, torch.device("cpu"))
LOWEST = (-20.0, -20.0)
STATE = Observation(torch.zeros(256, 1, 1))


def earned(action):
    """Returns (n, 2) of actions (n,): the front is a in [-1, 1], where one's gain is the other's
    loss."""
    return torch.stack([10 - (action - 1) ** 2, 10 - (action + 1) ** 2], -1)


def make(kind, seed=0, **options):
    torch.manual_seed(seed)
    policy = ActorPolicy(spec=SPEC, kind="clipped", hidden=(16,), normalize=False)
    policy.fit_normalizers(Observation(torch.zeros(0, 1, 1)), Condition(), torch.zeros(0, 1))
    return kind(
        policy,
        world=WORLD,
        steps=100,
        value_hidden=(16,),
        learning_rate=0.01,
        minibatch_size=128,
        epochs=4,
        normalize_states=False,
        **options,
    )


def draw(learner, step):
    noise = BatchNoise(torch.Generator().manual_seed(step))
    with torch.no_grad():
        action = learner.policy.explore(STATE, Condition(), noise=noise)
    n = len(action)
    return Batch(
        observation=STATE,
        condition=Condition(),
        action=action,
        mask=torch.ones(n, 1, dtype=torch.bool),
        reward=torch.zeros(n),
        discount=torch.zeros(n),
        next_observation=STATE,
        continues=torch.zeros(n, dtype=torch.bool),
        objectives=earned(action[:, 0, 0]),
    )


def train(learner, steps):
    for step in range(steps):
        learner.update(draw(learner, step), step)
    return learner


def action_of(learner):
    noise = BatchNoise(torch.Generator())
    return learner.policy.act(STATE.rows(0, 1), Condition(), noise=noise)[0, 0, 0]


@pytest.mark.parametrize(("weights", "best"), [((1.0, 0.0), 1.0), ((0.5, 0.5), 0.0)])
def test_ppo_comes_to_the_best_action_for_its_weights(weights, best):
    learner = train(make(PPO, weights=weights), 40)
    assert action_of(learner).item() == pytest.approx(best, abs=0.2)


def extension(raised, **options):
    return make(ConstrainedPPO, weights=(1.0, 1.0), raised=raised, lowest=LOWEST, **options)


def go_on(start, raised, steps=10, **options):
    learner = extension(raised, **options)
    learner.policy.load_state_dict(start.policy.state_dict())
    learner.parts.load_state_dict(start.parts.state_dict())
    return train(learner, steps)


def test_an_extension_raises_its_objective_from_the_middle_of_the_front():
    middle = train(make(PPO, weights=(0.5, 0.5)), 40)
    for raised in (0, 1):
        before = earned(action_of(middle)[None])[0]
        after = earned(action_of(go_on(middle, raised))[None])[0]
        assert after[raised] > before[raised] + 0.2


def test_a_sharp_wall_slows_what_costs_the_others():
    """The same start, steps and draws: t = 20 is hardly felt, t = 0.05 is a wall."""
    middle = train(make(PPO, weights=(0.5, 0.5)), 40)
    soft, hard = (action_of(go_on(middle, 0, sharpness=t)).item() for t in (20.0, 0.05))
    assert hard < soft - 0.05


def test_an_extension_keeps_the_contract():
    batch = draw(extension(0), 0)
    check_algorithm(functools.partial(extension, 0), batch)


@pytest.mark.parametrize("raised", [-1, 2])
def test_an_objective_that_is_not_there_cannot_be_raised(raised):
    with pytest.raises(ValueError, match=r"algorithm\.raised"):
        extension(raised)


# The search, with policies that are numbers


def start(weights):
    action = float(weights[0] - weights[1])  # the best for these weights
    return Found(np.array([-((action - 1) ** 2), -((action + 1) ** 2)]), action)


def extend(found, k):
    action = found.state + (0.25 if k == 0 else -0.25)
    return Found(np.array([-((action - 1) ** 2), -((action + 1) ** 2)]), action)


def test_a_search_without_rounds_is_one_policy_for_each_weight():
    grid = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    assert [x.state for x in search(start, extend, grid, rounds=0)] == [-1, 0, 1]


def test_each_round_fills_the_gaps_and_what_is_beaten_is_dropped():
    grid = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    first = search(start, extend, grid, rounds=1)
    assert sorted(x.state for x in first) == [-1, -0.75, -0.25, 0, 0.25, 0.75, 1]
    last = search(start, extend, grid, rounds=4)
    assert sorted(x.state for x in last) == [k / 4 for k in range(-4, 5)]
    returns = np.stack([x.returns for x in last])
    assert len(undominated(returns)) == len(last)


def test_none_is_extended_twice():
    seen = []

    def count(found, k):
        seen.append((found.state, k))
        return extend(found, k)

    search(start, count, np.array([[0.0, 1.0], [1.0, 0.0]]), rounds=6, count=2)
    assert len(seen) == len(set(seen))


def test_a_full_front_drops_its_thickest_crowd():
    grid = np.stack([np.linspace(0, 1, 9), 1 - np.linspace(0, 1, 9)], -1)
    found = search(start, extend, grid, rounds=0, capacity=3)
    assert [x.state for x in found] == pytest.approx([-1, 0, 1], abs=0.3)


def test_the_parts_of_a_cheetahs_reward_add_up_to_it():
    suite = instantiate(
        {
            "_target_": "embodied_envs.gym_mujoco.GymMujoco",
            "measured": ["reward_forward", "reward_ctrl"],
        }
    )
    assert isinstance(suite, GymMujoco)
    env = suite.make_env()
    env.reset(options={"task": "HalfCheetah-v5", "goal": 0})
    total = 0.0
    for k in range(5):
        _, reward, _, _, info = env.step(np.full(6, 0.1 * k, np.float32))
        total += reward
        assert sum(info["metrics"].values()) == pytest.approx(total)
        assert info["metrics"]["reward_ctrl"] <= 0
    env.close()


CHEETAH = (
    "task=gym_mujoco",
    "+task.suite.measured=[reward_forward,reward_ctrl]",
    "device=cpu",
    "env.backend=python",
    "env.num_envs=1",
    "env.workers=0",
    "policy.hidden=[8]",
    "algorithm.value_hidden=[8]",
    "source.objectives=[reward_forward,reward_ctrl]",
    "source.num_steps=16",
    "train.steps=2",
    "train.batch_size=8",
    "protocol.goals_per_task=1",
    "protocol.max_steps=4",
    "video.per_task=0",
)


def test_a_run_for_weights_is_extended_in_one_objective(tmp_path):
    first = compose_config(
        *CHEETAH, "algorithm=ppo", "algorithm.weights=[0.5,0.5]", f"run_dir={tmp_path / 'first'}"
    )
    train_run(first)
    second = compose_config(
        *CHEETAH,
        "algorithm=cmorl",
        "algorithm.raised=1",
        "algorithm.lowest=[-100,-100]",
        f"run_dir={tmp_path / 'second'}",
        f"init_from={tmp_path / 'first'}",
    )
    train_run(second)
    rows = read_jsonl(tmp_path / "second" / "metrics.jsonl")
    assert [row["step"] for row in rows if "barrier" in row] == [1, 2]
