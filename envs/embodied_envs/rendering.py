"""Pictures of MuJoCo scenes on machines without a display.

MuJoCo binds OpenGL when it is imported, by the environment variable MUJOCO_GL. Whoever may render
calls `choose_backend` before that; an import that came earlier is set right here.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

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


class FrameRenderer:
    """Draws what one camera of a model sees.

    The default costs a third of MuJoCo's own settings in software and looks nearly the same; it
    anti-aliases by averaging 2 x 2 pixels, because a pixel costs little next to the scene's meshes.
    A camera that hangs upside down in the world, as Meta-World's corner cameras do, is drawn the
    right way up. Must be closed; also works in a `with` statement.

    Args:
        model: the scene; its own quality settings are passed over.
        size: (h, w) of a frame in pixels.
        camera: name or number of a camera of the model; -1 is the free camera.
        shadow_size: side of the shadow map in texels; 0 draws no shadows.
        samples: multisampling (0 or 4); the slowest way to smooth edges without a GPU.
        supersampling: each pixel is the mean of a square of this side.
        reflections: whether mirrors mirror; each one draws the scene again.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        size: tuple[int, int],
        *,
        camera: str | int = -1,
        shadow_size: int = 512,
        samples: int = 0,
        supersampling: int = 2,
        reflections: bool = False,
    ) -> None:
        if min(size) < 1 or supersampling < 1:
            raise ValueError(f"size and supersampling must be positive: {size}, {supersampling}")
        require_backend()
        import mujoco

        self._camera = _camera_number(model, camera)
        self._supersampling = supersampling
        self._turn = _hangs_upside_down(model, self._camera)
        height, width = (side * supersampling for side in size)
        with _drawing_settings(model, height, width, shadow_size=shadow_size, samples=samples):
            self._renderer: mujoco.Renderer | None = mujoco.Renderer(model, height, width)
        flags: Any = self._renderer.scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadow_size > 0
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = reflections
        # EGL ends with the interpreter, and a renderer that is freed later complains. This hook
        # comes after EGL's own and so runs before it.
        self._at_exit = functools.partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)

    @classmethod
    def fast(
        cls, model: mujoco.MjModel, size: tuple[int, int], *, camera: str | int = -1
    ) -> FrameRenderer:
        """No shadows, rough edges: several times faster, but visibly another domain."""
        return cls(model, size, camera=camera, shadow_size=0, supersampling=1)

    def frame(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """The scene as it stands in `data`, upright, (h, w, 3); the array is the caller's."""
        if self._renderer is None:
            raise ValueError("the renderer is closed: make a new FrameRenderer")
        self._renderer.update_scene(data, camera=self._camera)
        image = _shrink(self._renderer.render(), self._supersampling)
        return np.ascontiguousarray(image[::-1, ::-1]) if self._turn else image

    def close(self) -> None:
        """Frees the OpenGL context; may be called twice."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
            atexit.unregister(self._at_exit)

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
    import mujoco

    fixed = mujoco.mjtCamLight.mjCAMLIGHT_FIXED
    if camera < 0 or model.cam_bodyid[camera] != 0 or model.cam_mode[camera] != fixed:
        return False
    up = model.cam_mat0[camera].reshape(3, 3)[:, 1]  # in world axes
    return bool(up[2] < -1e-6)


@contextlib.contextmanager
def _drawing_settings(
    model: mujoco.MjModel, height: int, width: int, *, shadow_size: int, samples: int
) -> Iterator[None]:
    """Lends a model the settings that a renderer reads once, when it is made."""
    quality, buffer = model.vis.quality, model.vis.global_
    before = quality.shadowsize, quality.offsamples, buffer.offheight, buffer.offwidth
    quality.shadowsize, quality.offsamples = shadow_size, samples
    buffer.offheight, buffer.offwidth = height, width
    try:
        yield
    finally:
        quality.shadowsize, quality.offsamples, buffer.offheight, buffer.offwidth = before


def _shrink(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """The mean over squares of `factor` pixels, rounded to the nearest."""
    if factor == 1:
        return image
    total = np.full((image.shape[0] // factor, image.shape[1] // factor, 3), factor**2 // 2, "u4")
    for row in range(factor):
        for column in range(factor):
            total += image[row::factor, column::factor]
    return (total // factor**2).astype(np.uint8)


def _close(reference: weakref.ref[FrameRenderer]) -> None:
    if (renderer := reference()) is not None:
        renderer.close()
