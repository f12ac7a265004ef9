"""What the numbers of an action mean, and how one meaning is turned into another.

An end-effector action is [x, y, z, rotation, gripper], a joint action [joints, gripper]. Absolute
actions say where to be, delta actions how far to go from where the robot is: positions and joints
by adding, rotations by turning about the axes of the base frame (R_target = R_delta R_now). The
gripper's numbers are commands in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Control = Literal["joint", "end_effector"]
Mode = Literal["absolute", "delta"]
RotationForm = Literal["none", "euler_xyz", "rotvec", "quaternion", "rotation_6d"]
Array = NDArray[Any]
ROTATION_DIM: dict[str, int] = {
    "none": 0,
    "euler_xyz": 3,
    "rotvec": 3,
    "quaternion": 4,
    "rotation_6d": 6,
}
_POSITION_DIM = 3


class ActionSpaceError(ValueError):
    """Actions of one space cannot be turned into those of another; names both."""


@dataclass(frozen=True)
class ActionSpace:
    """The meaning of an action.

    Attributes:
        control: "joint" positions in rad, or the "end_effector" in m.
        mode: "absolute" or "delta".
        rotation: of an end-effector: "none", "euler_xyz" (extrinsic, rad), "rotvec" (rad),
            "quaternion" (x, y, z, w), or "rotation_6d" (the rotation matrix's first two columns,
            Zhou et al. 2019; arXiv:1812.07035). "none" for joints.
        gripper_dim: how many numbers at the end are the gripper's.
        rate_hz: in Hz.
    """

    control: Control
    mode: Mode
    rotation: RotationForm = "none"
    gripper_dim: int = 1
    rate_hz: float = 10.0

    def __post_init__(self) -> None:
        forms = {"control": Control, "mode": Mode, "rotation": RotationForm}
        for name, choices in forms.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(
                    f"{name} must be one of {get_args(choices)}, got {getattr(self, name)!r}"
                )
        if self.control == "joint" and self.rotation != "none":
            raise ValueError(f"joint actions have rotation='none', got {self.rotation!r}")
        if self.gripper_dim < 0 or not self.rate_hz > 0:
            raise ValueError(f"gripper_dim must be >= 0 and rate_hz > 0, got {self}")

    def __str__(self) -> str:
        turns = f" {self.rotation}" if self.rotation != "none" else ""
        gripper = f" + {self.gripper_dim} gripper"
        return f"{self.mode} {self.control}{turns}{gripper} at {self.rate_hz:g} Hz"

    def pose_dim(self, action_dim: int) -> int:
        """How many numbers of an action are not the gripper's; checks that they can be."""
        size = action_dim - self.gripper_dim
        expected = _POSITION_DIM + ROTATION_DIM[self.rotation]
        if size < 1 or (self.control == "end_effector" and size != expected):
            raise ActionSpaceError(
                f"actions of {action_dim} numbers cannot be [{self}], which have "
                + ("more" if self.control == "joint" else str(expected + self.gripper_dim))
            )
        return size


def stride(source: ActionSpace, target: ActionSpace) -> int:
    """How many steps of `source` are one of `target`. Raises ActionSpaceError unless whole."""
    factor = source.rate_hz / target.rate_hz
    if factor < 0.999 or abs(factor - round(factor)) > 1e-3 * factor:
        raise _refused(source, target, "rates must differ by a whole factor, the source the faster")
    return round(factor)


def check_convertible(source: ActionSpace, target: ActionSpace, has_pose: bool) -> None:
    """Raises ActionSpaceError, naming both, where `convert` would."""
    stride(source, target)
    if source.control != target.control:
        raise _refused(source, target, "that needs the robot's kinematics")
    if source.gripper_dim != target.gripper_dim:
        raise _refused(source, target, "the gripper has another number of values")
    if (source.rotation == "none") != (target.rotation == "none"):
        raise _refused(source, target, "one has no rotation")
    if source.mode != target.mode and not has_pose:
        raise _refused(source, target, "that needs `pose`, where the state holds what is moved")


def _refused(source: ActionSpace, target: ActionSpace, why: str) -> ActionSpaceError:
    return ActionSpaceError(f"cannot turn actions [{source}] into [{target}]: {why}")


def convert(
    action: Array, source: ActionSpace, target: ActionSpace, pose: Array | None = None
) -> NDArray[np.float32]:
    """Actions (L, A) of one episode in another space, (ceil(L / stride), A') float32.

    Args:
        pose: (L, P) where the robot was before each action, laid out as an absolute action of
            `source` without its gripper; needed between absolute and delta.
    """
    check_convertible(source, target, pose is not None)
    size = source.pose_dim(action.shape[1])
    moves, gripper = action[:, :size].astype(np.float64), action[:, size:]
    starts = np.arange(0, len(action), stride(source, target))
    ends = np.append(starts[1:], len(action)) - 1
    poses = None if pose is None else pose.astype(np.float64)
    if source.control == "joint":
        found = _joints(moves, source, target, poses, starts, ends)
    else:
        turns = _turns(moves[:, _POSITION_DIM:], source.rotation)
        held = None if poses is None else _turns(poses[:, _POSITION_DIM:], source.rotation)
        points = None if poses is None else poses[:, :_POSITION_DIM]
        position = _joints(moves[:, :_POSITION_DIM], source, target, points, starts, ends)
        rotation = _rotate(turns, source, target, held, starts, ends)
        found = np.concatenate([position, _numbers(rotation, target.rotation, len(starts))], axis=1)
    return np.concatenate([found, gripper[ends]], axis=1).astype(np.float32)


def _joints(
    moves: Array,
    source: ActionSpace,
    target: ActionSpace,
    pose: Array | None,
    starts: Array,
    ends: Array,
) -> Array:
    """What is added up: joints and positions."""
    if source.mode == "delta":
        total = np.add.reduceat(moves, starts, axis=0)
        return total if target.mode == "delta" or pose is None else pose[starts] + total
    aims = moves[ends]
    return aims if target.mode == "absolute" or pose is None else aims - pose[starts]


def _rotate(
    turns: Any, source: ActionSpace, target: ActionSpace, held: Any, starts: Array, ends: Array
) -> Any:
    if turns is None:
        return None
    if source.mode == "delta":
        total = turns[starts]
        for k in range(1, stride(source, target)):
            inside = starts + k <= ends
            step = turns[np.minimum(starts + k, ends)]
            total = _where(inside, step * total, total)
        return total if target.mode == "delta" else total * held[starts]
    aims = turns[ends]
    return aims if target.mode == "absolute" else aims * held[starts].inv()


def _where(chosen: Array, a: Any, b: Any) -> Any:
    quaternions = np.where(chosen[:, None], a.as_quat(), b.as_quat())
    return _rotation().from_quat(quaternions)


def _turns(numbers: Array, form: str) -> Any:
    """(L, n) numbers as SciPy's rotations; None where there are none."""
    Rotation = _rotation()
    if form == "none":
        return None
    if form == "euler_xyz":
        return Rotation.from_euler("xyz", numbers)
    if form == "rotvec":
        return Rotation.from_rotvec(numbers)
    if form == "quaternion":
        return Rotation.from_quat(numbers)
    first = numbers[:, :3] / np.linalg.norm(numbers[:, :3], axis=1, keepdims=True)
    second = numbers[:, 3:] - (first * numbers[:, 3:]).sum(1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    return Rotation.from_matrix(np.stack([first, second, np.cross(first, second)], axis=2))


def _numbers(rotation: Any, form: str, length: int) -> Array:
    if form == "none":
        return np.zeros((length, 0))
    if form == "euler_xyz":
        return np.asarray(rotation.as_euler("xyz"))
    if form == "rotvec":
        return np.asarray(rotation.as_rotvec())
    if form == "quaternion":
        return np.asarray(rotation.as_quat(canonical=True))
    matrix = rotation.as_matrix()
    return np.concatenate([matrix[:, :, 0], matrix[:, :, 1]], axis=1)


def _rotation() -> Any:
    from scipy.spatial.transform import Rotation  # late: heavy

    return Rotation
