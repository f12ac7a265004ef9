"""Time, in nanoseconds that never go back: the machine's, or a virtual one for exact tests.

Wall time may jump (NTP, daylight saving, somebody's hand), so it is a label and decides nothing.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol

SECOND = 1_000_000_000


def to_ns(seconds: float) -> int:
    """Seconds as whole nanoseconds."""
    return round(seconds * SECOND)


class Clock(Protocol):
    """What tells the time and waits."""

    def now(self) -> int:
        """Monotonic time in ns; its zero means nothing."""
        ...

    def sleep_until(self, deadline: int) -> None:
        """Returns at `deadline` (ns) or later; at once where that has passed."""
        ...


class MonotonicClock:
    """CLOCK_MONOTONIC; all processes of a machine share it."""

    def now(self) -> int:
        return time.monotonic_ns()

    def sleep_until(self, deadline: int) -> None:
        left = deadline - time.monotonic_ns()
        if left > 0:
            time.sleep(left / SECOND)


class VirtualClock:
    """A clock that stands still until somebody sleeps, so that a minute takes no time.

    What others do meanwhile is told beforehand (`at`): it happens within the sleep that passes its
    time, and sees exactly that time.

    Attributes:
        wall_offset: ns that the wall clock is ahead; whatever happens to it, `now` goes on.
    """

    def __init__(self, start: int = 0) -> None:
        self._now = start
        self._order = itertools.count()  # events of the same time happen as they were told
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self.wall_offset = 0

    def now(self) -> int:
        return self._now

    def wall(self) -> int:
        """What a clock on the wall shows, in ns."""
        return self._now + self.wall_offset

    def at(self, time_ns: int, event: Callable[[], None]) -> None:
        """Calls `event` at a time; at the next sleep where that has passed."""
        heapq.heappush(self._events, (time_ns, next(self._order), event))

    def sleep_until(self, deadline: int) -> None:
        while self._events and self._events[0][0] <= deadline:
            due, _, event = heapq.heappop(self._events)
            self._now = max(self._now, due)
            event()
        self._now = max(self._now, deadline)
