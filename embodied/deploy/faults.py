"""What can be wrong with hardware, as a record that `SimHardware` obeys."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from embodied.deploy.clock import to_ns


@dataclass(frozen=True)
class Delay:
    """How late something arrives, in s: a constant, plus uniform jitter, plus a heavy tail.

    Attributes:
        constant_s: of every one.
        jitter_s: up to that much more.
        tail_s: smallest of the rare long delays, which are Pareto distributed with index 1.5: their
            mean is three times that, and their variance infinite.
        tail_rate: how often there is one, in [0, 1].
    """

    constant_s: float = 0.0
    jitter_s: float = 0.0
    tail_s: float = 0.0
    tail_rate: float = 0.0

    def draw(self, random: np.random.Generator) -> int:
        """One delay in ns."""
        delay = self.constant_s + self.jitter_s * random.random()
        if self.tail_rate and random.random() < self.tail_rate:
            delay += self.tail_s * (1.0 + random.pareto(1.5))
        return to_ns(delay)


@dataclass(frozen=True)
class Window:
    """A time from `start_s` to `end_s`, in s since the robot was connected."""

    start_s: float
    end_s: float = float("inf")

    def holds(self, since_ns: int) -> bool:
        """Whether a time, in ns since then, lies in it."""
        return self.start_s <= since_ns / 1e9 < self.end_s


@dataclass(frozen=True)
class Faults:
    """How simulated hardware misbehaves; by default it does not.

    Attributes:
        seed: of all that is drawn.
        action_delay: from the call until a command takes effect; jitter may reorder them.
        observation_delay: from sensing until it can be read.
        drop_actions, duplicate_actions: how many commands get lost, or arrive a second time one
            and a half ticks later; in [0, 1].
        drop_observations: how often the one before is returned again, with its old times.
        noise: standard deviation on what the axes are sensed at, in their units.
        camera_noise: standard deviation of grey levels.
        quantisation: step of what the axes are sensed at, in their units.
        backlash: width of the play between command and axis, in its unit.
        frozen: when the first camera repeats its picture, with new times.
        nan: when the first axis is sensed as NaN.
        stuck: when nothing new is sensed, and old times say so.
        slow: when every call takes `slow_s`.
        slow_s: in s.
        error_at: number of the first call (of connect, get_observation and send_action together,
            from 1) that raises; None for none. A failing command may have moved half of the axes.
        error_calls: how many calls in a row raise from there.
    """

    seed: int = 0
    action_delay: Delay = field(default_factory=Delay)
    observation_delay: Delay = field(default_factory=Delay)
    drop_actions: float = 0.0
    duplicate_actions: float = 0.0
    drop_observations: float = 0.0
    noise: float = 0.0
    camera_noise: float = 0.0
    quantisation: float = 0.0
    backlash: float = 0.0
    frozen: Window | None = None
    nan: Window | None = None
    stuck: Window | None = None
    slow: Window | None = None
    slow_s: float = 0.0
    error_at: int | None = None
    error_calls: int = 1

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type == "float" and not value >= 0:
                raise ValueError(f"E_ROBOT_CONFIG: faults.{each.name} must be >= 0, got {value}")
        for name in ("drop_actions", "duplicate_actions", "drop_observations"):
            if getattr(self, name) > 1:
                raise ValueError(f"E_ROBOT_CONFIG: faults.{name} must lie in [0, 1]")

    def fails(self, call: int) -> bool:
        """Whether a call of this number raises."""
        first = self.error_at
        return first is not None and first <= call < first + self.error_calls


def happens(rate: float, random: np.random.Generator) -> bool:
    """Whether something of that rate happens now; draws nothing where the rate is 0."""
    return rate > 0 and bool(random.random() < rate)


def within(window: Window | None, since_ns: int) -> bool:
    """Whether a time lies in a window that may be none."""
    return window is not None and window.holds(since_ns)
