"""Perturbations of what is seen: other cameras, lights and colours, and things of no matter.

They change the scene that is drawn for the policy and nothing of the simulation, so that rewards,
success, states and films stay what they were. They need images of a MuJoCo scene.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embodied_envs.perturbed import Effect, Random, Strength, spaces_of
from embodied_envs.wrapped import Env

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]

    from embodied_envs.canvas import Look

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class ScenePerturbation(Strength):
    """A perturbation that changes the picture of a scene, the same way for a whole episode."""

    def check(self, env: Env) -> None:
        if not hasattr(env.unwrapped, "looks") or len(spaces_of(env)) == 1:
            raise ValueError(
                f"{type(self).__name__} needs images of a MuJoCo scene, and this suite shows none: "
                "leave it out, or evaluate on such a suite with cameras"
            )

    def begin(self, env: Env, random: Random) -> Effect:
        # The environment keeps it until the next episode puts its own in its place.
        env.unwrapped.looks[self] = self.look(random)  # type: ignore[attr-defined]
        return Effect()

    @abstractmethod
    def look(self, random: Random) -> Look:
        """What changes the scenes of an episode."""


@dataclass(frozen=True)
class CameraShift(ScenePerturbation):
    """Every camera looks from elsewhere at the same point.

    Attributes:
        degrees: d; the cameras of an episode are turned about the vertical and upwards by angles
            drawn uniformly from [-d, d], around the point ahead that is as far away as the middle
            of the scene.
    """

    name = "camera-shift"
    most = 90.0
    degrees: float

    def look(self, random: Random) -> Look:
        pan, tilt = np.deg2rad(random.uniform(-self.degrees, self.degrees, 2))

        def look(model: mujoco.MjModel, _: mujoco.MjData, scene: mujoco.MjvScene) -> None:
            for camera in scene.camera:  # one for each eye
                position, forward, up = _pose(camera)
                middle = position + forward * np.linalg.norm(model.stat.center - position)
                right = np.cross(forward, up)
                turn = _rotation(np.array([0.0, 0.0, 1.0]), pan) @ _rotation(right, tilt)
                camera.pos = middle + turn @ (position - middle)
                camera.forward, camera.up = turn @ forward, turn @ up

        return look


@dataclass(frozen=True)
class LightShift(ScenePerturbation):
    """Every light is brighter or darker and comes from another direction, with its shadows.

    Attributes:
        spread: s; the strength of each light is a factor drawn uniformly from [1 - s, 1 + s], and
            its direction is turned by up to 60 s degrees.
    """

    name = "light-shift"
    most = 1.0
    spread: float

    def look(self, random: Random) -> Look:
        seed = int(random.integers(2**32))

        def look(_: mujoco.MjModel, __: mujoco.MjData, scene: mujoco.MjvScene) -> None:
            draw = np.random.default_rng(seed)
            for light in scene.lights[: scene.nlight]:
                gain = draw.uniform(1 - self.spread, 1 + self.spread)
                turn = _rotation(_direction(draw), draw.uniform(0, self.spread) * np.pi / 3)
                for part in ("ambient", "diffuse", "specular"):
                    setattr(light, part, np.clip(gain * getattr(light, part), 0, 1))
                if not light.headlight:  # which sits on the camera
                    light.dir, light.pos = turn @ light.dir, turn @ light.pos

        return look


@dataclass(frozen=True)
class ColourShift(ScenePerturbation):
    """Every object has another colour; what marks a target keeps its own.

    Attributes:
        spread: s; each channel of a geom's colour is scaled by a factor drawn uniformly from
            [1 - s, 1 + s].
    """

    name = "colour-shift"
    most = 1.0
    spread: float

    def look(self, random: Random) -> Look:
        seed = int(random.integers(2**32))

        def look(model: mujoco.MjModel, _: mujoco.MjData, scene: mujoco.MjvScene) -> None:
            import mujoco

            gains = np.random.default_rng(seed).uniform(
                1 - self.spread, 1 + self.spread, (model.ngeom, 3)
            )
            for shape in scene.geoms[: scene.ngeom]:
                if shape.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                    shape.rgba[:3] = np.clip(shape.rgba[:3] * gains[shape.objid], 0, 1)

        return look


@dataclass(frozen=True)
class Distractors(ScenePerturbation):
    """Coloured things lie about where the first camera sees a surface; nothing can touch them.

    Attributes:
        count: how many. Their places are drawn uniformly from the first camera's image; their sizes
            are 1 to 2.5 % of their distance from it.
    """

    name = "distractors"
    most = 50.0
    whole = True
    count: int

    def look(self, random: Random) -> Look:
        seed = int(random.integers(2**32))
        things: list[dict[str, Any]] = []

        def look(model: mujoco.MjModel, data: mujoco.MjData, scene: mujoco.MjvScene) -> None:
            if not things:  # where they lie at the first sight, they stay
                draw = np.random.default_rng(seed)
                ray = _rays(model, data, scene.camera[0])
                things.extend(_thing(draw, ray) for _ in range(self.count))
            _add(scene, [each for each in things if each])

        return look


def _thing(draw: Random, ray: Callable[[float, float], tuple[Vector, float]]) -> dict[str, Any]:
    """The arguments of a shape where a ray through a random pixel ends; none at the sky."""
    import mujoco

    kind = draw.choice([mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_BOX])
    share, colour = draw.uniform(0.01, 0.025), draw.uniform(0, 1, 3)
    angle = draw.uniform(0, np.pi)
    point, distance = ray(*draw.uniform(-1, 1, 2))
    if distance <= 0:
        return {}
    size = share * distance
    return {
        "type": int(kind),
        "size": np.full(3, size),
        "pos": point + np.array([0.0, 0.0, size]),
        "mat": _rotation(np.array([0.0, 0.0, 1.0]), angle).ravel(),
        "rgba": np.array([*colour, 1], np.float32),
    }


def _add(scene: mujoco.MjvScene, things: list[dict[str, Any]]) -> None:
    import mujoco

    for thing in things[: scene.maxgeom - scene.ngeom]:
        mujoco.mjv_initGeom(scene.geoms[scene.ngeom], **thing)
        scene.ngeom += 1


def _rays(
    model: mujoco.MjModel, data: mujoco.MjData, camera: mujoco.MjvGLCamera
) -> Callable[[float, float], tuple[Vector, float]]:
    """Maps places in the image, both in [-1, 1], to the point seen there and its distance."""
    import mujoco

    position, forward, up = _pose(camera)
    right = np.cross(forward, up)
    tall = camera.frustum_top / camera.frustum_near
    wide = (camera.frustum_width or camera.frustum_top) / camera.frustum_near

    def ray(x: float, y: float) -> tuple[Vector, float]:
        direction = forward + x * wide * right + y * tall * up
        direction /= np.linalg.norm(direction)
        hit = np.full(1, -1, np.int32)
        distance = mujoco.mj_ray(model, data, position, direction, None, 1, -1, hit)
        return position + distance * direction, distance

    return ray


def _pose(camera: mujoco.MjvGLCamera) -> tuple[Vector, Vector, Vector]:
    """Position, and the unit vectors forward and up."""
    parts = camera.pos, camera.forward, camera.up
    position, forward, up = (np.asarray(part, np.float64) for part in parts)
    return position, forward, up


def _direction(random: Random) -> Vector:
    vector = random.standard_normal(3)
    unit: Vector = vector / np.linalg.norm(vector)
    return unit


def _rotation(axis: Vector, angle: float) -> Vector:
    """The matrix (3, 3) that turns about a unit vector by an angle in rad."""
    import mujoco

    quaternion, matrix = np.zeros(4), np.zeros(9)
    mujoco.mju_axisAngle2Quat(quaternion, axis, angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)
