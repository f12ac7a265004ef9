"""The point world: what it shows, when it succeeds, and what it refuses."""

from __future__ import annotations

import pickle
import time
import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from embodied_envs.point import APART, CAMERAS, COLOURS, TASKS, PointSuite, draw


def run_expert(
    suite: PointSuite, told: str, task: str, goal: int, seed: int = 0
) -> tuple[bool, int]:
    env = suite.make_env()
    observation, _ = env.reset(seed=seed, options={"task": task, "goal": goal})
    act = suite.expert(told)
    for step in range(suite.max_steps):
        observation, _, terminated, truncated, info = env.step(act(observation["state"]))
        if terminated or truncated:
            return info["success"], step + 1
    raise AssertionError("the episode did not end at max_steps")


def test_gymnasium_accepts_the_environment() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Gymnasium's checker asks for a registered spec only to report it.
        warnings.filterwarnings("ignore", message=".*not based on `gymnasium.make`.*")
        warnings.filterwarnings("ignore", message=".*spec.*")
        check_env(PointSuite(cameras=CAMERAS).make_env(), skip_render_check=True)


def test_the_expert_solves_every_task_and_layout_in_time() -> None:
    suite = PointSuite()
    runs = [
        run_expert(suite, task, task, goal, seed)
        for task in TASKS
        for goal in range(suite.num_goals)
        for seed in (0, 1)
    ]
    assert all(success for success, _ in runs)
    assert max(steps for _, steps in runs) < suite.max_steps


def test_only_the_pad_that_the_task_names_counts() -> None:
    suite = PointSuite()
    outcomes = [run_expert(suite, "reach-red", "reach-blue", goal) for goal in range(10)]
    # A path to the red pad may happen to cross the blue one, but seldom does.
    assert sum(success for success, _ in outcomes) <= 2
    assert (False, suite.max_steps) in outcomes


def test_the_state_does_not_tell_the_tasks_apart() -> None:
    env = PointSuite().make_env()
    states = [
        env.reset(seed=3, options={"task": task, "goal": 5})[0]["state"].tolist() for task in TASKS
    ]
    assert states.count(states[0]) == len(TASKS)


def test_seed_goal_and_benchmark_seed_draw_what_they_should() -> None:
    env = PointSuite().make_env()

    def start(seed: int, goal: int, benchmark_seed: int) -> tuple[list[float], list[float]]:
        options = {"task": "reach-red", "goal": goal, "benchmark_seed": benchmark_seed}
        state = env.reset(seed=seed, options=options)[0]["state"].tolist()
        return state[:2], state[2:]

    base = start(1, 2, 3)
    assert start(1, 2, 3) == base
    assert start(9, 2, 3)[0] != base[0]
    assert start(9, 2, 3)[1] == base[1]
    assert start(1, 8, 3)[1] != base[1]
    assert start(1, 2, 8)[1] != base[1]


def test_pads_and_start_lie_apart_on_the_table() -> None:
    env = PointSuite().make_env()
    for goal in range(50):
        state = env.reset(seed=goal, options={"goal": goal})[0]["state"].astype(float)
        points = state.reshape(5, 2)
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(5, 1)]
        assert np.abs(points).max() <= 0.9
        assert gaps.min() >= APART - 1e-6


def test_one_step_moves_by_a_twentieth_and_pays_minus_the_distance() -> None:
    env = PointSuite().make_env()
    before = env.reset(seed=0)[0]["state"].astype(float)
    observation, reward, *_ = env.step(np.array([0.5, -7.0], np.float32))  # -7 is clipped to -1
    after = observation["state"].astype(float)
    np.testing.assert_allclose(after[:2] - before[:2], [0.025, -0.05], atol=1e-6)
    np.testing.assert_allclose(reward, -np.hypot(*(after[:2] - after[2:4])), rtol=1e-5)


def test_an_action_that_is_not_finite_ends_the_episode_as_unstable() -> None:
    env = PointSuite().make_env()
    before = env.reset(seed=0)[0]["state"]
    observation, reward, terminated, truncated, info = env.step(np.array([np.nan, 0], np.float32))
    assert (terminated, truncated) == (False, True)
    assert info["unstable"] is True
    assert info["success"] is False
    assert "not finite" in info["reason"]
    assert np.isfinite(reward)
    np.testing.assert_array_equal(observation["state"], before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "reach-pink"}, r"unknown task 'reach-pink'; choose from: reach-red, "),
        ({"goal": 50}, r"goal must lie in \[0, 49\] .* got 50"),
        ({"goal": -1}, "got -1"),
        ({"benchmark_seed": -2}, "got -2"),
        ({"gaol": 1}, "unknown option 'gaol'; choose from: task, goal"),
    ],
)
def test_a_wrong_option_is_named_with_its_choices(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PointSuite().make_env().reset(seed=0, options=options)


def test_an_unknown_camera_or_task_is_refused_when_the_suite_is_made() -> None:
    with pytest.raises(ValueError, match="unknown cameras 'side'; choose from: top"):
        PointSuite(cameras=("side",))
    with pytest.raises(ValueError, match="unknown tasks 'reach-pink'"):
        PointSuite(tasks=("reach-pink",))


def test_every_wording_names_its_pad_and_held_out_ones_are_new() -> None:
    suite = PointSuite()
    seen: set[str] = set()
    for task in suite.tasks:
        texts = suite.texts(task)
        every = (texts.canonical, *texts.paraphrases, *texts.held_out)
        assert len(texts.paraphrases) >= 8
        assert len(texts.held_out) >= 2
        assert len(set(every)) == len(every)
        assert all(task.removeprefix("reach-") in text for text in every)
        assert seen.isdisjoint(every)
        seen.update(every)


def test_the_camera_shows_each_pad_where_it_lies() -> None:
    suite = PointSuite(cameras=CAMERAS, image_size=(40, 80))
    observation, _ = suite.make_env().reset(seed=0, options={"goal": 4})
    image, state = observation["top"], observation["state"]
    assert image.shape == (40, 80, 3)
    for pad, colour in enumerate(COLOURS.values(), start=1):
        x, y = state[2 * pad : 2 * pad + 2].tolist()
        rows, columns = np.nonzero((image == colour).all(-1))
        assert abs(rows.mean() - (1 - y) / 2 * 40) < 2  # y points up
        assert abs(columns.mean() - (1 + x) / 2 * 80) < 2


def test_the_point_stays_visible_in_the_corner_of_a_tiny_image() -> None:
    corner = np.concatenate([[1.0, -1.0], np.zeros(8)])
    assert draw(corner, (4, 4))[3, 3].tolist() == [20, 20, 20]


def test_rendering_needs_a_size() -> None:
    assert PointSuite().make_env(render_size=(12, 20)).render().shape == (12, 20, 3)
    with pytest.raises(ValueError, match="render_size"):
        PointSuite().make_env().render()


def test_a_suite_survives_pickling() -> None:
    suite = PointSuite(tasks=("reach-blue",), cameras=("top",))
    assert pickle.loads(pickle.dumps(suite)) == suite


def test_a_step_takes_microseconds() -> None:
    env = PointSuite(max_steps=10**9).make_env()
    env.reset(seed=0)
    action = np.array([0.1, -0.1], np.float32)
    start = time.process_time()
    for _ in range(2000):
        env.step(action)
    assert (time.process_time() - start) / 2000 < 200e-6  # about 8 us; slack for a slow machine
