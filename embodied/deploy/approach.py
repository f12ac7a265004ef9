"""The slow way to where a motion may begin."""

from __future__ import annotations

import numpy as np

from embodied.deploy.chunks import TimedChunk
from embodied.deploy.clock import SECOND
from embodied.deploy.limits import Array, Limits


class Approach:
    """Plans, as a policy would, a straight way to a pose, far below the limits.

    Args:
        start: (A,) where the robot is.
        goal: (A,) to arrive at.
        time: ns when it sets out.
        share: of each axis's velocity limit, in (0, 1]; the slowest axis decides.
    """

    def __init__(
        self, start: Array, goal: Array, limits: Limits, *, time: int, share: float = 0.2
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {share}")
        self.start = np.asarray(start, np.float64)
        self.goal = np.clip(np.asarray(goal, np.float64), limits.low, limits.high)
        self.time = time
        way = np.abs(self.goal - self.start)
        self.duration_s = max(float((way / (share * limits.velocity)).max()), 1e-3)

    def plan(self, time: int, *, dt: int, horizon: int, request_id: int) -> TimedChunk:
        """From an observation at a time (ns): `horizon` actions, `dt` (ns) apart."""
        seconds = (time - self.time + dt * np.arange(horizon)) / SECOND
        shares = np.clip(seconds / self.duration_s, 0.0, 1.0)
        actions = self.start + shares[:, None] * (self.goal - self.start)
        return TimedChunk(actions, time, time, dt, request_id)

    def has_arrived(self, position: Array) -> bool:
        """Whether a commanded position (A,) is the goal."""
        return bool(np.allclose(position, self.goal, rtol=0.0, atol=1e-6))
