"""Perturbations of the picture of a scene: what they change, and that they change nothing else."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from embodied.testing import check_env
from embodied_envs.gym_mujoco import GymMujoco
from embodied_envs.metaworld import MetaWorld
from embodied_envs.perturbed import Perturbed
from embodied_envs.point import PointSuite
from embodied_envs.scene_perturbations import (
    CameraShift,
    ColourShift,
    Distractors,
    LightShift,
    ScenePerturbation,
)

SUITE = GymMujoco(("HalfCheetah-v5",), observation="mixed", image_size=(48, 48))
ALL = (CameraShift(10), LightShift(0.5), ColourShift(0.5), Distractors(8))
each = pytest.mark.parametrize("perturbation", ALL, ids=[p.name for p in ALL])
SCENE = """
<mujoco>
  <visual><headlight diffuse="0.3 0.3 0.3"/></visual>
  <worldbody>
    <light pos="0 0 3" dir="0 0 -1" diffuse="0.5 0.5 0.5"/>
    <geom name="floor" type="plane" size="2 2 0.1" rgba="0.5 0.5 0.5 1"/>
    <site name="target" pos="0 0 0.1" rgba="0.2 0.8 0.2 1"/>
    <camera name="above" pos="0 -1 1" xyaxes="1 0 0 0 1 1"/>
  </worldbody>
</mujoco>
"""
Shown = list[tuple[dict[str, Any], float]]


def play(suite: Any, seed: int, steps: int = 3) -> Shown:
    env = suite.make_env(render_size=(16, 16))
    shown = [(env.reset(seed=seed, options={"goal": seed})[0], 0.0)]
    action = np.full(env.action_space.shape, 0.3, np.float32)
    shown += [env.step(action)[:2] for _ in range(steps)]
    shown.append(({"render": env.render()}, 0.0))
    env.close()
    return shown


@each
def test_only_what_is_seen_changes(perturbation: ScenePerturbation) -> None:
    plain, harder = (play(suite, 1) for suite in (SUITE, Perturbed(SUITE, perturbation)))
    for (before, reward), (after, same_reward) in zip(plain, harder, strict=True):
        assert reward == same_reward
        for name, value in before.items():
            assert np.array_equal(value, after[name]) == (name != "camera0"), name


@each
def test_an_episode_looks_the_same_whatever_was_seen_before(
    perturbation: ScenePerturbation,
) -> None:
    check_env(Perturbed(SUITE, perturbation), num_steps=3)


@each
def test_without_strength_nothing_changes(perturbation: ScenePerturbation) -> None:
    nothing = type(perturbation)(0)
    for (before, _), (after, _) in zip(
        play(SUITE, 2), play(Perturbed(SUITE, nothing), 2), strict=True
    ):
        assert all(np.array_equal(value, after[name]) for name, value in before.items())


@each
@pytest.mark.parametrize("suite", [PointSuite(cameras=("top",)), GymMujoco(("HalfCheetah-v5",))])
def test_it_needs_images_of_a_scene(perturbation: ScenePerturbation, suite: Any) -> None:
    with pytest.raises(ValueError, match=r"needs images of a MuJoCo scene.*leave it out"):
        Perturbed(suite, perturbation).make_env()


def test_episodes_differ_and_perturbations_combine() -> None:
    suite = Perturbed(Perturbed(SUITE, ColourShift(0.5)), CameraShift(20))
    both = play(suite, 1)[0][0]["camera0"]
    parts = [play(Perturbed(SUITE, p), 1)[0][0]["camera0"] for p in (ALL[2], CameraShift(20))]
    assert all((both != part).any() for part in parts)
    env = suite.make_env()
    first, second = (env.reset(seed=s, options={"goal": 1})[0]["camera0"] for s in (1, 2))
    assert (first != second).any()
    env.close()


def test_meta_world_shows_it_too() -> None:
    suite = MetaWorld("MT1", "push-v3", observation="pixels", image_size=(24, 24))
    plain, harder = (
        s.make_env().reset(seed=1, options={"goal": 0})[0]
        for s in (suite, Perturbed(suite, CameraShift(10)))
    )
    assert np.array_equal(plain["state"], harder["state"])
    assert (plain["corner2"] != harder["corner2"]).any()


# On a scene whose numbers are known


def seen(perturbation: ScenePerturbation, seed: int = 3) -> tuple[Any, Any, Any]:
    """The model, its scene as it is, and as the perturbation shows it."""
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
    scenes = []
    for look in (None, perturbation.look(np.random.default_rng(seed))):
        scene = mujoco.MjvScene(model, 100)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, everything, scene)
        if look is not None:
            look(model, data, scene)
        scenes.append(scene)
    return model, *scenes


def test_a_camera_keeps_looking_at_its_point_from_its_distance() -> None:
    model, plain, moved = seen(CameraShift(20))
    for before, after in zip(plain.camera, moved.camera, strict=True):
        reach = np.linalg.norm(model.stat.center - before.pos)
        middle = before.pos + reach * before.forward
        np.testing.assert_allclose(after.pos + reach * after.forward, middle, atol=1e-5)
        assert 0.01 < np.linalg.norm(after.pos - before.pos) <= 2 * reach * np.radians(20)
        assert abs(after.forward @ after.up) < 1e-5


def test_lights_change_within_their_spread() -> None:
    _, plain, lit = seen(LightShift(0.5))
    assert plain.nlight == 2
    for before, after in zip(plain.lights[:2], lit.lights[:2], strict=True):
        gain = after.diffuse / before.diffuse
        assert 0.5 <= gain[0] <= 1.5
        assert gain[0] != 1
        np.testing.assert_allclose(gain, gain[0])
        assert np.allclose(before.dir, after.dir) == bool(before.headlight)
        assert before.dir @ after.dir >= np.cos(np.radians(30)) - 1e-6


def test_objects_change_colour_and_targets_do_not() -> None:
    _, plain, coloured = seen(ColourShift(0.5))
    pairs = list(zip(plain.geoms[: plain.ngeom], coloured.geoms[: plain.ngeom], strict=True))
    assert {int(a.objtype) for a, _ in pairs} == {
        int(mujoco.mjtObj.mjOBJ_GEOM),
        int(mujoco.mjtObj.mjOBJ_SITE),
    }
    for before, after in pairs:
        target = before.objtype == mujoco.mjtObj.mjOBJ_SITE
        assert np.array_equal(before.rgba, after.rgba) == target


def test_distractors_lie_on_what_the_camera_sees() -> None:
    _, plain, strewn = seen(Distractors(12))
    added = strewn.geoms[plain.ngeom : strewn.ngeom]
    assert 1 <= len(added) <= 12  # some rays meet the sky
    for thing in added:
        assert thing.pos[2] == pytest.approx(thing.size[0], abs=1e-5)
        assert abs(thing.pos[:2]).max() <= 2
