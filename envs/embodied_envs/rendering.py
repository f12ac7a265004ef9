"""Pictures of MuJoCo scenes on machines without a display.

MuJoCo binds OpenGL when it is imported, by the environment variable MUJOCO_GL. Whoever may render
calls `choose_backend` before that; an import that came earlier is set right here.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from embodied_envs.canvas import Canvas, Look, studio

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]

_CANDIDATES = {"darwin": ("cgl",), "win32": ("wgl",)}.get(sys.platform, ("egl", "osmesa"))
_DISABLED = ("disable", "disabled", "off", "false", "0")
# Leaves without tidying up: some drivers fail at that, after they have drawn well.
_PROBE = """
import os, mujoco
mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).render()
os._exit(0)
"""
_PROBE_TIMEOUT_S = 60.0


class RenderingUnavailable(RuntimeError):
    """This machine offers no way to draw without a display."""


def choose_backend() -> str | None:
    """Sets MUJOCO_GL to the first backend that works here, and returns it; None where none does.

    A value that is already set is kept. The answer is cached, and child processes inherit it.
    """
    if given := os.environ.get("MUJOCO_GL", ""):
        return None if given.lower().strip() in _DISABLED else given
    backend = next((name for name in _CANDIDATES if not _trouble(name)), None)
    if backend is not None:
        logging.getLogger(__name__).info("rendering with MUJOCO_GL=%s", backend)
        os.environ["MUJOCO_GL"] = backend
        if "mujoco.gl_context" in sys.modules:  # bound to a display before we were asked
            importlib.reload(sys.modules["mujoco.gl_context"])
    return backend


def require_backend() -> str:
    """Like `choose_backend`, but raises RenderingUnavailable, with the remedy, where none works."""
    if (backend := choose_backend()) is not None:
        return backend
    if given := os.environ.get("MUJOCO_GL"):
        raise RenderingUnavailable(f"MUJOCO_GL={given} forbids rendering: unset it")
    tried = "; ".join(f"{name}: {_trouble(name)}" for name in _CANDIDATES)
    raise RenderingUnavailable(
        f"no OpenGL without a display was found ({tried}). On Debian or Ubuntu: `apt install "
        "libegl1 libgl1-mesa-dri` (EGL; an NVIDIA driver brings its own) or `apt install "
        "libosmesa6`. Runs without cameras, videos and rendering work as they are."
    )


@functools.cache
def _trouble(backend: str) -> str:
    """Why a backend cannot draw; empty where it can. A broken driver only kills the child."""
    command = [sys.executable, "-c", _PROBE]
    variables = {**os.environ, "MUJOCO_GL": backend}
    try:
        done = subprocess.run(
            command, env=variables, timeout=_PROBE_TIMEOUT_S, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        return f"it hung for {_PROBE_TIMEOUT_S:.0f} s"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1] if done.returncode else ""


@dataclass(frozen=True)
class Profile:
    """How much work goes into a picture.

    Attributes:
        shadow_size: side of the shadow map in texels; 0 draws no shadows, None is the model's own.
        samples: multisampling (0 or 4), the slowest way to smooth edges without a GPU; None is the
            model's own.
        supersampling: each pixel is the mean of a square of this side.
        reflections: whether mirrors mirror; each one draws the scene again.
    """

    shadow_size: int | None
    samples: int | None
    supersampling: int
    reflections: bool

    def __post_init__(self) -> None:
        if self.supersampling < 1:
            raise ValueError(f"supersampling must be 1 or more, got {self.supersampling}")


NATIVE = Profile(shadow_size=None, samples=None, supersampling=1, reflections=True)
"""As the library that made the model would draw it."""
# A pixel costs little next to the scene's meshes, so that nine of them are the cheaper smoothing.
FAITHFUL = Profile(shadow_size=512, samples=0, supersampling=3, reflections=False)
"""Nearly the same picture at less than half the cost."""
FAST = Profile(shadow_size=0, samples=0, supersampling=1, reflections=False)
"""No shadows, rough edges: many times faster, but visibly another domain."""
PROFILES: Mapping[str, Profile] = {"fast": FAST, "faithful": FAITHFUL, "native": NATIVE}
"""The names that suites and data sets know them by; docs/benchmarks.md has their costs."""


class FrameRenderer:
    """Draws what one camera of a model sees.

    Renderers of models with the same meshes and textures share what OpenGL holds of them, and draw
    each their own model as it stands. A camera that hangs upside down in the world, as Meta-World's
    corner cameras do, is drawn the right way up. Used in the thread that made it; must be closed;
    also works in a `with` statement.

    Args:
        model: the scene. Its meshes, textures and height fields must stay as they are.
        size: (h, w) of a frame in pixels.
        camera: name or number of a camera of the model; -1 is the free camera.
        profile: how it is drawn.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        size: tuple[int, int],
        *,
        camera: str | int = -1,
        profile: Profile = FAITHFUL,
    ) -> None:
        if min(size) < 1:
            raise ValueError(f"size must be (h, w), both 1 pixel or more, got {size}")
        require_backend()
        self._model = model
        self._camera = _camera_number(model, camera)
        self._turn = _hangs_upside_down(model, self._camera)
        self._supersampling = profile.supersampling
        self._sides = size[0] * self._supersampling, size[1] * self._supersampling
        self._studio = studio()
        key, canvas = self._studio.acquire(model, profile)
        self._canvas: Canvas | None = canvas
        self._release = weakref.finalize(self, self._studio.release, key)  # also where forgotten
        self._release.atexit = False

    def frame(self, data: mujoco.MjData, looks: Iterable[Look] = ()) -> NDArray[np.uint8]:
        """The scene as it stands in `data`, upright, (h, w, 3); the array is the caller's."""
        if self._canvas is None:
            raise ValueError("the renderer is closed: make a new FrameRenderer")
        self._studio.enter()
        image = self._canvas.draw(self._model, data, self._camera, *self._sides, looks)
        image = _shrink(image, self._supersampling)
        return np.ascontiguousarray(image[::-1, ::-1] if self._turn else image)

    def matrices(self) -> dict[str, Any] | None:
        """Where points of the world appear in its frames; None for a camera that moves.

        `intrinsics` (3, 3) in pixels, `extrinsics` (3, 4) from the world's frame in m to the
        camera's, which has x to the right of the image, y down and z into the scene; `size` (h, w).
        All are lists, so that they can be recorded.
        """
        if not _is_fixed(self._model, self._camera):
            return None
        height, width = (side // self._supersampling for side in self._sides)
        focal = height / 2 / math.tan(math.radians(self._model.cam_fovy[self._camera]) / 2)
        axes = np.array([-1, 1, -1] if self._turn else [1, -1, -1])  # MuJoCo looks along -z, y up
        rotation = axes[:, None] * self._model.cam_mat0[self._camera].reshape(3, 3).T
        place = -rotation @ self._model.cam_pos[self._camera]
        centre = (width - 1) / 2, (height - 1) / 2  # of the pixels' centres
        intrinsics = [[focal, 0.0, centre[0]], [0.0, focal, centre[1]], [0.0, 0.0, 1.0]]
        extrinsics = np.concatenate([rotation, place[:, None]], axis=1).tolist()
        return {"intrinsics": intrinsics, "extrinsics": extrinsics, "size": [height, width]}

    def close(self) -> None:
        """Gives up its share of what OpenGL holds; may be called twice."""
        if self._canvas is not None:
            self._canvas = None
            self._release()
            self._studio.trim()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _camera_number(model: mujoco.MjModel, camera: str | int) -> int:
    names = [model.camera(index).name for index in range(model.ncam)]
    if camera in names:
        return names.index(str(camera))
    if not isinstance(camera, int) or not -1 <= camera < model.ncam:
        raise ValueError(
            f"camera {camera!r} is not in the model; choose from: {', '.join(names)}, or a number "
            f"from -1 (the free camera) to {model.ncam - 1}"
        )
    return camera


def _hangs_upside_down(model: mujoco.MjModel, camera: int) -> bool:
    """Whether a camera that never turns has its up axis pointing down."""
    if not _is_fixed(model, camera):
        return False
    up = model.cam_mat0[camera].reshape(3, 3)[:, 1]  # in world axes
    return bool(up[2] < -1e-6)


def _is_fixed(model: mujoco.MjModel, camera: int) -> bool:
    """Whether a camera is fixed to the world."""
    import mujoco

    fixed = mujoco.mjtCamLight.mjCAMLIGHT_FIXED
    return bool(camera >= 0 and model.cam_bodyid[camera] == 0 and model.cam_mode[camera] == fixed)


def _shrink(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """The mean over squares of `factor` pixels, rounded to the nearest."""
    if factor == 1:
        return image
    total = np.full((image.shape[0] // factor, image.shape[1] // factor, 3), factor**2 // 2, "u4")
    for row in range(factor):
        for column in range(factor):
            total += image[row::factor, column::factor]
    return (total // factor**2).astype(np.uint8)
