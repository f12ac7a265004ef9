"""Quicker versions of the few functions that Meta-World's tasks call, equal to the last bit.

Most of a stock step is spent on what surrounds a few additions: NumPy's and SciPy's checks on three
or nine numbers, and arrays built out of arrays. A task's own methods run as they are, but find the
functions of this file instead of the usual ones; the library itself stays as it is.
"""

from __future__ import annotations

import math
import sys
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
_FLOAT64 = np.dtype(np.float64)
# the slopes at which the library's two favourite sigmoids are 0.1 at the margin
_LONG_TAIL = math.sqrt(1 / 0.1 - 1)
_GAUSSIAN = float(np.sqrt(-2 * np.log(0.1)))


def norm(x: Any, ord: Any = None, **options: Any) -> Any:
    """`np.linalg.norm`, quick for one vector or number."""
    if type(x) is np.ndarray:
        if x.dtype is _FLOAT64 and x.ndim == 1 and (ord is None or ord == 2) and not options:
            return np.float64(math.sqrt(x.dot(x)))
    elif isinstance(x, float) and ord is None and not options:
        return np.float64(math.sqrt(x * x))
    return np.linalg.norm(x, ord, **options)


def clip(x: Any, *bounds: Any, **options: Any) -> Any:
    """`np.clip`, quick for one number between two bounds."""
    if isinstance(x, np.floating) and len(bounds) == 2 and not options:
        return type(x)(min(max(x, bounds[0]), bounds[1]))  # rounded as the number was
    return np.clip(x, *bounds, **options)


def hstack(parts: Any, **options: Any) -> Any:
    """`np.hstack`, quick for numbers."""
    if all(isinstance(part, float) for part in parts) and not options:
        return np.array(parts)
    return np.hstack(parts, **options)


def tolerance(
    x: Any,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
    sigmoid: Any = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """The library's `reward_utils.tolerance`, quick for one number and its usual sigmoids."""
    lower, upper = bounds
    usual = sigmoid in ("long_tail", "gaussian") and value_at_margin == 0.1
    if not usual or not isinstance(x, float) or not margin > 0 or lower > upper:
        from metaworld.utils import reward_utils

        return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)
    if lower <= x <= upper:
        return 1.0
    distance = float((lower - x if x < lower else x - upper) / margin)
    if sigmoid == "gaussian":
        return float(np.exp(-0.5 * (distance * _GAUSSIAN) ** 2))  # math.exp rounds otherwise
    return 1 / ((distance * _LONG_TAIL) ** 2 + 1)


def hamacher_product(a: Any, b: Any) -> Any:
    """The library's `reward_utils.hamacher_product`."""
    if not (0.0 <= a <= 1.0 and 0.0 <= b <= 1.0):
        raise ValueError(f"a ({a}) and b ({b}) must lie in [0, 1]")
    product = a * b
    denominator = a + b - product
    return product / denominator if denominator > 0 else 0


class Rotation:
    """What Meta-World uses of `scipy.spatial.transform.Rotation`.

    SciPy first checks that the matrix is a rotation; MuJoCo makes its matrices of unit quaternions.
    """

    def __init__(self, quaternion: Vector) -> None:
        self._quaternion = quaternion

    @classmethod
    def from_matrix(cls, matrix: Vector) -> Rotation:
        """The rotation of a (3, 3) matrix, of which no more than the rounding may be off."""
        xx, xy, xz, yx, yy, yz, zx, zy, zz = matrix.ravel().tolist()
        trace = xx + yy + zz
        largest = max(xx, yy, zz, trace)  # the best conditioned of four equivalent formulas
        if xx == largest:
            parts = (1 - trace + 2 * xx, yx + xy, zx + xz, zy - yz)
        elif yy == largest:
            parts = (yx + xy, 1 - trace + 2 * yy, zy + yz, xz - zx)
        elif zz == largest:
            parts = (zx + xz, zy + yz, 1 - trace + 2 * zz, yx - xy)
        else:
            parts = (zy - yz, xz - zx, yx - xy, 1 + trace)
        x, y, z, w = parts
        length = math.sqrt(x * x + y * y + z * z + w * w)
        return cls(np.array((x / length, y / length, z / length, w / length)))

    def as_quat(self) -> Vector:
        """(x, y, z, w)."""
        return self._quaternion


def _set_obj_xyz(simulator: Any, pos: Vector) -> None:
    """As the library's: puts the object after the arm's nine joints somewhere, at rest."""
    simulator.data.qpos[9:12] = pos
    simulator.data.qvel[9:15] = 0
    simulator.derive()


def _gripper_caging_reward(
    simulator: Any,
    action: NDArray[np.float32],
    obj_pos: Vector,
    obj_radius: float,
    pad_success_thresh: float,
    object_reach_radius: float,
    xz_thresh: float,
    desired_gripper_effort: float = 1.0,
    high_density: bool = False,
    medium_density: bool = False,
) -> Any:
    """As the library's: how well the gripper surrounds an object, and closes around it."""
    if high_density and medium_density:
        raise ValueError("high_density and medium_density cannot both be True")
    start, tcp, start_tcp = simulator.obj_init_pos, simulator.tcp_center, simulator.init_tcp
    y, start_y = float(obj_pos[1]), float(start[1])
    pads = [float(simulator.get_body_com(name)[1]) for name in ("leftpad", "rightpad")]

    def near(distance: Any, bounds: tuple[float, float], margin: Any) -> Any:
        return tolerance(distance, bounds, margin, "long_tail")

    beside = [
        near(
            abs(pad - y),
            (obj_radius, pad_success_thresh),
            abs(abs(pad - start_y) - pad_success_thresh),
        )
        for pad in pads
    ]
    margin = norm((start - start_tcp)[::2].copy()) - xz_thresh
    above = float(near(norm((tcp - obj_pos)[::2].copy()), (0, xz_thresh), margin))
    caging = hamacher_product(hamacher_product(*beside), above)
    closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
    reward = hamacher_product(caging, closed if caging > 0.97 else 0.0)
    if high_density:
        reward = (reward + caging) / 2
    if medium_density:
        margin = abs(norm(start - start_tcp) - object_reach_radius)
        reach = near(norm(obj_pos - tcp), (0, object_reach_radius), margin)
        reward = (reward + float(reach)) / 2
    return reward


def _get_pos_goal(simulator: Any) -> Vector:
    goal: Vector = simulator._target_pos
    return goal


_SHARED = {
    "_set_obj_xyz": _set_obj_xyz,
    "_get_pos_goal": _get_pos_goal,
    "_gripper_caging_reward": _gripper_caging_reward,
}


def quick_class(library_class: Any) -> Any:
    """A task's class whose methods find the quicker functions of this file."""
    from metaworld.sawyer_xyz_env import SawyerXYZEnv
    from metaworld.utils import reward_utils

    quicker = {
        "np": _variant(np, clip=clip, hstack=hstack, linalg=_variant(np.linalg, norm=norm)),
        "reward_utils": _variant(
            reward_utils, tolerance=tolerance, hamacher_product=hamacher_product
        ),
        "tolerance": tolerance,
        "Rotation": Rotation,
    }
    methods: dict[str, Any] = {}
    quick = type(library_class.__name__, (library_class,), {})
    for cls in library_class.__mro__:
        if cls.__module__.startswith("metaworld."):
            # a class calls its static methods by its own name
            names = {**vars(sys.modules[cls.__module__]), **quicker, library_class.__name__: quick}
            members = {**vars(cls), **_SHARED} if cls is SawyerXYZEnv else vars(cls)
            for name, value in members.items():
                if not name.startswith("__"):
                    methods.setdefault(name, _rebound(value, names))
    for name, value in methods.items():
        setattr(quick, name, value)
    return quick


def _variant(module: ModuleType, **changes: Any) -> ModuleType:
    """A module with some other members."""
    variant = ModuleType(module.__name__)
    vars(variant).update(vars(module), **changes)
    return variant


def _rebound(member: Any, names: dict[str, Any]) -> Any:
    """A class's member, as if it had been defined in a module with these names."""
    if isinstance(member, property):
        return property(_rebound(member.fget, names))
    if isinstance(member, staticmethod):
        return staticmethod(_rebound(member.__func__, names))
    if not isinstance(member, FunctionType) or not member.__module__.startswith("metaworld."):
        return member
    if "func" in member.__code__.co_freevars:  # decorated to check that the task is set: it is
        cells = dict(zip(member.__code__.co_freevars, member.__closure__ or (), strict=True))
        return _rebound(cells["func"].cell_contents, names)
    quick = FunctionType(
        member.__code__, names, member.__name__, member.__defaults__, member.__closure__
    )
    quick.__kwdefaults__ = member.__kwdefaults__
    return quick
