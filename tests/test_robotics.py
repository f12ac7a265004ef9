"""The kitchen, hands, arms and mazes of gymnasium-robotics behind the contract, and its traps."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embodied.suites import Expert, NoExpertError
from embodied.testing import check_env
from embodied_envs.adroit import Adroit
from embodied_envs.fetch import Fetch
from embodied_envs.kitchen import Kitchen
from embodied_envs.maze import Maze
from embodied_envs.maze_expert import distances
from embodied_envs.robotics import GoalSuite, open_env
from embodied_envs.shadow_hand import ShadowHand
from embodied_envs.simulated import SimulatedSuite
from embodied_envs.simulated_env import SimulatedEnv, initial_seed

pytest.importorskip("gymnasium_robotics")

SUITES: tuple[type[SimulatedSuite], ...] = (Kitchen, Adroit, Fetch, ShadowHand, Maze)
GOAL_SUITES: tuple[type[GoalSuite], ...] = (Fetch, ShadowHand, Maze)
ALL_TASKS = [(kind, task) for kind in SUITES for task in kind().catalogue()]
RELAY = "microwave_kettle_switch_slide"
SCENES = [(kind, task) for kind, task in ALL_TASKS if kind is not Kitchen or task == RELAY]


def one(kind: Any, task: str | None = None, **fields: Any) -> Any:
    return kind(**({} if task is None else {"tasks": (task,)}), **fields)


def name(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else str(value)


def actions(env: SimulatedEnv, steps: int, seed: int = 1) -> list[Any]:
    space: Any = env.action_space
    random = np.random.default_rng(seed)
    return [random.uniform(space.low, space.high).astype(np.float32) for _ in range(steps)]


def library_vector(observation: Any, *, legs: bool) -> Any:
    """The library's observation as ours is documented."""
    if not isinstance(observation, dict):
        return observation
    goal = observation["desired_goal"]
    parts = [observation["achieved_goal"]] if legs else []
    parts += [observation["observation"]] + ([] if isinstance(goal, dict) else [goal])
    return np.concatenate(parts)


def check_like_the_library(kind: Any, task: str) -> None:
    """Observations, rewards and rate are the library's, to the last bit, and so are its sizes."""
    env = one(kind, task).make_env()
    seen, _ = env.reset(options={"goal": 4, "benchmark_seed": 6})
    options = {} if kind is Kitchen else {"reward_type": "sparse"}
    theirs = open_env("FrankaKitchen-v1" if kind is Kitchen else task, **options)
    facts, legs = kind().catalogue()[task], task.startswith("Ant")
    assert theirs.spec.max_episode_steps == facts.max_steps
    theirs = theirs.unwrapped
    expected = library_vector(theirs.reset(seed=initial_seed(6, 4))[0], legs=legs)
    assert expected.shape == (facts.state_dim,)
    assert theirs.action_space.shape == (facts.action_dim,)
    np.testing.assert_array_equal(seen["state"], expected.astype(np.float32))
    for action in actions(env, 8):
        before = env._simulator.data.time
        seen, reward, *_ = env.step(action)
        expected, expected_reward, *_ = theirs.step(action.astype(np.float64))
        expected = library_vector(expected, legs=legs)
        np.testing.assert_array_equal(seen["state"], expected.astype(np.float32))
        assert reward == pytest.approx(float(expected_reward))
        assert env._simulator.data.time - before == pytest.approx(1 / facts.rate_hz)
    env.close()
    theirs.close()


# --- the contract --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SUITES[1:], ids=name)  # two of the kitchen's are below
def test_the_default_task_keeps_the_contract(kind: Any) -> None:
    check_env(kind(), num_steps=8)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "task"), ALL_TASKS, ids=name)
def test_every_task_keeps_the_contract(kind: Any, task: str) -> None:
    check_env(one(kind, task), num_steps=40)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "task"), SCENES, ids=name)
def test_every_scene_shows_itself(kind: Any, task: str) -> None:
    check_env(one(kind, task, observation="pixels", image_size=(32, 32)), num_steps=3)


@pytest.mark.parametrize("kind", SUITES, ids=name)
def test_the_default_task_is_the_librarys_to_the_last_bit(kind: Any) -> None:
    check_like_the_library(kind, kind().tasks[0])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "task"), SCENES, ids=name)
def test_every_scene_is_the_librarys_to_the_last_bit(kind: Any, task: str) -> None:
    check_like_the_library(kind, task)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "task"), ALL_TASKS[::8], ids=name)
def test_an_episode_runs_to_the_librarys_horizon_and_is_truncated_there(
    kind: Any, task: str
) -> None:
    suite = one(kind, task)
    env = suite.make_env()
    env.reset(options={"goal": 0})
    flags = [env.step(action)[2:4] for action in actions(env, suite.max_steps)]
    assert flags == [(False, False)] * (suite.max_steps - 1) + [(False, True)]


@pytest.mark.parametrize("kind", SUITES, ids=name)
def test_every_wording_belongs_to_one_task(kind: Any) -> None:
    owners: dict[str, str] = {}
    for task, facts in kind().catalogue().items():
        every = (*facts.texts.trained, *facts.texts.held_out)
        assert len(set(every)) == len(every) >= 10
        for text in every:
            assert owners.setdefault(text, task) == task, text


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind is Fetch else pytest.mark.slow) for kind in SUITES],
    ids=name,
)
def test_drawing_does_not_change_the_course(kind: Any) -> None:
    courses = []
    for drawn in (False, True):
        env = kind().make_env(render_size=(16, 16))
        env.reset(options={"goal": 0})
        states = []
        for action in actions(env, 5):
            states.append(env.step(action)[0]["state"].tolist())
            if drawn:
                assert env.render().std() > 5
        env.close()
        courses.append(states)
    assert courses[0] == courses[1]


@pytest.mark.parametrize("kind", [Kitchen, Adroit, Fetch, ShadowHand])
def test_nobody_demonstrates(kind: Any) -> None:
    with pytest.raises(NoExpertError, match="has no scripted expert"):
        kind().expert(kind().tasks[0])


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (Kitchen, {"tasks": ("ketle",)}, "did you mean 'kettle'"),
        (Kitchen, {"noise": -1.0}, "noise must be 0 or more, got -1.0"),
        (Adroit, {"reward": "rich"}, "reward must be one of sparse, dense"),
        (Fetch, {"tasks": ("FetchPush-v3",)}, "did you mean 'FetchPush-v4'"),
        (Fetch, {"tasks": ("FetchReach-v4", "FetchPush-v4")}, "FetchPush-v4 has state_dim 28"),
        (Maze, {"tasks": ("PointMaze_UMaze-v3", "AntMaze_UMaze-v5")}, "has state_dim 109, not 6"),
    ],
)
def test_a_wrong_field_is_named_with_its_remedy(kind: Any, fields: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**fields)


def test_the_library_is_imported_late_and_quietly() -> None:
    code = "import sys, embodied_envs.kitchen, embodied_envs.maze as m; suite = m.Maze(); "
    code += "suite.expert(suite.tasks[0]); "
    code += "print([x for x in ('torch', 'mujoco', 'gymnasium_robotics') if x in sys.modules]); "
    code += "suite.make_env().reset()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_without_the_package_the_error_names_the_extra() -> None:
    code = """
import sys
sys.modules["gymnasium_robotics"] = None
from embodied_envs.adroit import Adroit
try:
    Adroit().make_env()
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'embodied-policies[robotics]'" in done.stdout


# --- goals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GOAL_SUITES, ids=name)
def test_a_hidden_goal_leaves_the_state_and_the_picture_but_not_the_expert(kind: Any) -> None:
    frames, states = [], []
    for visible in (True, False):
        suite = kind(goal_visible=visible)
        env = suite.make_env(render_size=(60, 80))
        states.append(env.reset(options={"goal": 1})[0]["state"])
        frames.append(env.render().astype(int))
        full, goal_dim = env.full_observation, suite.goal_dim
        env.close()
    shown, hidden = states
    assert shown.shape == hidden.shape
    np.testing.assert_array_equal(shown[:-goal_dim], hidden[:-goal_dim])
    np.testing.assert_array_equal(hidden[-goal_dim:], 0.0)
    np.testing.assert_array_equal(full[-goal_dim:].astype(np.float32), shown[-goal_dim:])
    assert (abs(frames[0] - frames[1]) > 40).any()


@pytest.mark.parametrize("task", ["HandReach-v3", "HandManipulatePenRotate-v1"])
def test_each_kind_of_mark_can_be_hidden(task: str) -> None:
    frames = []
    for visible in (True, False):
        env = one(ShadowHand, task, goal_visible=visible).make_env(render_size=(60, 80))
        env.reset(options={"goal": 1})
        frames.append(env.render().astype(int))
        env.close()
    assert (abs(frames[0] - frames[1]) > 40).any()


def test_the_mark_stands_where_the_goal_is() -> None:
    env = one(Fetch).make_env()
    for goal in range(3):
        state = env.reset(options={"goal": goal})[0]["state"]
        at = env._simulator.data.site("target0").xpos
        np.testing.assert_allclose(at, state[-3:], atol=1e-6)


def test_an_arm_succeeds_where_the_object_is_at_the_goal() -> None:
    env = one(Fetch, "FetchPush-v4").make_env()
    state = env.reset(options={"goal": 0})[0]["state"]
    still = np.zeros(4, np.float32)
    assert not env.step(still)[4]["success"]
    env._simulator._env._utils.set_joint_qpos(
        env._simulator.model,
        env._simulator.data,
        "object0:joint",
        np.array([*state[-3:], 1.0, 0.0, 0.0, 0.0]),
    )
    seen, reward, terminated, _, info = env.step(still)
    np.testing.assert_allclose(seen["state"][3:6], state[-3:], atol=0.02)
    assert (reward, terminated, info["success"]) == (0.0, False, True)


def test_a_hand_is_sound_again_after_a_breakdown() -> None:
    suite = one(ShadowHand)
    env = suite.make_env()
    expected = env.reset(options={"goal": 0})[0]["state"]
    env._simulator.data.qacc_warmstart[:] = np.nan
    env.step(np.zeros(20, np.float32))
    env._simulator.data.qacc_warmstart[:] = np.nan
    np.testing.assert_array_equal(env.reset(options={"goal": 0})[0]["state"], expected)
    assert not env.step(np.zeros(20, np.float32))[4]["unstable"]


def test_dense_and_sparse_are_rewards_of_one_task() -> None:
    rewards = {}
    for reward in ("sparse", "dense"):
        env = one(Fetch, "FetchReach-v4", reward=reward).make_env()
        env.reset(options={"goal": 0})
        seen, rewards[reward], *_ = env.step(np.zeros(4, np.float32))
    distance = np.linalg.norm(seen["state"][:3] - seen["state"][-3:])
    assert rewards == {"sparse": -1.0, "dense": pytest.approx(-distance, rel=1e-4)}


def test_pixels_of_an_arm_come_with_its_gripper() -> None:
    env = one(Fetch, "FetchPickAndPlace-v4", observation="pixels", image_size=(32, 32)).make_env()
    seen, _ = env.reset(options={"goal": 0})
    assert (seen["overview"].shape, seen["state"].shape) == ((32, 32, 3), (10,))
    at = env._simulator.data.site("robot0:grip").xpos
    np.testing.assert_allclose(seen["state"][:3], at, atol=1e-6)
    env.close()


# --- the kitchen ---------------------------------------------------------------------------------


def solve(env: Any, element: str) -> Any:
    """Puts joints of the kitchen where a sub-task wants them, and steps."""
    from gymnasium_robotics.envs.franka_kitchen import kitchen_env  # type: ignore[import-untyped]

    where = kitchen_env.OBS_ELEMENT_INDICES[element]
    env._simulator.data.qpos[where] = kitchen_env.OBS_ELEMENT_GOALS[element]
    return env.step(np.zeros(9, np.float32))


@pytest.fixture(scope="module")
def kitchen() -> Iterator[SimulatedEnv]:
    env = one(Kitchen, RELAY).make_env()
    yield env
    env.close()


@pytest.fixture(scope="module")
def silent_kitchen() -> Iterator[SimulatedEnv]:
    """Without noise and velocities."""
    env = one(Kitchen, "kettle", noise=0.0, velocities=False).make_env()
    yield env
    env.close()


def start(env: SimulatedEnv, goal: int = 0) -> Any:
    return env.reset(options={"goal": goal})[0]["state"]


def test_a_kitchen_counts_any_sub_task_and_those_of_the_task(kitchen: Any) -> None:
    env = kitchen
    env.reset(options={"goal": 0})
    rewards, metrics, wins = [], [], []
    for element in ("hinge cabinet", "microwave", "kettle", "light switch", "slide cabinet"):
        _, reward, terminated, truncated, info = solve(env, element)
        assert (terminated, truncated) == (False, False)
        rewards.append(reward)
        metrics.append(tuple(info["metrics"].values()))
        wins.append(info["success"])
    assert rewards == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert metrics == [(1.0, 0.0), (2.0, 1.0), (3.0, 2.0), (4.0, 3.0), (5.0, 4.0)]
    assert wins == [False, False, False, False, True]
    _, reward, _, _, info = env.step(np.zeros(9, np.float32))  # each counts once, and stays
    assert (reward, info["metrics"], info["success"]) == (0.0, {"reward": 5.0, "result": 4.0}, True)
    env.reset(options={"goal": 0})
    info = env.step(np.zeros(9, np.float32))[4]
    assert (info["metrics"], info["success"]) == ({"reward": 0.0, "result": 0.0}, False)


def test_a_kitchens_goals_differ_in_the_sensors_noise_alone(
    kitchen: Any, silent_kitchen: Any
) -> None:
    silent = [start(silent_kitchen, goal) for goal in (0, 1)]
    np.testing.assert_array_equal(silent[0], silent[1])
    positions = [*range(9), *range(18, 39)]
    noisy = [start(kitchen, goal)[positions] for goal in (0, 1)]
    assert abs(noisy[0] - noisy[1]).max() > 1e-4
    for state in noisy:
        np.testing.assert_allclose(state, silent[0], atol=0.00101)  # 1 % of 0.1 rad either way
    np.testing.assert_allclose(silent[0][23:26], [-0.27, 0.35, 1.62], atol=0.01)  # the kettle


def test_an_action_is_a_speed_of_two_radians_a_second(silent_kitchen: Any) -> None:
    state = start(silent_kitchen)
    silent_kitchen.step(np.full(9, 0.5, np.float32))
    wanted = state[:7] + 0.5 * 2.0 * 0.08
    np.testing.assert_allclose(silent_kitchen._simulator.data.ctrl[:7], wanted, atol=1e-6)


def test_a_kitchens_words_are_those_of_its_sub_tasks() -> None:
    texts = Kitchen(tasks=(RELAY,)).texts(RELAY)
    assert texts.canonical == (
        "open the microwave, move the kettle to the top burner, turn on the light and slide the "
        "cabinet open"
    )
    assert (
        Kitchen(tasks=("kettle",)).texts("kettle").canonical == "move the kettle to the top burner"
    )


def test_tasks_of_the_kitchen_share_a_suite_and_a_simulator() -> None:
    suite = Kitchen(tasks=("microwave", RELAY))
    check_env(suite, num_steps=4)
    env = suite.make_env()
    found = []
    for task in (RELAY, "microwave", RELAY):
        env.reset(options={"task": task, "goal": 0})
        found.append((solve(env, "microwave")[4]["success"], id(env._simulator)))
    assert [success for success, _ in found] == [False, True, False]
    assert len({simulator for _, simulator in found}) == 1
    env.close()


# --- mazes ---------------------------------------------------------------------------------------


def drive(suite: Maze, goals: range, expert: Expert | None = None) -> list[bool]:
    """Whether the maze's expert, or a given one, succeeds from each goal."""
    env = suite.make_env()
    wins = []
    for goal in goals:
        env.reset(options={"goal": goal, "benchmark_seed": 7})
        act = expert or suite.expert(suite.tasks[0])
        over = False
        while not over:
            _, _, terminated, truncated, info = env.step(act(env.full_observation))
            over = info["success"] or terminated or truncated
        wins.append(info["success"])
    env.close()
    return wins


def test_distances_are_counted_along_the_corridor() -> None:
    wall = [1, 1, 1, 1]
    grid = [wall, [1, 0, "g", 1], [1, 1, "r", 1], wall]
    assert distances(grid, (1, 1)) == {(1, 1): 0, (1, 2): 1, (2, 2): 2}


@pytest.mark.parametrize("visible", [True, False])
def test_the_ball_finds_its_way_and_nobody_idle_does(visible: bool) -> None:
    suite = one(Maze, "PointMaze_Medium-v3", action_repeat=4, goal_visible=visible)
    assert drive(suite, range(4)) == [True] * 4
    assert drive(suite, range(2), lambda _: np.zeros(2, np.float32)) == [False] * 2


@pytest.mark.slow
@pytest.mark.parametrize("task", [t for t in Maze().catalogue() if t.startswith("Point")])
@pytest.mark.parametrize("action_repeat", [1, 4])
def test_the_ball_finds_its_way_in_every_maze(task: str, action_repeat: int) -> None:
    assert all(drive(one(Maze, task, action_repeat=action_repeat), range(50)))


def test_the_ant_has_no_expert() -> None:
    with pytest.raises(NoExpertError, match="maze/AntMaze_UMaze-v5 has no scripted expert"):
        one(Maze, "AntMaze_UMaze-v5").expert("AntMaze_UMaze-v5")


def test_a_maze_leaves_no_files_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = one(Maze).make_env()
    env.reset()
    env.close()
    assert list(tmp_path.iterdir()) == []
    assert tempfile.tempdir == str(tmp_path)
