"""Motions about a block: what counts as done, who can do it, and what a camera can tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embodied.data.sketches import Camera, draw, following_error, trace_hand
from embodied.structs import Annotation, Episode
from embodied.suites import Hand
from embodied.testing import check_env
from embodied_datasets import labellers
from embodied_datasets.scripted_rollout import Job, Settings, run_episode
from embodied_envs.motions import (
    CROSSED,
    CROSSED_HELD_OUT,
    HELD_OUT,
    SEEN,
    Motions,
    Split,
)
from embodied_envs.motions_scene import KEPT, Motion, MotionExpert, MotionScene
from embodied_envs.simulated_env import SimulatedEnv
from tests.conftest import MOTIONS, compose_config

SPLITS: tuple[Split, ...] = ("seen", "held_out", "crossed", "crossed_held_out")
TWINS = (
    (Motion("pass", "left"), Motion("behind", "left")),
    (Motion("lift", "right"), Motion("retreat", "right")),
)
FRONT = {  # the scene's camera, at 64 x 64 pixels
    "intrinsics": [[111.6, 0, 31.5], [0, 111.6, 31.5], [0, 0, 1]],
    "extrinsics": [[1, 0, 0, 0], [0, -0.68162, -0.73174, 0.01745], [0, 0.73174, -0.68162, 0.89092]],
    "size": [64, 64],
}


def run(motion: Motion, asked: Motion | None = None, seed: int = 0) -> tuple[bool, list[Any]]:
    """Whether an expert at `motion` does what is `asked`, and where its finger went."""
    scene, expert = MotionScene(asked or motion), MotionExpert(motion, seed=seed)
    state, path = scene.reset(seed), []
    for _ in range(100):
        path.append(state)
        last = scene.step(expert(state))
        state = last.state
        if last.terminated:
            return True, path
    return False, path


def test_splits_share_no_motion_but_every_kind_and_side() -> None:
    assert not set(SEEN) & set(HELD_OUT)
    assert {m.kind for m in SEEN} == {m.kind for m in HELD_OUT}
    sides = {side for m in SEEN for side in m.direction.split("-")}
    assert {side for m in HELD_OUT for side in m.direction.split("-")} <= sides


@pytest.mark.parametrize("split", SPLITS)
def test_the_world_keeps_the_contract(split: Split) -> None:
    check_env(Motions(split=split), num_steps=5)


def test_crossed_motions_leave_out_kinds_in_directions_that_are_known_apart() -> None:
    assert not set(CROSSED) & set(CROSSED_HELD_OUT)
    for new in CROSSED_HELD_OUT:
        known = [m.kind for m in CROSSED if m.direction == new.direction]
        assert known, "some other kind goes in that direction"
        assert new.kind not in known
        assert sum(m.kind == new.kind for m in CROSSED) >= 4


@pytest.mark.parametrize("motions", [CROSSED, CROSSED_HELD_OUT], ids=["demonstrated", "held out"])
def test_of_two_crossed_motions_that_look_alike_both_are_in_one_split(
    motions: tuple[Motion, ...],
) -> None:
    for one, other in (("pass", "behind"), ("lift", "retreat")):
        ways = [{m.direction for m in motions if m.kind == kind} for kind in (one, other)]
        assert ways[0] == ways[1]


def test_a_corner_of_the_block_has_a_name() -> None:
    texts = Motions(split="crossed").texts("lift-toward-left")
    assert texts.canonical == "come down beside the block, at its near left corner, and rise " + (
        "straight up"
    )
    assert "at its right," in Motions(split="held_out").texts("lift-right").canonical


ALL = tuple(dict.fromkeys(SEEN + HELD_OUT + CROSSED + CROSSED_HELD_OUT))


@pytest.mark.parametrize("motion", ALL, ids=lambda m: f"{m.kind}-{m.direction}")
def test_every_motion_can_be_done(motion: Motion) -> None:
    assert sum(run(motion, seed=seed)[0] for seed in range(10)) >= 9


def test_an_expert_takes_ways_that_its_seed_draws_and_touches_no_block_on_them() -> None:
    scene, ends = MotionScene(Motion("push", "right")), []
    for seed in (0, 0, 1):
        state, expert = scene.reset(3), MotionExpert(scene.motion, seed=seed)
        block, path = state[6:], []
        while not np.linalg.norm(state[:3] - scene.motion.waypoints(block)[0]) < 0.02:
            assert np.allclose(state[6:], block, atol=1e-3)
            path.append(state[:3])
            state = scene.step(expert(state)).state
        ends.append(np.stack(path))
    assert np.array_equal(ends[0], ends[1])
    assert ends[0].shape != ends[2].shape or not np.allclose(ends[0], ends[2])


def test_experts_go_straight_where_detours_are_not_wanted() -> None:
    suite = Motions(split="crossed", detours=False)
    assert suite.name != Motions(split="crossed").name  # demonstrations of both never mix
    scene, paths = MotionScene(Motion("push", "right")), []
    for seed in (0, 1):
        state, expert, path = scene.reset(3), suite.expert("push-right", seed=seed), []
        for _ in range(15):
            path.append(state[:3])
            state = scene.step(expert(state)).state
        paths.append(np.stack(path))
    assert np.array_equal(*paths)
    start = scene.motion.waypoints(scene.reset(3)[6:])[0]
    gaps = np.linalg.norm(paths[0][:, :2] - start[:2], axis=1)
    there = int(np.argmax(gaps < 0.015))
    assert there > 3
    assert (np.diff(gaps[: there + 1]) < 1e-3).all()


@pytest.mark.parametrize("motion", SEEN + HELD_OUT, ids=lambda m: f"{m.kind}-{m.direction}")
def test_where_episodes_go_on_an_expert_ends_at_the_last_waypoint_and_rests(motion: Motion) -> None:
    scene, expert = MotionScene(motion, terminates=False), MotionExpert(motion, seed=0)
    state = scene.reset(0)
    last_waypoint, path, rewards = scene.motion.waypoints(state[6:])[-1], [], []
    for _ in range(70):
        step = scene.step(expert(state))
        state = step.state
        assert not step.terminated
        path.append(state[:3])
        rewards.append(step.reward)
    assert rewards[-1] == 1  # and it undoes nothing
    assert np.linalg.norm(path[-1] - last_waypoint) < 0.02
    assert np.linalg.norm(path[-1] - path[-10]) < 1e-3
    on_the_way = np.linalg.norm(path[int(np.argmax(rewards))] - last_waypoint)
    assert motion.kind == "push" or on_the_way > 0.02, "where others end the episode"


def test_demonstrations_that_rest_never_mix_with_those_that_end_early() -> None:
    assert Motions(terminates=False).name != Motions().name
    assert Motions(terminates=False).open_simulator("lift-left").terminates is False


def test_a_motion_is_not_done_by_its_twin_at_another_height() -> None:
    for high, low in TWINS:
        assert not run(high, asked=low)[0]
        assert not run(low, asked=high)[0]


def test_an_episode_has_one_arrangement_whatever_is_asked() -> None:
    states = [MotionScene(motion).reset(5) for motion in SEEN]
    assert all(np.array_equal(state, states[0]) for state in states)
    assert not np.array_equal(states[0], MotionScene(SEEN[0]).reset(6))


def test_who_moves_a_block_that_should_stay_is_not_done() -> None:
    scene = MotionScene(Motion("lift", "right"))
    scene.reset(0)
    scene.data.qpos[scene._block] += KEPT + 0.01
    for waypoint in scene.motion.waypoints(scene._begun):
        scene.data.qpos[scene._rails] = waypoint
        result = scene.judge()[1]["result"]
    assert result == 0.75


def test_twins_look_alike_in_two_dimensions_and_not_with_height() -> None:
    """The same start, the same pixels to within two of 64, other heights."""
    camera, block = Camera.of(FRONT), np.array([0.03, -0.04])
    for twins in TWINS:
        paths = [_dense(motion.waypoints(block)) for motion in twins]
        traces = [
            trace_hand(path, np.zeros((len(path), 3), np.float32), camera, Hand()) for path in paths
        ]
        assert following_error(traces[0].points, traces[1].points) < 2
        assert following_error(traces[1].points, traces[0].points) < 2
        high, low = (np.ptp(trace.heights) + trace.heights.max() for trace in traces)
        assert high > low + 0.07


def _dense(waypoints: list[Any]) -> Any:
    start = np.array([0.1, 0.0, 0.12])
    ends = np.stack([start, *waypoints])
    steps = np.linspace(0, 1, 9)[:, None]
    legs = [a + steps * (b - a) for a, b in zip(ends[1:-1], ends[2:], strict=True)]
    return np.concatenate(legs).astype(np.float32)


def record(env: SimulatedEnv, suite: Motions) -> Episode:
    settings = Settings(suite, 0, (0.0,), 1, 0, 100, 10, 10)
    return run_episode(env, settings, Job(0, 0, False), 0)


def test_sketches_of_demonstrations_pass_where_the_finger_is_seen() -> None:
    """The finger is the darkest thing on a bright table."""
    suite = Motions(observation="pixels", render_profile="fast", tasks=("pass-right",))
    env = suite.make_env()
    episode = record(env, suite)
    env.close()
    assert episode.success
    (found,) = labellers.Sketches("front")(episode, None).annotations  # type: ignore[arg-type]
    assert isinstance(found, Annotation)
    camera = Camera.of(episode.info["cameras"]["front"])
    np.testing.assert_allclose(camera.intrinsics, FRONT["intrinsics"], atol=0.1)
    np.testing.assert_allclose(camera.extrinsics, FRONT["extrinsics"], atol=1e-3)
    trace = trace_hand(episode.state, episode.action, camera, Hand())
    for point, image in zip(trace.points, episode.images["front"], strict=True):
        x, y = point.round().astype(int)
        patch = image[max(y - 2, 0) : y + 1, max(x - 1, 0) : x + 2].max(-1)
        assert patch.min() < 90, (point, patch)
    assert draw(trace).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ("rt_trajectory", "sketch"),
        ("rt_trajectory_2d", "sketch_2d"),
        ("rt_trajectory_goal_image", "goal_image"),
        ("rt_trajectory_language", "language"),
    ],
)
def test_every_arm_is_told_in_training_what_it_is_told_in_evaluation(arm: str, told: str) -> None:
    config = compose_config(f"experiment={arm}", "run_dir=unused")
    assert config["protocol"]["modalities"] == [told]
    assert config["probes"]["held_out"]["modalities"] == [told]
    parts = config["policy"]["encoder"]["parts"]
    early = {name for name, camera in (parts["image"].get("early") or {}).items() if camera}
    sketches = (config["source"]["told"] or {}).get("sketches")
    assert (parts["language"] is not None) == (told == "language")
    assert early == {told} & {"goal_image"}
    assert (parts.get("sketch") is not None) == told.startswith("sketch")
    assert (sketches is not None) == told.startswith("sketch")
    if sketches:
        assert sketches["with_height"] == (told == "sketch")
    assert (config["source"]["goals"] is not None) == (told == "goal_image")


@pytest.mark.slow  # a whole run
def test_a_recipe_runs_from_demonstrations_to_results_named_by_what_was_told(
    tmp_path: Path,
) -> None:
    import embodied
    from embodied.results import read_results

    small = (
        "experiment=rt_trajectory",
        *MOTIONS,
        f"data_dir={tmp_path}/data",
        "policy.encoder.parts.image.channels=[8]",
    )
    run = tmp_path / "run"
    embodied.train(compose_config(*small, f"run_dir={run}"))
    found = read_results(run)
    assert found.protocol == "motions@sketch@fast"
    assert found.probes["held_out"].protocol == "motions-held-out@sketch@fast"
    assert found.metrics()["prompt_success"].mean == 1
    assert found.metrics()["sketch_missed"].mean > 0
    flat = ("protocol=motions", "protocol.modalities=[sketch_2d]", "protocol.goals_per_task=1")
    again = tmp_path / "again"
    settings = ("protocol.max_steps=4", "device=cpu", "shards=1", "env.num_envs=4", "env.workers=0")
    config = compose_config(
        f"checkpoint={run}", f"output={again}", *flat, *settings, name="evaluate"
    )
    assert read_results(embodied.evaluate(config)).protocol == "motions@sketch_2d@fast"
