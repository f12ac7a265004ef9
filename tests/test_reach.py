import numpy as np
import pytest

from embodied.testing.worlds import check_env
from embodied_envs.reach import Reach


def play(skill, seed=0):
    """Where the point begins, and what share of the distance to the mark is left at the end."""
    suite = Reach(skill=skill)
    env = suite.make_env()
    state = env.reset(seed=0, options={"goal": seed})[0]["state"]
    expert = suite.expert("reach", seed=seed)
    start = np.linalg.norm(state[:2] - state[2:])
    for _ in range(suite.max_steps):
        state = env.step(expert(state))[0]["state"]
    return np.linalg.norm(state[:2] - state[2:]) / start


def test_it_is_a_world_like_others():
    check_env(Reach())


def test_experts_come_to_the_mark_and_stay():
    assert max(play((1.0, 1.0), seed) for seed in range(20)) < 0.01


def test_experts_that_do_not_care_seldom_come_there():
    assert np.median([play((0.0, 0.0), seed) for seed in range(20)]) > 0.3


def test_skill_depends_on_the_side():
    suite = Reach(skill=(1.0, 0.0))
    states = np.array([[-0.5, 0, 0.5, 0], [0.5, 0, -0.5, 0]])
    left, right = ([suite.expert("reach", seed=i)(s)[0] for i in range(50)] for s in states)
    assert set(np.round(left, 3)) == {1.0}
    assert np.std(right) > 0.4


def test_the_reward_is_minus_the_distance_and_nothing_terminates():
    env = Reach(max_steps=2).make_env()
    start = env.reset(options={"goal": 3})[0]["state"]
    _, reward, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
    assert reward == pytest.approx(-np.linalg.norm(start[:2] - start[2:]), abs=1e-6)
    assert (terminated, truncated) == (False, False)
    assert env.step(np.zeros(2, np.float32))[2:4] == (False, True)


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"skill.*\(1.0, 2.0\)"):
        Reach(skill=(1.0, 2.0))
