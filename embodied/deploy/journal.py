"""What the control loop did at each tick, for whoever records it, without waiting for them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from embodied.deploy.limits import Array
from embodied.deploy.watchdog import State


@dataclass(frozen=True, eq=False)
class Tick:
    """One turn of the loop.

    Attributes:
        time: ns.
        state: after what happened in it.
        asked: (A,) what the policy wanted; None where it had no say.
        sent: (A,) what the robot was commanded; None where it was not.
        flags: the limits that changed it.
        age: ns since the observation behind it; -1 without a chunk.
        request_id, instruction_id: of its chunk; -1 without one.
    """

    time: int
    state: State
    asked: Array | None
    sent: Array | None
    flags: tuple[str, ...] = ()
    age: int = -1
    request_id: int = -1
    instruction_id: int = -1

    @property
    def source(self) -> str:
        """Who moved the robot: "policy", "safety" where it was held or slowed, or "nobody"."""
        if self.sent is None:
            return "nobody"
        return "policy" if self.asked is not None and not self.flags else "safety"


class Journal:
    """A queue with room for `capacity` ticks: what finds no room is lost, and counted.

    A recorder whose disk is slow or full takes late or never, and the loop does not notice.

    Attributes:
        lost: how many ticks found no room.
    """

    def __init__(self, capacity: int = 1000) -> None:
        self.capacity, self.lost = capacity, 0
        self._ticks: deque[Tick] = deque()

    def put(self, tick: Tick) -> None:
        """Keeps a tick; never waits."""
        if len(self._ticks) >= self.capacity:
            self.lost += 1
        else:
            self._ticks.append(tick)

    def take(self) -> list[Tick]:
        """All that were kept since the last call, oldest first."""
        return [self._ticks.popleft() for _ in range(len(self._ticks))]
