"""The last filter before a robot: nothing that it is commanded comes past it.

A chunk is checked whole, before any of it is executed: finite, of the right shape, timed. Each tick
then passes start jump, position, velocity and acceleration with the distance to stop (`limiter`),
and the box. The same in simulation and on hardware.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import compress
from typing import Any

import numpy as np

from embodied.deploy.chunks import TimedChunk
from embodied.deploy.limiter import Clips, Motion, brake, braking_path, follow
from embodied.deploy.limits import TOLERANCE, Array, Limits

MAX_HORIZON = 4096
KINDS = ("position", "velocity", "acceleration", "box")


def check_chunk(chunk: TimedChunk, limits: Limits) -> str | None:
    """Why no part of a chunk may be executed; None where it is sound."""
    for check in CHECKS:
        if (problem := check(chunk, limits)) is not None:
            return f"E_ROBOT_ACTION: chunk {chunk.request_id!r} is refused whole: {problem}"
    return None


def shape_problem(chunk: TimedChunk, limits: Limits) -> str | None:
    """Whether the actions are (H, A) floating-point numbers."""
    actions: Any = chunk.actions
    wanted = len(limits.names)
    if not isinstance(actions, np.ndarray) or actions.dtype not in (np.float32, np.float64):
        kind = getattr(actions, "dtype", type(actions).__name__)
        return f"actions are {kind}, and must be an array of float32 or float64"
    if actions.ndim != 2 or actions.shape[1] != wanted or not 1 <= len(actions) <= MAX_HORIZON:
        return (
            f"actions have shape {actions.shape}, and must have (H, {wanted}) for "
            f"{', '.join(limits.names)}, with H in [1, {MAX_HORIZON}]"
        )
    return None


def finite_problem(chunk: TimedChunk, limits: Limits) -> str | None:
    """Whether all actions are finite."""
    bad = np.argwhere(~np.isfinite(chunk.actions))
    if not len(bad):
        return None
    step, axis = bad[0].tolist()
    value = chunk.actions[step, axis]
    return (
        f"{limits.names[axis]} is {value} at step {step} of {len(chunk.actions)}; look for values "
        "that are not finite in what the policy observes, or in its weights"
    )


def time_problem(chunk: TimedChunk, limits: Limits) -> str | None:
    """Whether times and numbers are whole and in range."""
    fields = ("obs_time", "t0", "dt", "request_id", "instruction_id")
    for field in fields:
        value = getattr(chunk, field)
        lowest = 1 if field == "dt" else 0
        if type(value) is not int or not lowest <= value < 2**62:
            return f"{field} must be a whole number in [{lowest}, 2**62), got {value!r}"
    return None


CHECKS = [shape_problem, finite_problem, time_problem]
"""In the order in which they are asked."""


class SafetySupervisor:
    """Turns what is asked at each tick into what may be commanded.

    Args:
        dt: s between two ticks.
        max_clipped: of the last `window` ticks, how many may be clipped before `clips_often`.

    Attributes:
        motion: what was commanded last.
        counts: kind of limit, or other reason -> ticks in which it changed what was asked.
    """

    def __init__(
        self, limits: Limits, dt: float, *, max_clipped: int = 25, window: int = 50
    ) -> None:
        self.limits, self.dt = limits, dt
        self.max_clipped = max_clipped
        self.counts: Counter[str] = Counter()
        self.flags: tuple[str, ...] = ()
        self._recent: deque[bool] = deque(maxlen=window)
        self.motion = Motion.still(np.zeros(len(limits.names)))

    def start(self, pose: Array) -> None:
        """The robot stands at a sensed pose (A,), and was not commanded anything yet."""
        self.motion = Motion.still(pose)
        self._recent.clear()

    def start_problem(self, target: Array, pose: Array) -> str | None:
        """Why a motion must not begin with a target so far from the pose; both (A,)."""
        if self.limits.box is not None and not self.limits.box.contains(pose[None]):
            return "E_ROBOT_START: the robot is outside its box; move it inside by hand first"
        far = np.abs(np.clip(target, self.limits.low, self.limits.high) - pose)
        over = np.flatnonzero(~(far <= self.limits.start_jump))
        if not len(over):
            return None
        limits, axis = self.limits, int(over[0])
        return (
            f"E_ROBOT_START: the first command of {limits.names[axis]} is {far[axis]:.3g} "
            f"{limits.units[axis]} from where it is ({pose[axis]:.3g}), and start_jump is "
            f"{limits.start_jump[axis]:.3g}; let it approach slowly first (`Approach`)"
        )

    def step(self, target: Array | None) -> Array:
        """(A,) to command now; without a target, or one that is not finite, it brakes."""
        self.flags = ()
        if target is not None and not np.isfinite(target).all():
            self.counts["not finite"] += 1
            target = None
        if target is None:
            self.motion = brake(self.motion, self.limits, self.dt)
            return self.motion.position
        moved, clips = follow(self.motion, target, self.limits, self.dt)
        kept = self._keeps_the_box(moved)
        self._note(clips, box=not kept)
        self.motion = moved if kept else brake(self.motion, self.limits, self.dt)
        return self.motion.position

    def sent(self, position: Array) -> None:
        """The driver reports what (A,) it sent in place of the last command."""
        limits = self.limits
        moved = (position - self.motion.position) / self.dt + self.motion.velocity
        velocity = np.clip(moved, -limits.velocity, limits.velocity)
        self.motion = Motion(position, velocity, self.motion.target)

    @property
    def stands(self) -> bool:
        """Whether the last command was that of a robot at rest."""
        still = np.abs(self.motion.velocity) <= TOLERANCE * self.limits.velocity
        off = np.abs(self.motion.position - self.limits.standstill) * self.limits.has_rates
        return bool((still & ~(off > TOLERANCE)).all())

    @property
    def longest_stop_s(self) -> float:
        """How long it may take until it stands, if the driver sends what it is told."""
        limits = self.limits
        braking = limits.velocity / limits.acceleration
        returning = (limits.high - limits.low) / limits.velocity * limits.has_rates
        return float((2 * braking + returning).max()) + 5 * self.dt

    @property
    def clips_often(self) -> bool:
        """Whether too many of the last ticks were clipped."""
        return sum(self._recent) > self.max_clipped

    def _keeps_the_box(self, moved: Motion) -> bool:
        """Whether the robot could still stop inside, if it moved so.

        Where it could not, it brakes now, along the rest of the path that was checked before.
        """
        box = self.limits.box
        return box is None or box.contains(braking_path(moved, self.limits, self.dt))

    def _note(self, clips: Clips, *, box: bool) -> None:
        axes = (clips.position, clips.velocity, clips.acceleration)
        found = (*(bool(each.any()) for each in axes), box)
        self.flags = tuple(compress(KINDS, found))
        self.counts.update(self.flags)
        self._recent.append(bool(self.flags))
