"""DM Control's own numbers behind the contract, and a guard against each trap of the library."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from embodied.suites import NoExpertError, Suite
from embodied.testing import check_env
from embodied_envs.catalogue import read_catalogue
from embodied_envs.dm_control import MANIPULATION, DMControl
from embodied_envs.simulated_env import SimulatedEnv, initial_seed

pytest.importorskip("dm_control", reason="dm-control is not on Python 3.13")

CATALOGUE = read_catalogue("dm_control")
# besides the default: a height field, a system drawn at random, a scene compiled for each episode
VARIED_TASKS = ("walker-walk", "quadruped-escape", "lqr-lqr_6_2", "manipulation-reach_site")


def one(task: str, **fields: Any) -> DMControl:
    return DMControl(tasks=(task,), **fields)


def rollout(env: SimulatedEnv, steps: int = 5, **options: Any) -> list[Any]:
    observation, _ = env.reset(options=options)
    random = np.random.default_rng(0)
    found: list[Any] = [observation["state"].tolist()]
    space = env.action_space
    for _ in range(steps):
        observation, reward, *_ = env.step(random.uniform(space.low, space.high))
        found.append((observation["state"].tolist(), reward))
    return found


def library_env(task: str, seed: int) -> Any:
    from dm_control import suite

    domain, _, name = task.partition("-")
    return suite.load(domain, name, {"random": seed})


def check_task(task: str) -> None:
    """The contract, and that no trace of another goal's episode is left in the simulator."""
    suite = one(task)
    check_env(suite, num_steps=6)
    env = suite.make_env()
    expected = rollout(env, goal=0)
    assert rollout(env, goal=1) != expected
    assert rollout(env, goal=0) == expected
    facts = CATALOGUE[task]
    assert env.action_space.shape == (facts.action_dim,)
    assert env._simulator is not None
    step_s = 1 / suite.rate_hz
    before = env._simulator.data.time
    env.step(env.action_space.low)
    np.testing.assert_allclose(env._simulator.data.time - before, step_s, rtol=1e-4)
    env.close()


# --- the suite -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", VARIED_TASKS)
def test_a_task_keeps_the_contract(task: str) -> None:
    check_task(task)


@pytest.mark.slow
@pytest.mark.parametrize("task", CATALOGUE)
def test_every_task_keeps_the_contract(task: str) -> None:
    check_task(task)


def test_the_catalogue_holds_all_tasks_of_the_library() -> None:
    from dm_control import manipulation, suite

    names = [f"{domain}-{task}" for domain, task in suite.ALL_TASKS]
    features = manipulation.get_environments_by_tag("features")
    names += [f"{MANIPULATION}-{name.removesuffix('_features')}" for name in features]
    assert set(CATALOGUE) == set(names)


def test_the_default_is_a_suite() -> None:
    suite: Suite = DMControl()
    assert (suite.name, suite.max_steps, suite.rate_hz) == ("dm_control/walker-walk", 1000, 40)


def test_a_suite_of_several_tasks_keeps_the_contract() -> None:
    check_env(DMControl(tasks=("walker-stand", "walker-walk", "walker-run")))


def test_importing_the_suite_loads_neither_torch_nor_a_simulator() -> None:
    code = "import sys, embodied_envs.dm_control as m; m.DMControl().tasks; "
    code += "print([x for x in ('torch', 'mujoco', 'dm_control') if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_opening_a_task_says_nothing_where_there_is_no_display(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    code = "import os; from embodied_envs.dm_control import DMControl; "
    code += "DMControl(tasks=('cartpole-balance',)).make_env().reset(); "
    code += "print(os.environ.get('MUJOCO_GL'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("None", "")


def test_without_the_package_the_error_says_how_to_install_it() -> None:
    code = """
import sys
sys.modules["dm_control"] = None
from embodied_envs.dm_control import DMControl
try:
    DMControl().make_env()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install --no-deps dm-control==1.0.28" in done.stdout


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tasks": ("walker-wlak",)}, "did you mean 'walker-walk'"),
        ({"tasks": ()}, "tasks is empty"),
        (
            {"tasks": ("walker-walk", "walker-run", "cheetah-run")},
            "cheetah-run has state_dim 17, not 24, rate_hz 100, not 40 as walker-walk has",
        ),
        ({"observation": "image"}, "observation must be one of"),
        ({"cameras": ()}, "cameras is empty"),
        ({"cameras": (-2,)}, "cameras must be names or numbers from -1"),
        ({"image_size": (84,)}, "image_size must be"),
        ({"action_repeat": 0}, "action_repeat must be 1 or more, got 0"),
        ({"num_goals": 0}, "num_goals must be 1 or more, got 0"),
    ],
)
def test_a_wrong_field_is_named_with_its_remedy(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DMControl(**fields)


@pytest.mark.parametrize(
    "options", [{"task": "cheetah-run"}, {"goal": 50}, {"benchmark_seed": -1}, {"gaol": 1}]
)
def test_a_wrong_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        one("cartpole-balance").make_env().reset(options=options)


def test_every_wording_belongs_to_one_task() -> None:
    owners: dict[str, str] = {}
    for task, facts in CATALOGUE.items():
        every = (*facts.texts.trained, *facts.texts.held_out)
        assert len(set(every)) == len(every)
        assert len(facts.texts.paraphrases) >= 8
        for text in every:
            assert owners.setdefault(text, task) == task, text
    assert CATALOGUE["cheetah-run"].texts.canonical == "make the cheetah run forward"


def test_nobody_demonstrates_and_the_error_says_what_to_do() -> None:
    with pytest.raises(NoExpertError, match=r"name episodes recorded elsewhere as task\.episodes"):
        DMControl().expert("walker-walk")


# --- episodes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["walker-walk", "cartpole-swingup", "finger-turn_easy"])
def test_observations_and_rewards_are_the_librarys(task: str) -> None:
    env = one(task).make_env()
    env.reset(options={"goal": 3, "benchmark_seed": 5})
    theirs = library_env(task, initial_seed(5, 3))
    theirs.reset()
    random = np.random.default_rng(1)
    for _ in range(30):
        action = random.uniform(-1, 1, env.action_space.shape or ())
        expected = theirs.step(action)
        observation, reward, *_ = env.step(action)
        state = np.concatenate([np.ravel(x) for x in expected.observation.values()])
        np.testing.assert_array_equal(observation["state"], state.astype(np.float32))
        np.testing.assert_allclose(reward, expected.reward, rtol=1e-9, atol=1e-12)


def test_goal_and_benchmark_seed_draw_the_initial_state_and_the_seed_only_the_rest() -> None:
    env = one("cartpole-balance").make_env()

    def start(seed: int, **options: int) -> list[float]:
        return env.reset(seed=seed, options=options)[0]["state"].tolist()

    base = start(1, goal=2, benchmark_seed=3)
    assert start(9, goal=2, benchmark_seed=3) == base
    assert start(1, goal=3, benchmark_seed=3) != base
    assert start(1, goal=2, benchmark_seed=4) != base
    assert env.reset(seed=5)[1]["goal"] == env.reset(seed=5)[1]["goal"]


def test_an_lqr_system_is_the_same_in_every_environment() -> None:
    suite = one("lqr-lqr_2_1")
    assert rollout(suite.make_env(), goal=1) == rollout(suite.make_env(), goal=1)


def test_an_action_repeat_sums_rewards_and_shortens_the_episode() -> None:
    single, double = one("pendulum-swingup"), one("pendulum-swingup", action_repeat=3)
    assert (double.max_steps, double.rate_hz) == (334, single.rate_hz / 3)
    a, b = single.make_env(), double.make_env()
    a.reset(options={"goal": 0})
    b.reset(options={"goal": 0})
    action = np.array([0.7], np.float32)
    steps = [a.step(action) for _ in range(3)]
    observation, reward, *_ = b.step(action)
    assert reward == sum(step[1] for step in steps)
    np.testing.assert_array_equal(observation["state"], steps[-1][0]["state"])


def test_the_horizon_truncates_and_does_not_terminate() -> None:
    suite = one("cartpole-balance", action_repeat=3)
    env = suite.make_env()
    env.reset(options={"goal": 0})
    flags = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(suite.max_steps)]
    assert flags[-1] == (False, True)
    assert set(flags[:-1]) == {(False, False)}
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step(np.zeros(1, np.float32))


def test_a_task_that_ends_terminates_and_is_not_truncated() -> None:
    env = one("lqr-lqr_2_1").make_env()
    env.reset(options={"goal": 0})
    env._simulator.data.qpos[:] = env._simulator.data.qvel[:] = 0.0
    env._simulator._env.physics.forward()  # a step begins with the forces of the last one
    _, _, terminated, truncated, info = env.step(np.zeros(1, np.float32))
    assert (terminated, truncated, info["success"]) == (True, False, True)


def test_success_is_a_return_of_800_and_not_a_good_start() -> None:
    env = one("cartpole-balance").make_env()
    env.reset(options={"goal": 0})
    _, reward, _, _, info = env.step(np.zeros(1, np.float32))
    assert reward > 0.9
    assert not info["success"]
    env._return = 799.5
    assert env.step(np.zeros(1, np.float32))[4]["success"]


def test_another_threshold_moves_the_bar() -> None:
    env = one("cartpole-balance", success_threshold=1.5).make_env()
    env.reset(options={"goal": 0})
    found = [env.step(np.zeros(1, np.float32))[4]["success"] for _ in range(2)]
    assert found == [False, True]


def test_an_action_that_is_not_finite_ends_the_episode_and_says_so() -> None:
    env = one("cartpole-balance").make_env()
    before, _ = env.reset(options={"goal": 0})
    after, reward, terminated, truncated, info = env.step(np.array([np.nan], np.float32))
    np.testing.assert_array_equal(after["state"], before["state"])
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert (info["success"], info["unstable"]) == (False, True)
    assert "not finite" in info["reason"]


def test_a_simulation_that_explodes_is_reported_and_the_next_episode_is_sound() -> None:
    suite = one("cartpole-balance")
    env = suite.make_env()
    before, _ = env.reset(options={"goal": 0})
    env._simulator.data.qvel[0] = np.nan
    after, reward, terminated, truncated, info = env.step(np.zeros(1, np.float32))
    np.testing.assert_array_equal(after["state"], before["state"])
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert (info["success"], info["unstable"]) == (False, True)
    assert "mjWARN_BADQVEL" in info["reason"]
    assert rollout(env, goal=0) == rollout(suite.make_env(), goal=0)


def test_an_action_of_the_wrong_shape_is_refused() -> None:
    env = one("cartpole-balance").make_env()
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(1,\), got \(2,\)"):
        env.step(np.zeros(2, np.float32))


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("observation", "state_dim"), [("pixels", 2), ("mixed", 5)])
def test_pixels_come_with_what_the_motors_sense(observation: Any, state_dim: int) -> None:
    suite = one("cartpole-swingup", observation=observation, cameras=(0, 1), image_size=(24, 32))
    env = suite.make_env()
    seen, _ = env.reset(options={"goal": 0})
    assert {name: x.shape for name, x in seen.items()} == {
        "state": (state_dim,),
        "camera0": (24, 32, 3),
        "camera1": (24, 32, 3),
    }
    assert seen["camera0"].std() > 5
    check_env(suite, num_steps=3)
    env.close()


@pytest.mark.parametrize("task", ["quadruped-escape", "manipulation-reach_site"])
def test_each_episode_shows_its_own_scene(task: str) -> None:
    env = one(task).make_env(render_size=(24, 24))
    frames = []
    for goal in (0, 1, 0):
        env.reset(options={"goal": goal})
        frames.append(env.render())
    np.testing.assert_array_equal(frames[0], frames[2])
    assert (frames[0] != frames[1]).any()
    env.close()


def test_rendering_needs_a_size_and_an_episode() -> None:
    env = one("cartpole-balance").make_env()
    with pytest.raises(ValueError, match="render_size is None"):
        env.render()
