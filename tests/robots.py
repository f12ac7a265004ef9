"""A robot for tests: two joints in the plane, simulated without a simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.deploy.chunks import TimedChunk
from embodied.deploy.clock import Clock, VirtualClock
from embodied.deploy.drives import Direct
from embodied.deploy.faults import Faults
from embodied.deploy.kinematic import KinematicArm
from embodied.deploy.limits import Box, Limits, PlanarArm
from embodied.deploy.sim_hardware import SimHardware

MS = 1_000_000
NAMES = ("shoulder.pos", "elbow.pos")


def limits(**fields: Any) -> Limits:
    """Of two joints: 0.5 rad/s, 2 rad/s^2."""
    given: dict[str, Any] = {
        "names": NAMES,
        "units": ("rad", "rad"),
        "low": np.array([-1.0, -2.0]),
        "high": np.array([1.0, 2.0]),
        "velocity": np.array([0.5, 0.5]),
        "acceleration": np.array([2.0, 2.0]),
        "start_jump": np.array([0.3, 0.3]),
    }
    return Limits(**{**given, **fields})


def box() -> Box:
    """What the tip and the elbow of that arm, with links of 0.5 m, must not leave."""
    return Box([-0.1, -0.3, -0.01], [1.1, 0.3, 0.01], PlanarArm([0.5, 0.5]))


def arm(
    clock: Clock | None = None,
    faults: Faults | None = None,
    *,
    camera: bool = False,
    **fields: Any,
) -> SimHardware:
    """The simulated arm at 100 Hz; `fields` are those of `SimHardware`."""
    given: dict[str, Any] = {
        "name": "arm",
        "world": KinematicArm([0.1, -0.2], rate_hz=100.0, camera=camera),
        "limits": limits(box=box()),
        "drive": Direct([0, 1]),
    }
    return SimHardware(clock=clock or VirtualClock(), faults=faults, **{**given, **fields})


def chunk(
    actions: Any, *, obs_time: int = 0, dt: int = 10 * MS, request_id: int = 1, **fields: Any
) -> TimedChunk:
    """A chunk that begins when its observation was made."""
    values: NDArray[Any] = np.asarray(actions, np.float64)
    return TimedChunk(values, obs_time, fields.pop("t0", obs_time), dt, request_id, **fields)
