"""What passes between the control loop and the policy, and how within one process."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from embodied.deploy.chunks import TimedChunk
from embodied.deploy.limits import Array
from embodied.deploy.watchdog import OPERATOR, Event, State


@dataclass(frozen=True, eq=False)
class Seen:
    """A sound observation, as the policy gets it.

    Attributes:
        time: when its floats were sensed, ns.
        values: what the robot returned.
        command: (A,) what it was commanded last.
        state: of the watchdog.
    """

    time: int
    values: dict[str, Any]
    command: Array
    state: State


class Mail(Protocol):
    """Between the control loop and the policy; no call waits."""

    def poll(self) -> TimedChunk | None:
        """The next chunk, or None."""
        ...

    def publish(self, seen: Seen) -> None:
        """Offers the newest observation."""
        ...

    def orders(self) -> list[Event]:
        """What the operator wants, oldest first; each once."""
        ...


class LocalMail:
    """Within one process.

    Attributes:
        newest: the last observation; None before the first.
    """

    def __init__(self) -> None:
        self.newest: Seen | None = None
        self._is_new = False
        self._chunks: deque[TimedChunk] = deque(maxlen=64)
        self._orders: deque[Event] = deque()

    def send(self, chunk: TimedChunk) -> None:
        """What the policy calls."""
        self._chunks.append(chunk)

    def order(self, event: Event) -> None:
        """What the operator calls, from any thread."""
        check_order(event)
        self._orders.append(event)

    def orders(self) -> list[Event]:
        return [self._orders.popleft() for _ in range(len(self._orders))]

    def poll(self) -> TimedChunk | None:
        return self._chunks.popleft() if self._chunks else None

    def publish(self, seen: Seen) -> None:
        self.newest, self._is_new = seen, True

    def observe(self) -> Seen | None:
        """The newest observation; None if there is none that was not seen before."""
        found = self.newest if self._is_new else None
        self._is_new = False
        return found


def check_order(event: Event) -> None:
    """Raises ValueError for an event that no operator can bring about."""
    if event not in OPERATOR:
        raise ValueError(f"{event!r} is nothing that an operator says: {sorted(OPERATOR)}")
