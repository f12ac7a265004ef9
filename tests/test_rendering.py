"""Choosing OpenGL without a display, and what the pictures show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from embodied_envs import rendering
from embodied_envs.rendering import (
    FAITHFUL,
    FAST,
    FrameRenderer,
    RenderingUnavailable,
    choose_backend,
    require_backend,
)

ROUGH = replace(FAITHFUL, supersampling=1)
SCENE = """
<mujoco>
  <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
  <worldbody>
    <light pos="0 -3 1.5" dir="0 1 0" diffuse="0 0 0"/>
    <camera name="front" pos="0 -3 0" xyaxes="1 0 0 0 0 1"/>
    <camera name="hanging" pos="0 -3 0" xyaxes="-1 0 0 0 0 -1"/>
    <geom name="up" type="box" size=".3 .3 .3" pos="0 0 .7" rgba="1 0 0 1"/>
    <geom name="right" type="box" size=".3 .3 .3" pos=".7 0 0" rgba="0 0 1 1"/>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No choice has been made yet, and none made here outlives the test."""
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delitem(sys.modules, "mujoco.gl_context", raising=False)
    monkeypatch.setattr(rendering, "_CANDIDATES", ("egl", "osmesa"))
    return monkeypatch


def broken(*names: str) -> Callable[[str], str]:
    return lambda name: f"{name} is broken" if name in names else ""


@pytest.fixture(scope="module")
def scene() -> tuple[Any, Any]:
    if choose_backend() is None:
        pytest.skip("no OpenGL without a display on this machine")
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def centre(mask: Any) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


def test_a_choice_already_made_is_kept(unset: pytest.MonkeyPatch) -> None:
    unset.setattr(rendering, "_trouble", broken("egl", "osmesa"))
    unset.setenv("MUJOCO_GL", "glfw")
    assert choose_backend() == require_backend() == "glfw"


@pytest.mark.parametrize(("bad", "chosen"), [((), "egl"), (("egl",), "osmesa")])
def test_the_first_backend_that_works_is_set(
    unset: pytest.MonkeyPatch, bad: tuple[str, ...], chosen: str
) -> None:
    unset.setattr(rendering, "_trouble", broken(*bad))
    assert choose_backend() == chosen
    assert os.environ["MUJOCO_GL"] == chosen


def test_without_any_backend_the_error_says_what_to_install(unset: pytest.MonkeyPatch) -> None:
    unset.setattr(rendering, "_trouble", broken("egl", "osmesa"))
    assert choose_backend() is None
    assert os.environ["MUJOCO_GL"] == ""
    with pytest.raises(RenderingUnavailable) as caught:
        require_backend()
    for part in ("egl is broken", "osmesa is broken", "libegl1 libgl1-mesa-dri", "libosmesa6"):
        assert part in str(caught.value)
    assert "without cameras" in str(caught.value)


def test_rendering_that_is_forbidden_is_not_attempted(unset: pytest.MonkeyPatch) -> None:
    unset.setenv("MUJOCO_GL", "disabled")
    assert choose_backend() is None
    with pytest.raises(RenderingUnavailable, match="MUJOCO_GL=disabled forbids"):
        require_backend()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import os; os.abort()", "exit code -6"),
        ("raise ImportError('no driver')", "ImportError: no driver"),
        ("import time; time.sleep(60)", "hung"),
        ("import sys; print('only a warning', file=sys.stderr)", ""),
    ],
)
def test_a_broken_driver_only_takes_the_probe_down(
    monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    monkeypatch.setattr(rendering, "_PROBE", script)
    monkeypatch.setattr(rendering, "_PROBE_TIMEOUT_S", 1.0 if words == "hung" else 30.0)
    assert words in rendering._trouble.__wrapped__("egl")
    assert bool(rendering._trouble.__wrapped__("egl")) == bool(words)


def test_choosing_does_not_import_mujoco() -> None:
    code = (
        "import sys; from embodied_envs.rendering import choose_backend; choose_backend();"
        "sys.exit('mujoco' in sys.modules or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("camera", ["front", "hanging"])
def test_frames_are_upright(scene: tuple[Any, Any], camera: str) -> None:
    model, data = scene
    with FrameRenderer(model, (40, 60), camera=camera) as renderer:
        image = renderer.frame(data)
    assert image.shape == (40, 60, 3)
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    row, column = centre((image[..., 0] > 200) & (image[..., 2] < 50))
    assert row < 12
    assert abs(column - 29.5) < 1  # the red box is above
    row, column = centre((image[..., 2] > 200) & (image[..., 0] < 50))
    assert abs(row - 19.5) < 1
    assert column > 38  # the blue one to the right


def test_supersampling_smooths_edges_and_keeps_the_rest(scene: tuple[Any, Any]) -> None:
    model, data = scene
    with FrameRenderer(model, (41, 61), camera="front", profile=ROUGH) as plain:
        rough = plain.frame(data).astype(int)
    with FrameRenderer(model, (41, 61), camera="front") as renderer:
        smooth = renderer.frame(data).astype(int)
    assert len(np.unique(smooth[..., 0])) > len(np.unique(rough[..., 0]))
    same = (np.abs(smooth - rough) <= 1).all(-1).mean()
    assert 0.85 < same < 1.0


def test_shrinking_takes_the_rounded_mean_of_each_square() -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, :2, 0] = [[255, 255], [255, 254]]  # mean 254.75
    image[:, 2:, 1] = [[1, 0], [0, 0]]  # mean 0.25
    shrunk = rendering._shrink(image, 2)
    assert shrunk.dtype == np.uint8
    assert shrunk.tolist() == [[[255, 0, 0], [0, 0, 0]]]


def test_the_models_own_settings_are_left_as_they_were(scene: tuple[Any, Any]) -> None:
    model, data = scene
    buffer, quality = model.vis.global_, model.vis.quality
    before = buffer.offwidth, buffer.offheight, quality.shadowsize, quality.offsamples
    with FrameRenderer(model, (500, 700)) as renderer:  # three times that, beyond 640 x 480
        assert renderer.frame(data).shape == (500, 700, 3)
    after = buffer.offwidth, buffer.offheight, quality.shadowsize, quality.offsamples
    assert after == before


def test_the_fast_profile_draws_no_shadow(scene: tuple[Any, Any]) -> None:
    mujoco = pytest.importorskip("mujoco")
    lit = SCENE.replace('pos="0 -3 1.5" dir="0 1 0" diffuse="0 0 0"', 'pos="0 0 3" dir="0 0 -1"')
    floor = '<geom type="plane" size="3 3 .1" pos="0 0 -.7"/></worldbody>'
    model = mujoco.MjModel.from_xml_string(
        lit.replace("</worldbody>", floor).replace("1 1 1", ".3 .3 .3")
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with FrameRenderer(model, (40, 40), camera="front", profile=ROUGH) as renderer:
        shaded = renderer.frame(data).astype(int)
    with FrameRenderer(model, (40, 40), camera="front", profile=FAST) as renderer:
        bright = renderer.frame(data).astype(int)
    floor_rows = slice(30, 40)
    assert (bright[floor_rows] - shaded[floor_rows]).max() > 20
    assert (bright[floor_rows] - shaded[floor_rows]).min() >= 0


def test_renderers_of_two_scenes_do_not_disturb_each_other(scene: tuple[Any, Any]) -> None:
    model, data = scene
    with FrameRenderer(model, (20, 30), camera="front") as alone:
        expected = alone.frame(data)
    with (
        FrameRenderer(model, (20, 30), camera="front") as first,
        FrameRenderer(model, (50, 50), camera=-1) as second,
    ):
        for _ in range(2):
            second.frame(data)
            np.testing.assert_array_equal(first.frame(data), expected)


def test_a_wrong_camera_is_named_with_the_choices(scene: tuple[Any, Any]) -> None:
    for camera in ("side", 2, -2):
        with pytest.raises(ValueError, match=rf"camera {camera!r} is not .*: front, hanging"):
            FrameRenderer(scene[0], (8, 8), camera=camera)
    with pytest.raises(ValueError, match="size must be"):
        FrameRenderer(scene[0], (0, 8))


def test_a_profile_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="supersampling must be 1 or more, got 0"):
        replace(FAITHFUL, supersampling=0)


def test_a_closed_renderer_says_so(scene: tuple[Any, Any]) -> None:
    renderer = FrameRenderer(scene[0], (8, 8))
    renderer.close()
    renderer.close()
    with pytest.raises(ValueError, match="closed"):
        renderer.frame(scene[1])


LATE = """
import os
os.environ.pop("MUJOCO_GL", None)
import mujoco
from embodied_envs.rendering import FrameRenderer
model = mujoco.MjModel.from_xml_string("<mujoco/>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = FrameRenderer(model, (8, 8))
assert renderer.frame(data).shape == (8, 8, 3)
"""


def test_a_late_choice_works_and_a_forgotten_renderer_leaves_without_a_word(
    scene: tuple[Any, Any],
) -> None:
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("camera", ["front", "hanging", "aslant"])
def test_matrices_say_where_a_point_appears(camera: str) -> None:
    if choose_backend() is None:
        pytest.skip("no OpenGL without a display on this machine")
    mujoco = pytest.importorskip("mujoco")
    dot = '<geom type="sphere" size=".03" pos="{}" rgba="1 1 1 1"/>'
    aslant = '<camera name="aslant" pos="1 -2 1" xyaxes="2 1 0 -.5 1 2" fovy="60"/>'
    for point in ([0.4, 0.1, 0.3], [-0.3, 0.5, -0.2]):
        parts = (aslant, dot.format(" ".join(map(str, point))))
        text = re.sub("<geom.*?/>", "", SCENE).replace(
            "</worldbody>", f"{''.join(parts)}</worldbody>"
        )
        model = mujoco.MjModel.from_xml_string(text)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        with FrameRenderer(model, (120, 160), camera=camera) as renderer:
            rows, columns = np.nonzero(renderer.frame(data).max(-1) > 128)
            matrices = renderer.matrices()
        assert matrices is not None
        assert matrices["size"] == [120, 160]
        inside = np.array(matrices["extrinsics"]) @ [*point, 1.0]
        pixel = np.array(matrices["intrinsics"]) @ inside
        found = (columns.mean(), rows.mean())
        np.testing.assert_allclose(pixel[:2] / pixel[2], found, atol=0.6)


def test_a_camera_that_moves_has_no_matrices(scene: tuple[Any, Any]) -> None:
    with FrameRenderer(scene[0], (8, 8)) as renderer:
        assert renderer.matrices() is None
