"""Renderers share what OpenGL holds, and each draws what a renderer of its own would draw."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embodied_envs.canvas import NUM_IDLE, studio
from embodied_envs.rendering import NATIVE, PROFILES, FrameRenderer, choose_backend

mujoco = pytest.importorskip("mujoco")

SIZE = (24, 32)
SCENE = """
<mujoco>
  <visual><quality shadowsize="256" offsamples="0"/></visual>
  <asset>
    <texture name="chequer" type="2d" builtin="checker" width="64" height="64" rgb1="1 0 0"/>
    <material name="tiled" texture="chequer" reflectance=".4"/>
    <mesh name="wedge" vertex="0 0 0  1 0 0  0 1 0  0 0 1"/>
    <hfield name="hills" nrow="3" ncol="3" size=".5 .5 .3 .1"/>
  </asset>
  <worldbody>
    <light name="lamp" pos="0 0 3" dir="0 .2 -1"/>
    <camera name="front" pos="0 -3 2" xyaxes="1 0 0 0 .5 1"/>
    <geom name="floor" type="plane" size="2 2 .1" material="tiled"/>
    <geom type="hfield" hfield="hills" pos="-1 0 0"/>
    <body name="block" pos=".4 0 .5"><geom type="mesh" mesh="wedge"/></body>
    <site name="goal" pos="-.6 0 .4" size=".2"/>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def model() -> Any:
    if choose_backend() is None:
        pytest.skip("no OpenGL without a display on this machine")
    return mujoco.MjModel.from_xml_string(SCENE)


def standing(model: Any) -> Any:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return data


def by_itself(model: Any) -> Any:
    """The picture of MuJoCo's own renderer, in an OpenGL context of its own."""
    with mujoco.Renderer(model, *SIZE) as renderer:
        renderer.update_scene(standing(model), camera="front")
        return renderer.render()


def native(model: Any) -> FrameRenderer:
    return FrameRenderer(model, SIZE, camera="front", profile=NATIVE)


def move_block(model: Any) -> None:
    model.body("block").pos[0] = -0.5


def hide_goal(model: Any) -> None:
    model.site("goal").rgba[3] = 0


def dim_light(model: Any) -> None:
    model.light("lamp").diffuse[:] = 0.2


def turn_camera(model: Any) -> None:
    model.camera("front").pos[0] += 0.7


@pytest.mark.parametrize("change", [move_block, hide_goal, dim_light, turn_camera])
def test_copies_of_a_model_share_a_canvas_and_are_drawn_as_they_are(
    model: Any, change: Callable[[Any], None]
) -> None:
    changed = copy.copy(model)
    change(changed)
    expected, otherwise = by_itself(model), by_itself(changed)
    assert not np.array_equal(expected, otherwise)
    before = studio().num_canvases
    with native(model) as first, native(changed) as second:
        assert studio().num_canvases <= before + 1
        for _ in range(2):
            np.testing.assert_array_equal(first.frame(standing(model)), expected)
            np.testing.assert_array_equal(second.frame(standing(changed)), otherwise)


def repaint(model: Any) -> None:
    model.tex_data[:] = 255 - model.tex_data


def grow_mesh(model: Any) -> None:
    model.mesh_vert[:] *= 1.5


def raise_hill(model: Any) -> None:
    model.hfield_data[4] = 1.0


def shrink_floor(model: Any) -> None:
    model.geom("floor").size[:2] = 0.5


def enlarge_tiles(model: Any) -> None:
    model.mat_texrepeat[:] = 3.0


@pytest.mark.parametrize("change", [repaint, grow_mesh, raise_hill, shrink_floor, enlarge_tiles])
def test_a_model_that_is_uploaded_otherwise_gets_a_canvas_of_its_own(
    model: Any, change: Callable[[Any], None]
) -> None:
    changed = copy.copy(model)
    change(changed)
    expected, otherwise = by_itself(model), by_itself(changed)
    assert not np.array_equal(expected, otherwise)
    with native(model) as first, native(changed) as second:
        np.testing.assert_array_equal(second.frame(standing(changed)), otherwise)
        np.testing.assert_array_equal(first.frame(standing(model)), expected)


def test_cameras_and_sizes_share_a_canvas(model: Any) -> None:
    data, before = standing(model), studio().num_canvases
    with native(model) as small, FrameRenderer(model, (90, 70), profile=NATIVE) as large:
        assert large.frame(data).shape == (90, 70, 3)
        np.testing.assert_array_equal(small.frame(data), by_itself(model))
        assert studio().num_canvases <= before + 1


def test_profiles_do_not_share(model: Any) -> None:
    data = standing(model)
    renderers = {
        name: FrameRenderer(model, SIZE, camera="front", profile=profile)
        for name, profile in PROFILES.items()
    }
    frames = {name: renderer.frame(data).tobytes() for name, renderer in renderers.items()}
    assert len(set(frames.values())) == 3
    for name in reversed(PROFILES):
        assert renderers[name].frame(data).tobytes() == frames[name]
        renderers[name].close()


def scenes(model: Any, count: int) -> list[FrameRenderer]:
    """Renderers of as many scenes that are uploaded differently."""
    found = []
    for i in range(count):
        other = copy.copy(model)
        other.hfield_data[0] = (i + 1) / count
        found.append(native(other))
    return found


def test_only_a_few_idle_canvases_are_kept(model: Any) -> None:
    renderers = scenes(model, NUM_IDLE + 3)
    assert studio().num_canvases >= len(renderers)  # one in use is never dropped
    for renderer in renderers:
        renderer.close()
    assert studio().num_canvases <= NUM_IDLE


def test_a_forgotten_renderer_gives_up_its_share(model: Any) -> None:
    scenes(model, NUM_IDLE + 3)
    gc.collect()
    native(model).close()
    assert studio().num_canvases <= NUM_IDLE
