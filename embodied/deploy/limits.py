"""How far, how fast and how hard a robot may be commanded, and where in space it must stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TOLERANCE = 1e-9
"""Relative; what rounding may add to a limit."""


class Forward(Protocol):
    """Where points of the robot are at commanded positions."""

    def __call__(self, positions: Array) -> Array:
        """(n, A) to (n, P, 3) in m."""
        ...


class Cartesian:
    """For robots that are commanded the position of their hand.

    Args:
        axes: which three of the commanded axes are x, y and z, in m.
    """

    def __init__(self, axes: Sequence[int] = (0, 1, 2)) -> None:
        self.axes = list(axes)

    def __call__(self, positions: Array) -> Array:
        return positions[:, None, self.axes]


class PlanarArm:
    """The joints and the tip of an arm in the plane z = 0, its base at the origin.

    Args:
        lengths: of the links in m; the first axes are the angles between them in rad.
    """

    def __init__(self, lengths: Sequence[float]) -> None:
        self.lengths = np.asarray(lengths, np.float64)

    def __call__(self, positions: Array) -> Array:
        angles = positions[:, : len(self.lengths)].cumsum(axis=1)
        along = np.zeros((*angles.shape, 3))
        np.cos(angles, out=along[..., 0])
        np.sin(angles, out=along[..., 1])
        points: Array = (self.lengths[:, None] * along).cumsum(axis=1)
        return points


class Box:
    """The part of space, in m, that points of the robot must not leave.

    Args:
        low, high: (3,) corners.
        forward: where those points are.
    """

    def __init__(self, low: Sequence[float], high: Sequence[float], forward: Forward) -> None:
        self.low, self.high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        self.forward = forward
        if self.low.shape != (3,) or self.high.shape != (3,) or not (self.low < self.high).all():
            raise ValueError(f"E_ROBOT_CONFIG: box needs low < high, (3,) each, got {low}, {high}")
        self._lowest, self._highest = self.low - 1e-9, self.high + 1e-9

    def contains(self, positions: Array) -> bool:
        """Whether all commanded positions (n, A) keep all points inside."""
        points = self.forward(positions)
        return bool(((points >= self._lowest) & (points <= self._highest)).all())


@dataclass(frozen=True, eq=False)
class Limits:
    """What each commanded axis may do; (A,) arrays in the axis's unit, per s, and per s^2.

    The defaults of a robot should be slow, such as 0.25 m/s and 0.5 rad/s, and raised on purpose.

    Attributes:
        names: of the axes, as in actions and observations.
        units: such as "rad"; they appear in messages.
        low, high: of what is commanded.
        velocity, acceleration: of what is commanded, above 0.
        start_jump: how far from where the robot is a motion may begin.
        rest: what stands still, where an axis is commanded a rate (a velocity, a torque); NaN for
            axes that are commanded positions, which stand still at any.
        box: where the robot must stay; it needs positions.
    """

    names: Sequence[str]
    units: Sequence[str]
    low: Array
    high: Array
    velocity: Array
    acceleration: Array
    start_jump: Array
    rest: Array | None = None
    box: Box | None = None

    def __post_init__(self) -> None:
        rest = [None] * len(self.names) if self.rest is None else self.rest
        # A configuration file has null where an axis is commanded positions.
        object.__setattr__(self, "rest", [np.nan if x is None else x for x in rest])
        for field in ("low", "high", "velocity", "acceleration", "start_jump", "rest"):
            value = np.array(getattr(self, field), np.float64)
            if value.shape != (len(self.names),):
                _fail(f"{field} has shape {value.shape}, but there are {len(self.names)} names")
            value.flags.writeable = False
            object.__setattr__(self, field, value)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "units", tuple(self.units))
        self._check()

    def _check(self) -> None:
        if len(self.units) != len(self.names) or len(set(self.names)) != len(self.names):
            _fail(f"names must differ, with a unit each; got {self.names} in {self.units}")
        for field in ("velocity", "acceleration", "start_jump"):
            if not (np.isfinite(getattr(self, field)) & (getattr(self, field) > 0)).all():
                _fail(f"{field} must be finite and above 0, got {getattr(self, field)}")
        if not (np.isfinite(self.low) & np.isfinite(self.high) & (self.low < self.high)).all():
            _fail(f"low < high must be finite, got low {self.low} and high {self.high}")
        if self.has_rates.any() and self.box is not None:
            _fail("a box needs axes that are commanded positions: leave out rest, or the box")
        resting = self.standstill[self.has_rates]
        if not (
            (resting >= self.low[self.has_rates]) & (resting <= self.high[self.has_rates])
        ).all():
            _fail(f"rest must lie within low and high, got {self.standstill}")

    @property
    def standstill(self) -> Array:
        """`rest` as (A,)."""
        assert self.rest is not None
        return self.rest

    @cached_property
    def has_rates(self) -> NDArray[np.bool_]:
        """(A,) which axes are commanded a rate."""
        return np.isfinite(self.standstill)

    @cached_property
    def are_positions(self) -> bool:
        """Whether no axis is commanded a rate."""
        return not self.has_rates.any()


def _fail(problem: str) -> None:
    raise ValueError(f"E_ROBOT_CONFIG: limits: {problem}")
