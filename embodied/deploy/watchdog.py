"""Whether the robot may move: five states, and what leads from one to another.

IDLE: nobody has allowed it to move. ARMED: the operator has, and it waits for a fresh chunk. RUN:
it executes chunks. HOLD: something is missing; it brakes, stands, and goes on from a fresh chunk.
STOPPED: it was stopped, and nobody but the operator leads out of that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from embodied.deploy.clock import to_ns


class State(StrEnum):
    IDLE = "IDLE"
    ARMED = "ARMED"
    RUN = "RUN"
    HOLD = "HOLD"
    STOPPED = "STOPPED"


class Event(StrEnum):
    """What can happen; the first four are the operator's."""

    ARM = "arm"
    DISARM = "disarm"
    STOP = "stop"
    RESET = "reset"
    FRESH = "a chunk of fresh plans"
    EXPIRED = "no chunk speaks of now"
    BLIND = "the observation cannot be trusted"
    OVERRUN = "too many ticks came late"
    CLIPPED = "too many ticks were clipped"
    LOST = "held for too long"
    FAULT = "the driver failed"


OPERATOR = frozenset({Event.ARM, Event.DISARM, Event.STOP, Event.RESET})
"""What only a person may say."""

TABLE: Mapping[tuple[State, Event], State] = {
    (State.IDLE, Event.ARM): State.ARMED,
    (State.ARMED, Event.DISARM): State.IDLE,
    (State.ARMED, Event.FRESH): State.RUN,
    (State.RUN, Event.DISARM): State.IDLE,
    (State.RUN, Event.EXPIRED): State.HOLD,
    (State.RUN, Event.BLIND): State.HOLD,
    (State.RUN, Event.OVERRUN): State.HOLD,
    (State.RUN, Event.CLIPPED): State.IDLE,  # the episode is over
    (State.HOLD, Event.FRESH): State.RUN,
    (State.HOLD, Event.DISARM): State.IDLE,
    (State.HOLD, Event.LOST): State.IDLE,  # to be armed again
    (State.STOPPED, Event.RESET): State.IDLE,
    **{
        (state, event): State.STOPPED
        for state in (State.IDLE, State.ARMED, State.RUN, State.HOLD)
        for event in (Event.STOP, Event.FAULT)
    },
}
"""All that changes a state; every other event leaves it as it is."""


@dataclass(frozen=True)
class Guards:
    """How much is borne before the robot holds.

    Attributes:
        expiry_s: age of the observation behind the actions that are executed.
        observation_age_s: age of any source of an observation.
        frozen_frames: frames of a camera in a row that are alike though the robot is commanded to
            move; 0 where cameras may do that.
        max_overruns: of the last `window` ticks, how many may take longer than their time.
        max_clipped: of the last `window` ticks, how many may be clipped.
        window: in ticks.
        rearm_s: a hold that lasts longer has to be armed again.
        retries: how often a call of the driver is repeated at once before it has failed.
    """

    expiry_s: float = 0.25
    observation_age_s: float = 0.1
    frozen_frames: int = 10
    max_overruns: int = 5
    max_clipped: int = 25
    window: int = 50
    rearm_s: float = 2.0
    retries: int = 2

    def __post_init__(self) -> None:
        for name in ("expiry_s", "observation_age_s", "rearm_s"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"E_ROBOT_CONFIG: {name} must be above 0, got {value!r}")
        for name in ("window", "frozen_frames", "max_overruns", "max_clipped", "retries"):
            value, least = getattr(self, name), int(name == "window")
            if type(value) is not int or value < least:
                raise ValueError(
                    f"E_ROBOT_CONFIG: {name} must be a whole number >= {least}, got {value!r}"
                )


@dataclass(frozen=True)
class Change:
    """A state was left for another at a time (ns), for an event."""

    time: int
    before: State
    event: Event
    after: State
    why: str = ""


class Watchdog:
    """Keeps the state and what changed it.

    Attributes:
        changes: all of them, oldest first, at most the last 1000.
    """

    def __init__(self, guards: Guards) -> None:
        self.state = State.IDLE
        self.since = 0
        self.changes: deque[Change] = deque(maxlen=1000)
        self._rearm_ns = to_ns(guards.rearm_s)

    def tell(self, event: Event, now: int, why: str = "") -> Change | None:
        """Something happened at a time (ns); the change that it led to, if any."""
        after = TABLE.get((self.state, event), self.state)
        if after is self.state:
            return None
        change = Change(now, self.state, event, after, why)
        self.changes.append(change)
        self.state, self.since = after, now
        return change

    def is_lost(self, now: int) -> bool:
        """Whether a hold has lasted so long that a person has to look first."""
        return self.state is State.HOLD and now - self.since > self._rearm_ns
