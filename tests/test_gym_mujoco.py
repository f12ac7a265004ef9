"""Gymnasium's MuJoCo tasks behind the contract, with the library's own numbers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from embodied.suites import NoExpertError, Suite
from embodied.testing import check_env
from embodied_envs.catalogue import read_catalogue
from embodied_envs.gym_mujoco import GymMujoco
from embodied_envs.simulated_env import initial_seed

CATALOGUE = read_catalogue("gym_mujoco")


def one(task: str, **fields: Any) -> GymMujoco:
    return GymMujoco(tasks=(task,), **fields)


@pytest.mark.parametrize("task", ["HalfCheetah-v5", "Hopper-v5", "Reacher-v5"])
def test_a_task_keeps_the_contract(task: str) -> None:
    check_env(one(task))


@pytest.mark.slow
@pytest.mark.parametrize("task", CATALOGUE)
def test_every_task_keeps_the_contract(task: str) -> None:
    check_env(one(task), num_steps=50)


@pytest.mark.slow
@pytest.mark.parametrize("task", CATALOGUE)
def test_every_task_shows_itself(task: str) -> None:
    check_env(one(task, observation="pixels", image_size=(16, 16)), num_steps=3)


@pytest.mark.parametrize("task", CATALOGUE)
def test_the_catalogue_states_the_librarys_facts(task: str) -> None:
    facts = CATALOGUE[task]
    env: Any = gymnasium.make(task)
    assert env.observation_space.shape == (facts.state_dim,)
    assert env.action_space.shape == (facts.action_dim,)
    np.testing.assert_allclose(1 / env.unwrapped.dt, facts.rate_hz, rtol=1e-6)
    assert env.spec.max_episode_steps == facts.max_steps
    if facts.measure == "return" and env.spec.reward_threshold is not None:
        assert facts.threshold == env.spec.reward_threshold


def test_the_default_is_a_suite() -> None:
    suite: Suite = GymMujoco()
    assert (suite.name, suite.max_steps, suite.rate_hz) == ("gym_mujoco/HalfCheetah-v5", 1000, 20)


@pytest.mark.parametrize("task", ["Ant-v5", "Walker2d-v5", "Reacher-v5"])
def test_observations_and_rewards_are_the_librarys(task: str) -> None:
    env = one(task).make_env()
    observation, _ = env.reset(options={"goal": 4, "benchmark_seed": 6})
    theirs = gymnasium.make(task)
    expected, _ = theirs.reset(seed=initial_seed(6, 4))
    np.testing.assert_array_equal(observation["state"], expected.astype(np.float32))
    space: Any = theirs.action_space
    random = np.random.default_rng(1)
    for _ in range(10):
        action = random.uniform(space.low, space.high)
        expected, expected_reward, terminated, _, _ = theirs.step(action)
        observation, reward, ended, _, _ = env.step(action)
        np.testing.assert_array_equal(observation["state"], expected.astype(np.float32))
        np.testing.assert_allclose(reward, expected_reward, rtol=1e-6)
        assert ended == terminated
        if ended:
            break


def test_a_fall_terminates_and_the_horizon_truncates() -> None:
    env = one("InvertedPendulum-v5").make_env()
    env.reset(options={"goal": 0})
    while True:
        _, _, terminated, truncated, info = env.step(np.array([3.0], np.float32))
        if terminated or truncated:
            break
    assert (terminated, truncated, info["unstable"]) == (True, False, False)
    suite = one("Reacher-v5")
    env = suite.make_env()
    env.reset(options={"goal": 0})
    flags = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(suite.max_steps)]
    assert flags == [(False, False)] * 49 + [(False, True)]


def test_an_action_repeat_ends_with_the_fall() -> None:
    env = one("InvertedPendulum-v5", action_repeat=100).make_env()
    env.reset(options={"goal": 0})
    _, reward, terminated, _, info = env.step(np.array([3.0], np.float32))
    assert terminated
    assert reward == info["return"] < 100


def test_an_action_out_of_bounds_is_clipped_before_it_costs() -> None:
    rewards = []
    for size in (1.0, 50.0):
        env = one("HalfCheetah-v5").make_env()
        env.reset(options={"goal": 0})
        rewards.append(env.step(np.full(6, size, np.float32))[1])
    assert rewards[0] == rewards[1]


def test_the_arms_succeed_near_the_goal() -> None:
    env = one("Reacher-v5").make_env()
    env.reset(options={"goal": 0})
    assert not env.step(np.zeros(2, np.float32))[4]["success"]
    tip = env._simulator._env.get_body_com("fingertip")
    env._simulator.data.qpos[2:] += tip[:2] - env._simulator._env.get_body_com("target")[:2]
    env._simulator.data.qvel[:] = 0.0
    assert env.step(np.zeros(2, np.float32))[4]["success"]


def test_tasks_of_one_suite_must_run_at_one_rate() -> None:
    words = "Walker2d-v5 has rate_hz 125, not 20 as HalfCheetah-v5 has"
    with pytest.raises(ValueError, match=words):
        GymMujoco(tasks=("HalfCheetah-v5", "Walker2d-v5"))


def test_two_humanoids_share_a_suite() -> None:
    check_env(GymMujoco(tasks=("Humanoid-v5", "HumanoidStandup-v5")), num_steps=3)


def test_every_wording_belongs_to_one_task() -> None:
    owners: dict[str, str] = {}
    for task, facts in CATALOGUE.items():
        for text in (*facts.texts.trained, *facts.texts.held_out):
            assert owners.setdefault(text, task) == task, text


def test_nobody_demonstrates() -> None:
    with pytest.raises(NoExpertError, match="gym_mujoco/HalfCheetah-v5 has no scripted expert"):
        GymMujoco().expert("HalfCheetah-v5")


def test_a_model_without_cameras_is_seen_from_a_distance() -> None:
    env = one("Reacher-v5").make_env(render_size=(24, 24))
    env.reset(options={"goal": 0})
    assert env.render().std() > 5
    env.close()
