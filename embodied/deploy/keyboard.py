"""Steering a robot with keys: a step for each press, and nothing where nobody presses.

A key acts for a moment, and its plans expire: who lets go, or falls asleep, stops the robot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from embodied.deploy.clock import Clock, to_ns
from embodied.deploy.limits import Array, Limits

KEYS = tuple(zip("dwertyuio", "asqfghjkl", strict=True))
"""Of each axis, the key that raises it and the one that lowers it."""

STOP, LINE = " ", ":"


class Keyboard:
    """A person's hands at the keys; plans like a policy.

    Args:
        dt_s: from one planned action to the next.
        speed: share of each axis's velocity limit, or of its range where it is commanded a rate.
        hold_s: how long a press acts; terminals repeat a key that is held down.
        plan_s: how far it plans.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        *,
        dt_s: float,
        speed: float = 0.5,
        hold_s: float = 0.15,
        plan_s: float = 0.3,
    ) -> None:
        if not 0 < speed <= 1:
            raise ValueError(f"speed must lie in (0, 1], got {speed}")
        if len(limits.names) > len(KEYS):
            raise ValueError(f"there are keys for {len(KEYS)} axes, got {len(limits.names)}")
        self.limits, self.clock, self.dt_s, self.speed = limits, clock, dt_s, speed
        self._hold, self._steps = to_ns(hold_s), max(2, round(plan_s / dt_s))
        self._pressed: dict[str, int] = {}

    def press(self, key: str) -> bool:
        """A key was pressed; whether it means anything."""
        known = any(key in pair for pair in KEYS[: len(self.limits.names)])
        if known:
            self._pressed[key] = self.clock.now()
        return known

    def lines(self) -> list[str]:
        """What the keys do."""
        axes = [
            f"{up} and {down}: {name} up and down"
            for (up, down), name in zip(KEYS, self.limits.names, strict=False)
        ]
        return [*axes, "space: stop", f"{LINE}WORDS and Enter: say something, such as {LINE}quit"]

    def infer(self, observation: Mapping[str, Any]) -> NDArray[np.float64]:
        """(H, A) from where the robot was commanded last, in the directions of the keys."""
        limits, way = self.limits, self._directions()
        rates = limits.has_rates
        rest = np.where(rates, limits.standstill, observation["previous_action"])
        reach = np.where(way > 0, limits.high - rest, rest - limits.low)
        steady = rest + self.speed * way * np.where(rates, reach, 0.0)
        ramp = self.dt_s * np.arange(self._steps)[:, None] * way * limits.velocity * self.speed
        plan = steady + np.where(rates, 0.0, ramp)
        return np.clip(plan, limits.low, limits.high)

    def _directions(self) -> Array:
        """(A,) -1, 0 or 1."""
        since = self.clock.now() - self._hold
        held = {key for key, time in self._pressed.items() if time >= since}
        pairs = KEYS[: len(self.limits.names)]
        return np.array([float(up in held) - float(down in held) for up, down in pairs])


def listen(stream: TextIO, press: Callable[[str], Any], hear: Callable[[str], Any]) -> None:
    """Reads a stream to its end, key by key: space stops, ":" begins a line for the operator."""
    while key := stream.read(1):
        if key == STOP:
            hear("stop")
        elif key == LINE:
            hear(stream.readline())
        elif not key.isspace():
            press(key)


@contextmanager
def single_keys(stream: TextIO) -> Iterator[None]:
    """While the block runs, a terminal gives each key at once; other streams stay as they are."""
    if not stream.isatty():
        yield
        return
    import termios  # of Unix alone, as are shared memory and signals
    import tty

    descriptor = stream.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
