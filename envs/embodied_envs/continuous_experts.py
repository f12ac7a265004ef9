"""Experts that bring an object to a fraction of its range and let go, from the state alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied_envs.continuous_scene import MECHANISMS, View, view
from embodied_envs.scene import REACH

HOVER = 0.17  # m above the table, higher than any object
LOW = 0.035  # m, where the finger pushes
DONE = 0.015  # of the range: near enough to let go
AGAIN = 0.05  # of the range: far enough to take hold again
BESIDE = 0.010  # m that the finger keeps from a post on its way down
BEFORE = 0.046  # m from the middle of a gap to a finger in front of its handle
PRESS = 0.01  # of the range that a push aims past its next point
STRIDE = 0.15  # of the range for which a push looks ahead


class FractionExpert:
    """Goes above the grip, down, pushes until the fraction is met, and up again.

    It keeps no state: what it does follows from the observation (S,). The seed draws where along a
    handle it takes hold, and whether it closes what has a gap from within it or from in front.

    Args:
        name: which object.
        target: fraction of the range, in [0, 1].
    """

    def __init__(self, name: str, target: float, *, seed: int) -> None:
        self._name, self._target, self._mechanism = name, target, MECHANISMS[name]
        random = np.random.default_rng([seed, 1])
        across = random.uniform(-0.02, 0.02)
        self._across = across if self._mechanism.inside else 0.0
        self._in_front = bool(random.integers(2)) and self._mechanism.inside

    def __call__(self, state: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """The action (3,)."""
        finger, target = np.asarray(state[:3], np.float64), state[3:6]
        wanted = self._wanted(finger, view(state, self._name))
        return np.clip((wanted - target) / REACH, -1.0, 1.0).astype(np.float32)

    def _wanted(self, finger: NDArray[np.float64], seen: View) -> NDArray[np.float64]:
        """Where the finger's target should be, (3,)."""
        error = self._target - seen.fraction
        side = math.copysign(1.0, error)
        stand = self._stand(side)
        clear = stand if self._mechanism.inside else stand - side * BESIDE
        grip, along = self._place(seen, seen.fraction)
        offset = finger[:2] - grip
        behind = abs(float(offset @ along) - clear) < 0.022
        hooked = finger[2] < 0.05 and behind and abs(offset @ _left(along)) < 0.02
        if abs(error) < (DONE if hooked else AGAIN):
            return np.array([*finger[:2], HOVER])
        if not hooked:
            return _approach(finger, grip + clear * along)
        ahead = min(max(error, -STRIDE), STRIDE) + side * PRESS
        grip, along = self._place(seen, seen.fraction + ahead)
        touch = stand if stand else side * self._mechanism.contact
        return np.array([*(grip + touch * along), LOW])

    def _stand(self, side: float) -> float:
        """Where the finger stands to push, along the path from the grip, in m."""
        if not self._mechanism.inside:
            return -side * self._mechanism.contact
        return BEFORE if self._in_front and side < 0 else 0.0

    def _place(
        self, seen: View, fraction: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The grip at a fraction, (2,) in the world, and the unit direction of opening (2,)."""
        point, slope = self._mechanism.path.at(fraction)
        along = seen.place(slope / np.linalg.norm(slope))
        return seen.base + seen.place(point) + self._across * _left(along), along


def _left(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([-direction[1], direction[0]])


def _approach(finger: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Up, over the point (2,) and down, whichever is next."""
    distance = float(np.linalg.norm(finger[:2] - point))
    high = finger[2] > HOVER - 0.02
    if distance < (0.006 if high else 0.02):
        return np.array([*point, LOW])
    return np.array([*(point if high else finger[:2]), HOVER])
