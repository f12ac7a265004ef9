"""A robot of which nothing is known but its axes: each follows its command with a lag.

It stands in for a simulator where there is none, so that limits, rates and guards of a robot can be
drilled before it is switched on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from embodied.deploy.limits import Array


class KinematicArm:
    """Axes that close the gap to their commanded positions exponentially.

    Args:
        start: (A,) positions at a reset.
        time_constant_s: after which 63 % of a gap is closed.
        rate_hz: steps per s.
        camera: whether there is one, which shows the positions as (8, A, 3) grey levels.
    """

    def __init__(
        self,
        start: Sequence[float],
        *,
        time_constant_s: float = 0.05,
        rate_hz: float = 100.0,
        camera: bool = False,
    ) -> None:
        self.start = np.asarray(start, np.float64)
        self.rate_hz, self.camera = rate_hz, camera
        self._share = 1.0 - math.exp(-1.0 / (rate_hz * time_constant_s))
        self._state = self.start.copy()

    def make_env(self) -> KinematicArm:
        """Itself: it is its own environment."""
        return self

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        self._state = self.start.copy()
        return self._observation(), {}

    def step(self, action: Array) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Moves towards positions (A,)."""
        self._state = self._state + self._share * (np.asarray(action) - self._state)
        return self._observation(), 0.0, False, False, {}

    def close(self) -> None:
        """There is nothing to free."""

    def _observation(self) -> dict[str, Any]:
        observation: dict[str, Any] = {"state": self._state.copy()}
        if self.camera:
            grey = (np.abs(self._state) * 1000 % 256).astype(np.uint8)
            observation["front"] = np.broadcast_to(grey[None, :, None], (8, len(grey), 3)).copy()
        return observation
