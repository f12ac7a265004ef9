"""Meta-World's own step at half its cost, with the same numbers to the last bit.

Two thirds of a stock step are spent on what surrounds a few additions: looking up a body by its
name, NumPy's and SciPy's checks on three or nine numbers, arrays built out of arrays. Here a task's
own methods run as they are, but they find quicker versions of the few functions they call; the
methods that all tasks share are written out. The library itself stays as it is.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]

Vector = NDArray[np.float64]
_MAX_KEPT = 1_000  # states of a task, of about 3 kB each
_HAND_DOWN = np.array([1.0, 0.0, 1.0, 0.0])  # the quaternion that the library holds the hand at
# the slopes at which the library's two favourite sigmoids are 0.1 at the margin
_LONG_TAIL = math.sqrt(1 / 0.1 - 1)
_GAUSSIAN = float(np.sqrt(-2 * np.log(0.1)))


def norm(x: Any, *args: Any, **options: Any) -> Any:
    """`np.linalg.norm`, quick for one vector or number."""
    if isinstance(x, np.ndarray) and x.dtype.char == "d" and x.ndim == 1 and not (args or options):
        return np.float64(math.sqrt(x.dot(x)))
    if isinstance(x, float):
        return np.float64(math.sqrt(x * x))
    return np.linalg.norm(x, *args, **options)


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


class Prepared:
    """Mixed into a task's class: takes a finished model instead of compiling the XML."""

    prepared_model: mujoco.MjModel
    model: mujoco.MjModel
    data: mujoco.MjData

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        import mujoco

        return self.prepared_model, mujoco.MjData(self.prepared_model)


class Lean(Prepared):
    """Also computes the library's steps faster, with the same results to the last bit.

    Positions by name are views into the simulation, made at their first use. A reset moves the hand
    to its place by 250 physics steps; all simulators of a task share the states that they led to.
    """

    frame_skip: int
    action_scale: float
    mocap_low: Vector
    mocap_high: Vector
    curr_path_length: int
    max_path_length: int
    sawyer_observation_space: Any
    evaluate_state: Callable[..., tuple[float, dict[str, Any]]]
    _get_pos_objects: Callable[[], Vector]
    _get_quat_objects: Callable[[], Vector]
    _get_pos_goal: Callable[[], Vector]
    _partially_observable: bool
    _prev_obs: Vector
    hand_init_pos: Vector
    _before_last_move: dict[tuple[Any, ...], Vector]
    _first_run = True

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model, data = super()._initialize_simulation()
        self._bodies: dict[str, Vector] = {}
        self._sites: dict[str, Vector] = {}
        self._mocap = data.mocap_pos, data.mocap_quat
        self._pads = tuple(data.geom(f"{side}pad_geom").id for side in ("left", "right"))
        return model, data

    def _reset_hand(self, steps: int = 50) -> None:
        # The library runs each reset twice and keeps of the first run only what it wrote to the
        # model, which does not depend on where the hand came to rest.
        if self._first_run:
            self._first_run = False
            super()._reset_hand(0)  # type: ignore[misc]
            return
        causes = self.hand_init_pos, self.model.body_pos, self._state()
        before = steps, *(cause.tobytes() for cause in causes)
        if before in self._before_last_move:
            self._set_state(self._before_last_move[before])
        else:
            super()._reset_hand(steps - 1)  # type: ignore[misc]
            if len(self._before_last_move) == _MAX_KEPT:
                self._before_last_move.clear()
            self._before_last_move[before] = self._state()
        # The last move makes anew all that MuJoCo derives from a state.
        super()._reset_hand(1)  # type: ignore[misc]

    def _state(self) -> Vector:
        """All that MuJoCo's next steps depend on, besides the model."""
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.zeros(mujoco.mj_stateSize(self.model, kind))
        mujoco.mj_getState(self.model, self.data, state, kind)
        return state

    def _set_state(self, state: Vector) -> None:
        import mujoco

        mujoco.mj_setState(self.model, self.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)

    def step(self, action: NDArray[np.float32]) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """As the library's.

        It does not move the drawn targets first: the pass that follows puts them back.
        """
        import mujoco

        if self.curr_path_length >= self.max_path_length:
            raise ValueError("the episode is over: reset first")
        self.set_xyz_action(action[:3])
        self._step_mujoco_simulation((action[3], -action[3]), self.frame_skip)
        self.curr_path_length += 1
        mujoco.mj_forward(self.model, self.data)
        low, high = self._bounds
        observation = np.minimum(np.maximum(self._get_obs(), low), high)
        reward, info = self.evaluate_state(observation, action)
        return observation, reward, False, self.curr_path_length == self.max_path_length, info

    def set_xyz_action(self, action: NDArray[np.floating[Any]]) -> None:
        # The displacement keeps the action's type: rounded otherwise, contacts soon differ.
        position, quaternion = self._mocap
        moves = (np.minimum(np.maximum(action, -1), 1) * self.action_scale).tolist()
        position[0] = [
            min(max(x + move, low), high)
            for x, move, low, high in zip(position[0].tolist(), moves, *self._reach, strict=True)
        ]
        quaternion[0] = _HAND_DOWN

    def _step_mujoco_simulation(self, ctrl: Sequence[float], n_frames: int) -> None:
        import mujoco

        # without mj_rnePostConstraint: nothing in Meta-World reads what it computes
        self.data.ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, nstep=n_frames)

    @functools.cached_property
    def _reach(self) -> tuple[list[float], list[float]]:
        return self.mocap_low.tolist(), self.mocap_high.tolist()

    @functools.cached_property
    def _bounds(self) -> tuple[Vector, Vector]:
        space = self.sawyer_observation_space
        return space.low, space.high

    def get_body_com(self, body_name: str) -> Vector:
        if body_name not in self._bodies:
            self._bodies[body_name] = self.data.body(body_name).xpos
        return self._bodies[body_name]

    def _site(self, name: str) -> Vector:
        if name not in self._sites:
            self._sites[name] = self.data.site(name).xpos
        return self._sites[name]

    def _get_site_pos(self, site_name: str) -> Vector:
        return self._site(site_name).copy()

    @property
    def tcp_center(self) -> Vector:
        return (self._site("rightEndEffector") + self._site("leftEndEffector")) / 2.0

    def touching_object(self, object_geom_id: int) -> bool:
        contact = self.data.contact
        pairs = contact.geom.tolist()
        for pad in self._pads:
            touching = [i for i, pair in enumerate(pairs) if pad in pair and object_geom_id in pair]
            if not touching or not sum(self.data.efc_force[contact.efc_address[touching]]) > 0:
                return False
        return True

    def _get_curr_obs_combined_no_goal(self) -> Vector:
        observation = np.zeros(18)
        observation[:3] = self.get_body_com("hand")
        opening = norm(self.get_body_com("rightclaw") - self.get_body_com("leftclaw"))
        observation[3] = min(max(opening / 0.1, 0.0), 1.0)
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        for index in range(len(positions) // 3):
            start = 4 + 7 * index
            observation[start : start + 3] = positions[3 * index : 3 * index + 3]
            observation[start + 3 : start + 7] = quaternions[4 * index : 4 * index + 4]
        return observation

    def _get_obs(self) -> Vector:
        observation = np.zeros(39)
        observation[18:36] = self._prev_obs
        self._prev_obs = observation[:18] = self._get_curr_obs_combined_no_goal()
        if not self._partially_observable:
            observation[36:] = self._get_pos_goal()
        return observation


@functools.cache
def lean_class(library_class: Any) -> Any:
    """A task's class whose methods find the quicker functions of this file."""
    from metaworld.utils import reward_utils

    quicker = {
        "np": _variant(np, clip=clip, hstack=hstack, linalg=_variant(np.linalg, norm=norm)),
        "reward_utils": _variant(reward_utils, tolerance=tolerance),
        "tolerance": tolerance,
        "Rotation": Rotation,
    }
    methods: dict[str, Any] = {}
    quick = type(library_class.__name__, (library_class,), {})
    for cls in library_class.__mro__:
        if cls.__module__.startswith("metaworld."):
            # a class calls its static methods by its own name
            names = {**vars(sys.modules[cls.__module__]), **quicker, library_class.__name__: quick}
            for name, value in vars(cls).items():
                if not name.startswith("__"):
                    methods.setdefault(name, _rebound(value, names))
    for name, value in methods.items():
        setattr(quick, name, value)
    return type("Lean", (Lean, quick), {"_before_last_move": {}})


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
    if not isinstance(member, FunctionType):
        return member
    if "func" in member.__code__.co_freevars:  # decorated to check that the task is set: it is
        cells = dict(zip(member.__code__.co_freevars, member.__closure__ or (), strict=True))
        return _rebound(cells["func"].cell_contents, names)
    quick = FunctionType(
        member.__code__, names, member.__name__, member.__defaults__, member.__closure__
    )
    quick.__kwdefaults__ = member.__kwdefaults__
    return quick
