"""The next command within the limits: as near to what is asked as can still be stopped in time.

Commands are positions q at ticks of length dt, v = (q' - q) / dt, and v may change by a dt from one
tick to the next. All axes, and rows of a batch, are limited each by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embodied.deploy.limits import TOLERANCE, Array, Limits

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Motion:
    """What was commanded last, (..., A).

    Attributes:
        position: in the axes' units.
        velocity: of the command, per s.
        target: what was asked for then.
    """

    position: Array
    velocity: Array
    target: Array

    @classmethod
    def still(cls, position: Array) -> Motion:
        """Standing at a position."""
        at = np.array(position, np.float64)
        return cls(at, np.zeros_like(at), at)


@dataclass(frozen=True)
class Clips:
    """Which axes (..., A) were not commanded what was asked, and for which limit."""

    position: Mask
    velocity: Mask
    acceleration: Mask


def stop_speed(room: Array, acceleration: Array, dt: float) -> Array:
    """The largest speed of the next tick after which braking by a dt a tick ends within `room`.

    In units of a dt and a dt^2, a speed n in [m, m + 1] goes n + (n - 1) + ... + (n - m)
    = (m + 1) n - m (m + 1) / 2 before it stands, which is solved for n; m is the largest number
    with m (m + 1) / 2 <= room.
    """
    scaled = np.maximum(room, 0.0) / (acceleration * dt**2)
    whole = np.floor((np.sqrt(1.0 + 8.0 * scaled) - 1.0) / 2.0)
    speed: Array = (scaled + whole * (whole + 1.0) / 2.0) / (whole + 1.0)
    return acceleration * dt * speed


def follow(motion: Motion, target: Array, limits: Limits, dt: float) -> tuple[Motion, Clips]:
    """One tick towards a finite target (..., A).

    What already keeps the limits is commanded as it is. Else the command lags behind, and closes
    up without overshooting: the gap that is left is braked into, on top of the target's own speed.
    """
    inside = _clip(target, limits.low, limits.high)
    most, change = limits.velocity, limits.acceleration * dt
    lead = _clip((inside - motion.target) / dt, -most, most)
    gap = motion.target - motion.position
    wanted = lead + np.sign(gap) * stop_speed(np.abs(gap), limits.acceleration, dt)
    moved = _move(motion, wanted, limits, dt, inside)
    needed = (inside - motion.position) / dt
    short = _clip(needed, -most, most)
    return moved, Clips(
        position=inside != target,
        velocity=np.abs(needed) > most * (1 + TOLERANCE),
        acceleration=np.abs(short - motion.velocity) > change * (1 + TOLERANCE),
    )


def brake(motion: Motion, limits: Limits, dt: float) -> Motion:
    """One tick towards standing still: positions stop where they can, rates go to `rest`."""
    change = limits.acceleration * dt
    slower = motion.velocity - _clip(motion.velocity, -change, change)
    stopping = _move(motion, slower, limits, dt, None)
    if limits.are_positions:
        return stopping
    rest = np.where(limits.has_rates, limits.standstill, motion.target)
    resting = follow(motion, rest, limits, dt)[0]
    chosen = [
        np.where(limits.has_rates, getattr(resting, field), getattr(stopping, field))
        for field in ("position", "velocity", "target")
    ]
    return Motion(*chosen)


def braking_path(motion: Motion, limits: Limits, dt: float) -> Array:
    """(n, A) the present position and those that `brake` will command until all stands; for (A,)
    motions of axes that are commanded positions."""
    change, speed = limits.acceleration * dt, np.abs(motion.velocity)
    ticks = np.arange(1 + math.ceil((speed / change).max()))[:, None]
    speeds = np.maximum(speed - ticks * change, 0.0)
    speeds[0] = 0.0
    path: Array = motion.position + (np.sign(motion.velocity) * dt * speeds).cumsum(axis=0)
    return path


def _move(motion: Motion, wanted: Array, limits: Limits, dt: float, target: Array | None) -> Motion:
    """One tick at the velocity nearest to `wanted` that keeps every limit."""
    position, change = motion.position, limits.acceleration * dt
    rooms = np.array([limits.high - position, position - limits.low])
    up, down = stop_speed(rooms, limits.acceleration, dt)
    highest = np.minimum(np.minimum(motion.velocity + change, limits.velocity), up)
    lowest = np.maximum(np.maximum(motion.velocity - change, -limits.velocity), -down)
    velocity = _clip(wanted, lowest, highest)
    # Only rounding is clipped: a robot that stands outside its limits comes back at their speed.
    moved = _clip(
        position + velocity * dt,
        np.minimum(limits.low, position),
        np.maximum(limits.high, position),
    )
    return Motion(moved, velocity, moved if target is None else target)


def _clip(x: Array, low: Array, high: Array) -> Array:
    """As `np.clip`, which takes twice as long for so few numbers."""
    return np.minimum(np.maximum(x, low), high)
