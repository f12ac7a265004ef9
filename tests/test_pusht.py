"""PushT behind the contract, with the library's own numbers; its expert."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from embodied.suites import Suite
from embodied.testing import check_env
from embodied_envs.pusht import CAMERA, STATE_DIMS, PushT
from embodied_envs.pusht_expert import TARGET, distance, outline, to_world, way_point
from embodied_envs.simulated_env import initial_seed

pytest.importorskip("gym_pusht")


def run_expert(goal: int, benchmark_seed: int = 0) -> tuple[bool, float, int]:
    """Whether the expert succeeds, the greatest coverage, and the number of steps."""
    suite = PushT()
    env = suite.make_env()
    env.reset(options={"goal": goal, "benchmark_seed": benchmark_seed})
    expert = suite.expert("push-t")
    for step in range(suite.max_steps):
        _, _, terminated, truncated, info = env.step(expert(env.full_observation))
        if terminated or truncated:
            return info["success"], info["metrics"]["coverage"], step + 1
    raise AssertionError("the episode did not end at max_steps")


@pytest.mark.parametrize("observation", STATE_DIMS)
def test_every_observation_keeps_the_contract(observation: Any) -> None:
    suite: Suite = PushT(observation=observation, image_size=(24, 32))
    check_env(suite)


def test_observations_rewards_and_pictures_are_the_librarys() -> None:
    from gym_pusht.envs import PushTEnv

    env = PushT(observation="mixed").make_env()
    theirs = PushTEnv(obs_type="state")
    observation, _ = env.reset(options={"goal": 4, "benchmark_seed": 6})
    expected, _ = theirs.reset(seed=initial_seed(6, 4))
    np.testing.assert_array_equal(observation["state"], expected.astype(np.float32))
    for action in np.random.default_rng(0).uniform(0, 512, (20, 2)):
        observation, reward, *_ = env.step(action)
        expected, expected_reward, *_ = theirs.step(action)
        np.testing.assert_array_equal(observation["state"], expected.astype(np.float32))
        assert reward == expected_reward
    np.testing.assert_array_equal(observation[CAMERA], theirs._render())
    observation, _ = PushT(observation="keypoints").make_env().reset(options={"goal": 0})
    block = observation["state"][2:].reshape(8, 2)
    np.testing.assert_allclose(np.linalg.norm(block[0] - block[1]), 120, rtol=1e-4)  # the bar


def test_the_block_on_its_target_is_success() -> None:
    env = PushT().make_env()
    env.reset(options={"goal": 0})
    env._env._set_state([20.0, 20.0, *TARGET])
    # The library sets the angle last, which turns the block about its centre of mass.
    env._env.block.position = tuple(TARGET[:2])
    _, reward, terminated, truncated, info = env.step(np.array([20.0, 20.0]))
    assert (terminated, truncated, info["success"]) == (True, False, True)
    assert reward == 1.0
    assert info["metrics"]["coverage"] > 0.99


def test_coverage_is_the_greatest_so_far_and_the_horizon_truncates() -> None:
    env = PushT(max_steps=3).make_env()
    env.reset(options={"goal": 0})
    env._env.block.position = (266.0, 256.0)
    env._env.block.angle = np.pi / 4
    first = env.step(np.array([20.0, 20.0]))[4]["metrics"]["coverage"]
    env._env.block.position = (100.0, 100.0)
    _, reward, terminated, truncated, info = env.step(np.array([20.0, 20.0]))
    assert (terminated, truncated) == (False, False)
    assert reward < first == info["metrics"]["coverage"]
    assert env.step(np.array([20.0, 20.0]))[2:4] == (False, True)
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step(np.array([20.0, 20.0]))


def test_an_action_that_is_not_finite_truncates() -> None:
    env = PushT().make_env()
    before, _ = env.reset(options={"goal": 0})
    after, reward, terminated, truncated, info = env.step(np.array([np.nan, 1.0]))
    np.testing.assert_array_equal(before["state"], after["state"])
    assert (reward, terminated, truncated, info["unstable"]) == (0.0, False, True, True)
    assert "not finite" in info["reason"]


def test_the_expert_succeeds() -> None:
    assert [run_expert(goal)[0] for goal in range(3)] == [True] * 3


@pytest.mark.slow
def test_the_expert_succeeds_at_nearly_all_goals() -> None:
    results = [run_expert(goal, seed) for goal in range(50) for seed in (0, 1)]
    solved, coverage, steps = zip(*results, strict=True)
    print(f"{sum(solved)} of {len(solved)}, mean coverage {np.mean(coverage):.3f}, {max(steps)}")
    assert sum(solved) >= 95


def test_the_way_leads_around_the_block() -> None:
    pose = np.array([256.0, 200.0, 0.0])  # the bar above, the stem below it
    place, goal = np.array([200.0, 280.0]), np.array([312.0, 280.0])  # on either side of the stem
    length = 0.0
    for _ in range(60):
        target = way_point(place, goal, pose)
        length += float(np.linalg.norm(target - place))
        place = target
        assert distance(place, pose) > 15
        if np.array_equal(place, goal):
            break
    assert np.array_equal(place, goal)
    assert 112 < length < 500


def test_the_outline_is_the_blocks_and_faces_inwards() -> None:
    points, normals = outline()
    assert distance(points, np.zeros(3)).max() == 0
    assert (distance(points + 2 * normals, np.zeros(3)) == 0).all()
    assert distance(points - 2 * normals, np.zeros(3)).min() > 1
    shifted = to_world(points, TARGET)
    np.testing.assert_allclose(distance(shifted, TARGET), 0, atol=1e-9)


def test_wordings_are_new_where_they_are_held_out() -> None:
    texts = PushT().texts("push-t")
    assert set(texts.trained).isdisjoint(texts.held_out)
    assert len(set(texts.trained)) == 10


def test_no_window_opens_and_the_display_stays_as_it_was() -> None:
    code = (
        "from embodied_envs.pusht import PushT\n"
        "env = PushT(observation='pixels').make_env(render_size=(40, 60))\n"
        "env.reset(options={'goal': 0}); print(env.render().shape, end=' ')\n"
        "import os, pygame; print(pygame.display.get_init(), os.environ.get('SDL_VIDEODRIVER'))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["(40, 60, 3) False None"], done.stderr


def test_wrong_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'keypoints'"):
        PushT(observation="keypoint")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_steps must be 1 or more"):
        PushT(max_steps=0)
    with pytest.raises(ValueError, match="task must be one of push-t"):
        PushT().expert("push")
