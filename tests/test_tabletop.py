"""The tabletop: what is asked, where things lie, who can do it in which ways, and play."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embodied.suites import Player, Playful
from embodied.testing import check_env, check_episodes
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.play import collect
from embodied_envs.continuous import Continuous
from embodied_envs.motions import Motions
from embodied_envs.shoves import Shoves
from embodied_envs.tabletop import Playground, Tabletop
from embodied_envs.tabletop_experts import TabletopExpert, TabletopPlayer
from embodied_envs.tabletop_tasks import (
    BLOCKS,
    STATE_DIM,
    TASKS,
    ZONES,
    Task,
    View,
    parts_done,
)

KINDS = (
    "push-red-to-purple-zone",
    "push-yellow-to-green-block",
    "push-blue-to-left",
    "open-drawer",
    "close-drawer",
    "press-button",
    "both-red-blue",
    "sort-green-purple-yellow-orange",
)


def run(env: Any, task: str, goal: int, expert: Any, **options: Any) -> list[dict[str, Any]]:
    """The infos of an episode, each with the state before and the reward."""
    state = env.reset(options={"task": task, "goal": goal, "benchmark_seed": 9, **options})[0]
    steps: list[dict[str, Any]] = []
    ended = False
    while not ended:
        observation, reward, terminated, truncated, info = env.step(expert(state["state"]))
        steps.append({**info, "state": state["state"], "reward": reward})
        state, ended = observation, terminated or truncated
    return steps


def state_with(**fields: Any) -> np.ndarray:
    """A state with blocks and zones at given places, and all else at rest."""
    places = {
        "red": (-0.1, 0.0),
        "green": (-0.03, 0.0),
        "blue": (0.1, 0.0),
        "yellow": (0.2, 0.0),
        "orange": (-0.2, -0.1),
        "purple": (0.2, -0.1),
        **fields,
    }
    blocks = [(*places[name], 0.0, 0.0, 1.0, 0.0) for name in BLOCKS]
    zones = [places[name] for name in ZONES]
    sliders = (fields.get("drawer", 0.5), fields.get("button", 0.0))
    return np.concatenate([np.zeros(6), np.ravel(blocks), np.ravel(zones), sliders])


@pytest.mark.parametrize(
    ("task", "before", "after"),
    [
        ("push-red-to-orange-zone", {"red": (-0.2, -0.04)}, {"red": (-0.2, -0.06)}),
        ("push-red-to-blue-block", {"red": (0.02, 0.0)}, {"red": (0.04, 0.0)}),
        ("push-red-to-left", {"red": (-0.24, 0.0)}, {"red": (-0.26, 0.0)}),
        ("push-red-to-right", {"red": (-0.26, 0.0)}, {"red": (0.26, 0.0)}),
        ("open-drawer", {"drawer": 0.9}, {"drawer": 0.96}),
        ("close-drawer", {"drawer": 0.1}, {"drawer": 0.04}),
        ("press-button", {"button": 0.5}, {"button": 0.8}),
    ],
)
def test_a_task_is_done_from_its_threshold_on(
    task: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert parts_done(TASKS[task], View.of(state_with(**before))) == (False,)
    assert parts_done(TASKS[task], View.of(state_with(**after))) == (True,)


def test_a_zone_counts_once_and_any_assignment_will_do_where_none_is_told() -> None:
    both, sort = TASKS["both-red-blue"], TASKS["sort-red-orange-blue-purple"]
    swapped = View.of(state_with(red=(0.2, -0.1), blue=(-0.2, -0.1)))
    assert all(parts_done(both, swapped))
    assert not any(parts_done(sort, swapped))
    shared = View.of(state_with(red=(-0.2, -0.1), blue=(-0.2, -0.07)))
    assert sum(parts_done(both, shared)) == 1
    assert parts_done(sort, shared) == (True, False)


def test_the_words_of_tasks_differ_and_are_many() -> None:
    suite = Tabletop()
    texts = [suite.texts(task) for task in suite.tasks]
    wordings = [words for each in texts for words in (*each.trained, *each.held_out)]
    assert len(set(wordings)) == len(wordings)
    assert min(len(each.trained) for each in texts) >= 8
    assert min(len(each.held_out) for each in texts) >= 2
    for task, each in zip(suite.tasks, texts, strict=True):
        for colour in (*TASKS[task].blocks, *TASKS[task].targets):
            if colour in (*BLOCKS, *ZONES):
                named = {colour in words for words in (*each.trained, *each.held_out)}
                assert named == {True} or TASKS[task].kind == "both"


def test_the_arrangement_does_not_tell_the_task() -> None:
    suite = Tabletop(num_goals=5)
    env = suite.make_env()
    for goal in range(5):
        starts = [env.reset(options={"task": task, "goal": goal})[0]["state"] for task in KINDS]
        for start in starts[1:]:
            np.testing.assert_array_equal(start, starts[0])
        for task in suite.tasks:
            assert not all(parts_done(TASKS[task], View.of(starts[0])))


def test_the_state_is_the_scene() -> None:
    env = Tabletop(tasks=("press-button",)).make_env()
    state = env.reset(options={"goal": 1})[0]["state"]
    assert state.shape == (STATE_DIM,)
    view, data = View.of(state), env._simulator.data
    np.testing.assert_allclose(view.finger, data.body("effector").xpos, atol=1e-6)
    for name in BLOCKS:
        body = data.body(f"{name}-block")
        np.testing.assert_allclose(view.blocks[name], body.xpos[:2], atol=1e-6)
        row = state[6 + 6 * BLOCKS.index(name) :][:6]
        np.testing.assert_allclose(row[2:4], row[:2] - view.finger[:2], atol=1e-6)
        np.testing.assert_allclose(row[4:], body.xmat.reshape(3, 3)[:2, 0], atol=1e-6)
    for name in ZONES:
        np.testing.assert_allclose(view.zones[name], data.body(f"{name}-zone").xpos[:2], atol=1e-6)
    assert 0.29 <= view.drawer <= 0.71
    assert view.button == 0.0


@pytest.mark.parametrize("task", KINDS)
def test_an_expert_does_its_task(task: str) -> None:
    suite = Tabletop(tasks=(task,))
    env = suite.make_env()
    for goal in range(3):
        assert run(env, task, goal, suite.expert(task, seed=goal))[-1]["success"]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_expert_does_its_task_from_95_of_100_starts(task: str) -> None:
    suite = Tabletop(tasks=(task,))
    env = suite.make_env()
    wins = [run(env, task, i, suite.expert(task, seed=i))[-1]["success"] for i in range(50)]
    assert np.mean(wins) >= 0.95


def test_two_blocks_go_to_two_zones_in_every_order_and_assignment() -> None:
    suite = Tabletop(tasks=("both-red-blue",))
    env = suite.make_env()
    ways = set()
    for seed in range(12):
        expert = suite.expert("both-red-blue", seed=seed)
        steps = run(env, "both-red-blue", 0, expert)
        first, last = View.of(steps[0]["state"]), View.of(steps[-1]["state"])
        moved = next(
            name
            for step in steps
            for name in ("red", "blue")
            if np.linalg.norm(View.of(step["state"]).blocks[name] - first.blocks[name]) > 0.03
        )
        zone = min(ZONES, key=lambda z: np.linalg.norm(last.blocks[moved] - last.zones[z]))
        assert (moved, zone) == expert.order[0]
        assert steps[-1]["success"]
        assert steps[-1]["metrics"]["result"] == 1.0
        gains = [step["reward"] for step in steps if step["reward"]]
        np.testing.assert_allclose(gains, [0.49, 0.51])
        ways.add((moved, zone))
    assert len(ways) == 4


def test_seeds_draw_the_ways_in_equal_shares() -> None:
    experts = [TabletopExpert(TASKS["both-red-blue"], seed=seed) for seed in range(400)]
    lefts = np.mean([expert.side > 0 for expert in experts])
    firsts = [expert.order[0] for expert in experts]
    shares = [firsts.count((block, zone)) / 400 for block in ("red", "blue") for zone in ZONES]
    assert 0.4 < lefts < 0.6
    assert min(shares) > 0.18
    assert max(shares) < 0.32


@pytest.mark.parametrize("seed", range(4))
def test_a_block_goes_round_what_is_in_its_way_on_either_side(seed: int) -> None:
    suite = Tabletop(tasks=("push-red-to-purple-zone",))
    env = suite.make_env()
    env.reset(options={"goal": 0})
    scene = env._simulator
    places = {
        "red": (-0.15, -0.07),
        "green": (0.0, -0.07),
        "blue": (0.0, 0.08),
        "yellow": (0, -0.22),
    }
    for address, name in zip(scene._blocks, BLOCKS, strict=True):
        scene.data.qpos[address : address + 2] = places[name]
    scene.data.mocap_pos[scene._zones, :2] = [(-0.2, 0.04), (0.15, -0.07)]
    state, ways = scene.observe(), []
    expert = suite.expert("push-red-to-purple-zone", seed=seed)
    ended = False
    while not ended:
        observation, _, terminated, truncated, info = env.step(expert(state))
        state, ended = observation["state"], terminated or truncated
        red, green = (View.of(state).blocks[name] for name in ("red", "green"))
        if abs(red[0] - green[0]) < 0.01:
            ways.append(np.sign(red[1] - green[1]))
    assert info["success"]
    assert set(ways) == {expert.side}


def test_a_block_that_another_is_brought_to_must_stay() -> None:
    env = Tabletop(tasks=("push-red-to-blue-block",)).make_env()
    env.reset(options={"goal": 0})
    scene = env._simulator
    red, _, blue, _ = scene._blocks
    scene.data.qpos[red : red + 2] = scene.data.qpos[blue : blue + 2] + np.array([0.06, 0.0])
    assert env.step(np.zeros(3, np.float32))[4]["success"]
    env.reset(options={"goal": 0})
    scene.data.qpos[blue : blue + 2] = scene.data.qpos[red : red + 2] + np.array([0.06, 0.0])
    assert not env.step(np.zeros(3, np.float32))[4]["success"]


def test_the_button_lights_while_it_is_pressed() -> None:
    suite = Tabletop(tasks=("press-button",))
    env = suite.make_env(render_size=(60, 80))
    lamp = env._simulator.model.geom("button")
    steps = run(env, "press-button", 0, suite.expert("press-button"))
    lit = lamp.rgba.copy()
    assert steps[-1]["success"]
    assert lit[0] == 1.0
    env.reset(options={"goal": 0})
    assert lamp.rgba[0] < 0.6


def test_tasks_that_share_a_simulator_keep_the_contract() -> None:
    suite = Tabletop(tasks=("both-red-blue", "open-drawer", "press-button"))
    check_env(suite)
    env = suite.make_env()
    first = env._simulator
    for task in suite.tasks:
        env.reset(options={"task": task, "goal": 0})
        assert env._simulator is first
        assert first.task == TASKS[task]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_keeps_the_contract(task: str) -> None:
    check_env(Tabletop(tasks=(task,)), num_steps=50)


def test_pictures_come_from_cameras_by_name_or_number() -> None:
    suite = Tabletop(tasks=KINDS[:2], observation="pixels", cameras=("top", 0), image_size=(32, 32))
    check_env(suite, num_steps=2)
    assert set(suite.make_env().observation_space) == {"state", "top", "camera0"}
    with pytest.raises(ValueError, match="'front'"):
        Tabletop(cameras=("frnt",))


def test_play_pursues_one_task_after_the_other(tmp_path: Path) -> None:
    suite = Tabletop()
    playground = suite.playground(300)
    assert isinstance(suite, Playful)
    assert isinstance(playground, Playground)
    check_env(playground, num_steps=5)
    collect(suite, tmp_path, episodes=1, steps=300, workers=1, progress=False)
    played = LeRobotDataset(tmp_path, only_success=False)
    check_episodes(played)
    subtasks = played[0].info["subtasks"]
    assert len(played[0]) == 300
    assert len(subtasks) >= 4
    known = {words for task in suite.tasks for words in suite.texts(task).trained}
    assert {words for _, words in subtasks} <= known


def test_a_player_does_most_of_what_it_pursues() -> None:
    suite = Tabletop().playground(600)
    env, player = suite.make_env(), suite.expert("play", seed=3)
    assert isinstance(player, Player)
    assert isinstance(player, TabletopPlayer)
    run(env, "play", 0, player)
    starts = [start for start, _ in player.pursuits]
    given_up = np.diff(starts) >= TabletopPlayer.PATIENCE
    assert len(starts) >= 8
    assert given_up.mean() <= 0.25


def test_a_task_that_is_unknown_is_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'open-drawer'"):
        Tabletop(tasks=("open-drawr",))
    assert Task("play").blocks == ()


@pytest.mark.parametrize("make", [Tabletop, Shoves, Motions, Continuous])
def test_a_camera_that_is_not_there_is_named_before_a_scene_is_opened(make: Any) -> None:
    with pytest.raises(ValueError, match=r"camera must be one of front, top.*, got 'back'"):
        make(observation="pixels", cameras=("back",))
    with pytest.raises(ValueError, match=r"camera must be one of front, top.*, got 7"):
        make(observation="pixels", cameras=(7,))
