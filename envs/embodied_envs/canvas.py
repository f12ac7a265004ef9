"""What OpenGL holds of a scene, shared by all that draw scenes of the same meshes and textures.

Copies of a model differ in positions, colours, cameras and lights, which MuJoCo hands to OpenGL
anew for each picture. What it uploads once is most of the cost of a renderer: here it is uploaded
once in a thread, into one context, for as long as anybody draws with it and a little longer.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]

    from embodied_envs.rendering import Profile

Look = Callable[["mujoco.MjModel", "mujoco.MjData", "mujoco.MjvScene"], None]
"""Changes a scene before it is drawn, and nothing of the simulation."""
NUM_IDLE = 4
"""How many canvases that nobody draws with a thread keeps, for who comes back to their scenes."""

_UPLOADED = ("mesh_", "hfield_", "tex_", "skin_", "flex_", "mat_tex")
_SPARE_SHAPES = 1000  # for what a scene shows besides geoms, sites and tendons


class Canvas:
    """The meshes and textures of a model in OpenGL, and a buffer that is as large as was needed.

    Made and used with the thread's OpenGL context current.
    """

    def __init__(self, model: mujoco.MjModel, profile: Profile) -> None:
        import mujoco

        self._mujoco = mujoco
        with _lent_quality(model, profile):
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        shapes = 2 * (model.ngeom + model.nsite + model.ntendon + model.nwrap)
        self._scene = mujoco.MjvScene(model, shapes + _SPARE_SHAPES)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = profile.shadow_size != 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = profile.reflections
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()

    def draw(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        camera: int,
        height: int,
        width: int,
        looks: Iterable[Look] = (),
    ) -> NDArray[np.uint8]:
        """What a camera of the model sees, (height, width, 3); -1 is the free camera.

        Args:
            model: any model that is uploaded as the one that the canvas was made of.
            looks: change the picture, in turn.
        """
        mujoco, context = self._mujoco, self._context
        if height > context.offHeight or width > context.offWidth:
            larger = max(width, context.offWidth), max(height, context.offHeight)
            mujoco.mjr_resizeOffscreen(*larger, context)
        self._point(model, camera)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            model, data, self._options, None, self._camera, everything, self._scene
        )
        for look in looks:
            look(model, data, self._scene)
        # Another canvas of the same OpenGL context may have drawn last.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        frame, image = mujoco.MjrRect(0, 0, width, height), np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(frame, self._scene, context)
        mujoco.mjr_readPixels(image, None, frame, context)
        return image[::-1]  # OpenGL's rows go upwards

    def _point(self, model: mujoco.MjModel, camera: int) -> None:
        if camera < 0:
            self._mujoco.mjv_defaultFreeCamera(model, self._camera)
        else:
            self._camera.type = self._mujoco.mjtCamera.mjCAMERA_FIXED
            self._camera.fixedcamid = camera

    def close(self) -> None:
        """Frees what OpenGL holds."""
        self._context.free()


class Studio:
    """An OpenGL context and its canvases: those in use, and up to `NUM_IDLE` others."""

    def __init__(self) -> None:
        from mujoco import gl_context

        self._gl: Any = gl_context.GLContext(64, 64)  # canvases bring buffers of their own
        self._canvases: OrderedDict[bytes, Canvas] = OrderedDict()  # by last acquisition
        self._users: Counter[bytes] = Counter()
        # EGL ends with the interpreter, and what is freed later complains. This hook comes after
        # EGL's own and so runs before it.
        atexit.register(self.close)

    def enter(self) -> None:
        """Makes the context that of the thread; before anything is made, drawn or freed."""
        self._gl.make_current()

    def acquire(self, model: mujoco.MjModel, profile: Profile) -> tuple[bytes, Canvas]:
        """The canvas for a model, new where none is uploaded alike, and what to release it by."""
        self.enter()
        key = _digest(model, profile)
        if key not in self._canvases:
            self._canvases[key] = Canvas(model, profile)
        self._canvases.move_to_end(key)
        self._users[key] += 1
        self.trim()
        return key, self._canvases[key]

    def release(self, key: bytes) -> None:
        """Says that one user less draws with a canvas; frees nothing, so may come at any time."""
        self._users[key] -= 1

    def trim(self) -> None:
        """Frees the canvases that were idle the longest."""
        idle = [key for key in self._canvases if self._users[key] <= 0]
        for key in idle[: max(0, len(idle) - NUM_IDLE)]:
            self.enter()
            self._canvases.pop(key).close()
            del self._users[key]

    @property
    def num_canvases(self) -> int:
        return len(self._canvases)

    def close(self) -> None:
        """Frees everything."""
        if self._gl is not None:
            self.enter()
            for canvas in self._canvases.values():
                canvas.close()
            self._canvases.clear()
            self._gl.free()
            self._gl = None


_LOCAL = threading.local()


def studio() -> Studio:
    """The thread's own, since an OpenGL context serves one thread; kept until the process ends."""
    if not hasattr(_LOCAL, "studio"):
        _LOCAL.studio = Studio()
    found: Studio = _LOCAL.studio
    return found


@contextlib.contextmanager
def _lent_quality(model: mujoco.MjModel, profile: Profile) -> Iterator[None]:
    """Lends a model the settings that are read once, when it is uploaded."""
    quality, buffer = model.vis.quality, model.vis.global_
    before = quality.shadowsize, quality.offsamples, buffer.offheight, buffer.offwidth
    if profile.shadow_size is not None:
        quality.shadowsize = profile.shadow_size
    if profile.samples is not None:
        quality.offsamples = profile.samples
    buffer.offheight = buffer.offwidth = 1  # it grows when something is drawn
    try:
        yield
    finally:
        quality.shadowsize, quality.offsamples, buffer.offheight, buffer.offwidth = before


def _digest(model: mujoco.MjModel, profile: Profile) -> bytes:
    """Equal for models that are uploaded alike (MuJoCo's `mjr_makeContext` reads nothing else)."""
    import mujoco

    visual, planes = model.vis, model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    numbers = profile, model.stat.extent, visual.quality, visual.map, visual.rgba, visual.global_
    digest = hashlib.sha256(repr(numbers).encode())
    for values in (model.geom_size[planes], model.geom_matid[planes]):
        digest.update(values.tobytes())
    for name in dir(model):
        if name.startswith(_UPLOADED):
            values = getattr(model, name)
            digest.update(f"{name}{values.shape}".encode() + values.tobytes())
    return digest.digest()
