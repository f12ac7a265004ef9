"""The policy's side of one session: who thinks, who speaks, and when it is over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from embodied.deploy.clock import SECOND, Clock, to_ns
from embodied.deploy.control import Ready
from embodied.deploy.operator import Operator, Speech
from embodied.deploy.thinker import Mind, Post, Thinker, Thought, Watch
from embodied.deploy.watchdog import Event
from embodied.deploy.words import Word


class Orders(Post, Protocol):
    """The policy's side of a mail, and the operator's."""

    def order(self, event: Event) -> None: ...


@dataclass(frozen=True)
class Cast:
    """Who takes part, and in which rhythm.

    Attributes:
        mind: what plans.
        dt_s: from one of its actions to the next.
        every_s: from one inference to the next at least.
        hands: what acts while the operator has taken over.
        speech: what the policy can be told.
        lines: (s after the beginning, line) of what the operator says by a script.
        watch: somebody who sees what the policy does, and may answer with a line.
        arms: whether the robot is armed at the beginning; else the operator has to.
        seconds: after which the session ends; None for never.
        who: the operator's name.
    """

    mind: Mind
    dt_s: float
    every_s: float
    speech: Speech
    hands: Mind | None = None
    lines: Sequence[tuple[float, str]] = ()
    watch: Watch | None = None
    arms: bool = True
    seconds: float | None = None
    who: str = "operator"


class Station:
    """Thinks and speaks, turn by turn, until somebody ends it.

    Args:
        note: is given every word and inference, as they are recorded.
        say: answers the operator.

    Attributes:
        ended: whether the session is over, as far as the policy's side can tell.
        done: whether the operator says that the task is done; None where they do not say.
    """

    def __init__(
        self,
        cast: Cast,
        mail: Orders,
        ready: Ready,
        clock: Clock,
        *,
        note: Callable[[Word | Thought], Any],
        say: Callable[[str], Any] = print,
    ) -> None:
        self.ended, self.clock = False, clock
        self.done: bool | None = None
        self._begun = clock.now()
        self._last = None if cast.seconds is None else self._begun + to_ns(cast.seconds)
        self._lines = deque(sorted(cast.lines))
        self._watch = cast.watch
        self.operator = Operator(
            cast.speech,
            clock=clock,
            order=mail.order,
            say=say,
            note=note,
            end=self._end,
            who=cast.who,
        )
        self.thinker = Thinker(
            cast.mind,
            mail,
            self.operator,
            features=ready.features,
            dt_s=cast.dt_s,
            every_s=cast.every_s,
            clock=clock,
            hands=cast.hands,
            watch=None if cast.watch is None else self._watched,
            note=note,
        )
        if cast.arms:
            mail.order(Event.ARM)

    def turn(self) -> bool:
        """What is due now; whether there was an inference."""
        now = self.clock.now()
        while self._lines and (now - self._begun) / SECOND >= self._lines[0][0]:
            self.operator.hear(self._lines.popleft()[1])
        if self._last is not None and now >= self._last:
            self.ended = True
        self.ended = self.ended or getattr(self.thinker.mind, "is_over", False)
        return self.thinker.think()

    def _watched(self, *view: Any) -> None:
        line = None if self._watch is None else self._watch(*view)
        if line is not None:
            self.operator.hear(line)

    def _end(self, done: bool | None) -> None:
        self.ended, self.done = True, done
