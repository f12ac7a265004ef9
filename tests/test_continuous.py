"""Continuous goals: which episodes a split has, what counts as held, and experts that hold it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from embodied.suites import Suite
from embodied.testing import check_env
from embodied_envs.continuous import GRID, OFF_GRID, Continuous, Split, parse_task
from embodied_envs.continuous_scene import (
    BAND,
    FAR,
    HOLD_STEPS,
    MECHANISMS,
    NOVEL_POSES,
    OBJECTS,
    STILL,
    TRAINED_POSES,
    ContinuousScene,
    view,
)
from embodied_envs.continuous_text import continuous_texts, number_word
from embodied_envs.scene import RATE_HZ
from embodied_envs.simulated_env import SimulatedEnv

SPLITS: tuple[Split, ...] = ("seen", "novel_pose", "novel_state", "any_state")
IDLE = np.zeros(3, np.float32)


def start(suite: Continuous, task: str, goal: int = 0) -> tuple[SimulatedEnv, Any]:
    env = suite.make_env()
    options = {"task": task, "goal": goal, "benchmark_seed": 7}
    return env, env.reset(seed=goal, options=options)[0]["state"]


def scene_of(env: SimulatedEnv) -> ContinuousScene:
    assert isinstance(env._simulator, ContinuousScene)
    return env._simulator


def place(env: SimulatedEnv, name: str, fraction: float, speed: float = 0.0) -> None:
    """Opens an object by hand."""
    scene = scene_of(env)
    joint = scene.model.joint(name)
    scene.data.qpos[joint.qposadr] = fraction * joint.range[1]
    scene.data.qvel[joint.dofadr] = speed * joint.range[1]


def solve(suite: Continuous, task: str, goal: int) -> tuple[bool, bool]:
    """Whether the task's expert succeeded, and whether the episode terminated."""
    env, state = start(suite, task, goal)
    expert = suite.expert(task, seed=goal)
    for _ in range(suite.max_steps):
        observation, _, terminated, truncated, info = env.step(expert(state))
        state = observation["state"]
        if terminated or truncated:
            break
    return info["success"], terminated


# --- the suite -----------------------------------------------------------------------------------


def test_two_tasks_keep_the_contract() -> None:
    check_env(Continuous(tasks=("drawer-25", "knob-100"), goal_visible=True))


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_every_task_of_every_split_keeps_the_contract(split: Split) -> None:
    check_env(Continuous(split=split), num_steps=50)


def test_the_suite_is_a_suite_and_survives_pickling() -> None:
    suite: Suite = Continuous(split="novel_pose", goal_visible=True)
    assert pickle.loads(pickle.dumps(suite)) == suite
    assert (suite.name, suite.max_steps, suite.rate_hz) == ("continuous/novel_pose+goal", 150, 10)


def test_importing_the_suite_loads_neither_torch_nor_a_simulator() -> None:
    code = "import sys, embodied_envs.continuous as m; m.Continuous(split='any_state').tasks; "
    code += "print([x for x in ('torch', 'mujoco') if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"split": "novel_stat"}, "did you mean 'novel_state'"),
        ({"held_out": 30}, r"held_out must be one of the grid's \(25, 50, 75, 100\), got 30"),
        ({"tasks": ("drawer-75",)}, "task must be one of"),
        ({"tasks": ("drawer-37",)}, "task must be one of"),
        ({"tasks": ("drawer-50",), "split": "novel_state"}, "task must be one of"),
        ({"tasks": ("window-50",), "split": "any_state"}, "task must be one of"),
    ],
)
def test_a_wrong_field_is_named_with_its_remedy(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Continuous(**fields)


@pytest.mark.parametrize("held_out", GRID)
def test_what_is_held_out_is_asked_for_in_one_split_alone(held_out: int) -> None:
    asked = {
        split: {parse_task(task)[1] for task in Continuous(split=split, held_out=held_out).tasks}
        for split in SPLITS
    }
    assert asked["seen"] == asked["novel_pose"] == set(GRID) - {held_out}
    assert asked["novel_state"] == {held_out}
    assert asked["any_state"] == set(OFF_GRID)
    assert not set(OFF_GRID) & set(GRID)


def test_any_whole_percentage_off_the_grid_may_be_asked_for() -> None:
    suite = Continuous(tasks=("drawer-37", "door-0"), split="any_state")
    assert suite.texts("drawer-37").canonical == "open the drawer 37 percent"


# --- words ---------------------------------------------------------------------------------------


def test_numbers_are_told_as_digits_in_letters_and_as_fractions() -> None:
    drawer, knob = continuous_texts("drawer", 50).trained, continuous_texts("knob", 75).trained
    assert {
        "open the drawer 50 percent",
        "pull the drawer out 50 %",
        "leave the drawer fifty percent open",
        "open the drawer halfway",
    } <= set(drawer)
    assert {"turn the knob to 75 percent", "set the knob to three quarters"} <= set(knob)
    assert [number_word(n) for n in (0, 13, 20, 47, 100)] == [
        "zero",
        "thirteen",
        "twenty",
        "forty-seven",
        "one hundred",
    ]


def test_every_wording_belongs_to_one_task() -> None:
    owners: dict[str, str] = {}
    for name in OBJECTS:
        for percent in range(101):
            texts = continuous_texts(name, percent)
            every = (*texts.trained, *texts.held_out)
            assert len(set(every)) == len(every)
            for text in every:
                assert owners.setdefault(text, f"{name}-{percent}") == f"{name}-{percent}", text


# --- episodes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "poses"), [("seen", TRAINED_POSES), ("novel_pose", NOVEL_POSES)])
def test_poses_lie_in_the_splits_range_and_the_ranges_are_apart(split: Any, poses: Any) -> None:
    suite = Continuous(split=split)
    env, _ = start(suite, "drawer-25")
    usual = dict(zip(OBJECTS, scene_of(env)._usual[:, :2], strict=True))
    for goal in range(20):
        state = env.reset(options={"task": "drawer-25", "goal": goal})[0]["state"]
        for name in OBJECTS:
            seen = view(state, name)
            distance = np.linalg.norm(seen.base - usual[name])
            yaw = abs(np.arctan2(seen.sin, seen.cos))
            assert poses.distance[0] - 1e-6 <= distance <= poses.distance[1] + 1e-6
            assert poses.yaw[0] - 1e-6 <= yaw <= poses.yaw[1] + 1e-6
    assert TRAINED_POSES.distance[1] < NOVEL_POSES.distance[0]
    assert TRAINED_POSES.yaw[1] < NOVEL_POSES.yaw[0]


def test_an_object_begins_away_from_its_target_on_either_side_of_it() -> None:
    env, _ = start(Continuous(), "window-50")
    begun = [
        view(env.reset(options={"task": "window-50", "goal": goal})[0]["state"], "window").fraction
        for goal in range(30)
    ]
    assert min(abs(fraction - 0.5) for fraction in begun) >= FAR - 1e-6
    assert min(begun) < 0.5 < max(begun)


def test_the_state_says_where_the_model_holds_the_grips() -> None:
    env, state = start(Continuous(), "door-50", goal=3)
    scene = scene_of(env)
    # geometry of the file: a gap's middle is halfway between the handle's bar and the panel
    expected = {
        "drawer": [0, -0.120, 0.05],
        "window": [0, -0.05, 0.05],
        "door": [-0.135, -0.023, 0],
    }
    for name, local in expected.items():
        body = scene.data.body(name)
        grip = body.xpos + body.xmat.reshape(3, 3) @ np.array(local)
        seen = view(state, name)
        ours = seen.base + seen.place(MECHANISMS[name].path.at(seen.fraction)[0])
        np.testing.assert_allclose(ours, grip[:2], atol=5e-3 if name == "window" else 1e-6)


def test_the_target_is_in_the_state_only_where_it_is_to_be_seen() -> None:
    hidden, visible = (
        start(Continuous(goal_visible=shown), "knob-25", goal=4)[1] for shown in (False, True)
    )
    np.testing.assert_array_equal(visible[:-1], hidden)
    assert visible[-1] == np.float32(0.25)
    other = start(Continuous(), "knob-100", goal=4)[1]
    knob = 6 + 8 * OBJECTS.index("knob")
    np.testing.assert_array_equal(np.delete(other, range(knob, knob + 8))[:30], hidden[:30])


def test_holding_for_two_seconds_ends_the_episode_and_leaving_the_band_counts_anew() -> None:
    env, _ = start(Continuous(), "drawer-50")
    place(env, "drawer", 0.5 + 0.9 * BAND)
    for _ in range(HOLD_STEPS - 1):
        _, reward, terminated, _, info = env.step(IDLE)
        assert (terminated, info["success"]) == (False, False)
    assert info["metrics"]["error"] == pytest.approx(0.9 * BAND, abs=1e-3)
    assert reward == pytest.approx(-info["metrics"]["error"])
    place(env, "drawer", 0.5 + 1.1 * BAND)
    env.step(IDLE)
    place(env, "drawer", 0.5 - 0.9 * BAND)
    for _ in range(HOLD_STEPS - 1):
        assert not env.step(IDLE)[2]
    _, _, terminated, truncated, info = env.step(IDLE)
    assert (terminated, truncated, info["success"]) == (True, False, True)
    assert HOLD_STEPS / RATE_HZ == 2.0


def test_moving_through_the_band_is_not_holding() -> None:
    env, _ = start(Continuous(), "door-50")
    for fraction in (0.45, 0.5, 0.55):
        place(env, "door", fraction, speed=40 * STILL)
        env.step(IDLE)
        place(env, "door", fraction, speed=40 * STILL)
        assert scene_of(env).judge()[1]["held"] == 0


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_stays_where_it_is_left(name: str) -> None:
    env, _ = start(Continuous(), f"{name}-100")
    place(env, name, 0.4)
    for _ in range(40):
        state = env.step(IDLE)[0]["state"]
    assert view(state, name).fraction == pytest.approx(0.4, abs=2e-3)


def test_the_horizon_truncates_and_does_not_terminate() -> None:
    env, _ = start(Continuous(), "knob-50")
    flags = [env.step(IDLE)[2:4] for _ in range(150)]
    assert flags[-1] == (False, True)
    assert set(flags[:-1]) == {(False, False)}


def test_a_goal_is_the_same_whatever_ran_before() -> None:
    suite = Continuous()
    env, _ = start(suite, "drawer-25", goal=5)
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32):
        env.step(action)
    options = {"task": "drawer-25", "goal": 6, "benchmark_seed": 7}
    again = env.reset(options=options)[0]["state"]
    np.testing.assert_array_equal(again, start(suite, "drawer-25", goal=6)[1])


# --- experts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "task"),
    [
        ("seen", "drawer-25"),
        ("novel_pose", "window-100"),
        ("novel_state", "door-75"),
        ("any_state", "knob-37"),
    ],
)
def test_an_expert_holds_what_was_asked(split: Split, task: str) -> None:
    suite = Continuous(split=split, tasks=(task,))
    assert [solve(suite, task, goal) for goal in range(4)] == [(True, True)] * 4


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_experts_hold_nearly_always(split: Split) -> None:
    suite = Continuous(split=split)
    for task in suite.tasks:
        assert np.mean([solve(suite, task, goal)[0] for goal in range(50)]) >= 0.95, task


def test_an_overshot_object_is_brought_back() -> None:
    suite = Continuous()
    env, state = start(suite, "window-25", goal=1)
    expert = suite.expert("window-25", seed=0)
    for step in range(suite.max_steps):
        if step == 25:
            place(env, "window", 0.7)
        observation, _, terminated, _, info = env.step(expert(state))
        state = observation["state"]
        if terminated:
            break
    assert info["success"]


def test_the_seed_draws_the_way_and_the_same_seed_the_same_way() -> None:
    suite = Continuous()
    paths = []
    for seed in (0, 0, 1, 2, 3):
        env, state = start(suite, "drawer-25", goal=1)
        expert = suite.expert("drawer-25", seed=seed)
        for _ in range(20):
            state = env.step(expert(state))[0]["state"]
        paths.append(tuple(state[:3].tolist()))
    assert paths[0] == paths[1]
    assert len(set(paths)) > 1


def test_what_another_expert_does_is_not_success() -> None:
    suite = Continuous()
    env, state = start(suite, "door-25", goal=2)
    expert = suite.expert("door-100", seed=0)
    for _ in range(60):
        observation, _, terminated, _, info = env.step(expert(state))
        state = observation["state"]
        assert not terminated
    assert not info["success"]


# --- pictures ------------------------------------------------------------------------------------


def test_three_cameras_show_the_scene_and_a_goal_moves_what_they_show() -> None:
    suite = Continuous(
        tasks=("drawer-25",), observation="mixed", cameras=(0, 1, 2), image_size=(24, 32)
    )
    env = suite.make_env()
    frames = [env.reset(options={"goal": goal})[0] for goal in (0, 1)]
    for camera in ("camera0", "camera1", "camera2"):
        assert frames[0][camera].std() > 5
        assert (frames[0][camera] != frames[1][camera]).any()
    env.close()
