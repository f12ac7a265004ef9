"""The policy's side of a running robot: the newest observation in, a timed chunk out, again.

Whatever goes wrong here is counted, and nothing is sent: the watchdog of the control process holds
the robot where no new plan comes.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embodied.conditions import Row
from embodied.deploy.chunks import TimedChunk
from embodied.deploy.clock import SECOND, Clock, to_ns
from embodied.deploy.mail import Seen
from embodied.deploy.operator import Operator
from embodied.deploy.robot import Features
from embodied.deploy.senses import policy_view
from embodied.deploy.words import Kind, Word

logger = logging.getLogger(__name__)
_KEPT = 100  # inferences whose delay counts


class Mind(Protocol):
    """What plans: `Brain`, a client of a policy server, an expert, or a person's hands."""

    def infer(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """(H, A) actions from an observation on (`senses.policy_view`), in the robot's units.

        One that has an `is_over` ends the session when that is true.
        """
        ...


class Told(Mind, Protocol):
    """A mind that listens; see `Brain`."""

    def tell(self, parts: Row) -> None: ...
    def correct(self, parts: Row) -> None: ...
    def release(self) -> None: ...
    @property
    def said(self) -> str: ...


class Post(Protocol):
    """The policy's side of a mail."""

    def observe(self) -> Seen | None: ...
    def send(self, chunk: TimedChunk) -> None: ...


Watch = Callable[[Mapping[str, Any], NDArray[Any], str, bool], str | None]
"""Sees an observation as the policy got it, the (H, A) plan, the phrase behind it, and whether that
is under a correction; may answer with a line to say."""


@dataclass(frozen=True)
class Thought:
    """An inference, as it is recorded.

    Attributes:
        request_id: of its chunk.
        said: the phrase that it acts by; empty for none.
        obs_time: of its observation, ns.
        delay_s: from then until its chunk was sent.
    """

    request_id: int
    said: str
    obs_time: int
    delay_s: float


class Thinker:
    """Infers whenever there is something new to see, and not more often than `every_s`.

    Args:
        mind: listens to words if it is a `Told`; others are only released and taken over.
        features: of the robot.
        dt_s: from one action of a chunk to the next, 1 / the policy's rate.
        every_s: from one inference to the next at least.
        hands: what acts while the operator has taken over.
        watch: sees each plan once it was sent; what it answers is not heard here.
        note: is given every inference, as it is recorded.

    Attributes:
        counts: "inferences", "errors" of the policy, words "refused" by it.
        delays_s: of the last inferences, from observation to sending.
    """

    def __init__(
        self,
        mind: Mind,
        mail: Post,
        operator: Operator,
        *,
        features: Features,
        dt_s: float,
        every_s: float,
        clock: Clock,
        hands: Mind | None = None,
        watch: Callable[[Mapping[str, Any], NDArray[Any], str, bool], Any] | None = None,
        note: Callable[[Thought], Any] = lambda thought: None,
    ) -> None:
        self.mind, self.mail, self.operator, self.hands = mind, mail, operator, hands
        self.features, self.clock = features, clock
        self.counts: Counter[str] = Counter()
        self.delays_s: deque[float] = deque(maxlen=_KEPT)
        self._dt, self._every = to_ns(dt_s), to_ns(every_s)
        self._note, self._watch = note, watch
        self._taken = self._told = False
        self._requests = self._number = 0
        self._seen: int | None = None  # when the last observation was made
        self._next = -(2**63)

    @property
    def delay_s(self) -> float:
        """The 95th percentile of `delays_s`; 0 before the first."""
        return float(np.percentile(self.delays_s, 95)) if self.delays_s else 0.0

    def think(self) -> bool:
        """One inference, if it is time and there is something new; whether a chunk was sent."""
        now = self.clock.now()
        seen = self.mail.observe() if now >= self._next else None
        if seen is None:
            return False
        late = now - self._next  # made up for, unless it is a whole period
        self._next = now + self._every - (late if late < self._every else 0)
        for word in self.operator.due():
            self._take_up(word)
        self._requests += 1
        observation = policy_view(seen, self.features)
        try:
            actions = self._plan(seen, observation)
        except Exception:
            self.counts["errors"] += 1
            if self.counts["errors"] == 1:  # else one fault would fill the disk
                logger.exception("the policy failed; the robot holds unless it works again")
            return False
        said = self._send(seen, actions)
        if self._watch is not None:
            self._watch(observation, actions, said, self._told)
        return True

    def _plan(self, seen: Seen, observation: dict[str, Any]) -> NDArray[Any]:
        self._elapse(seen.time)
        if not self._taken or self.hands is None:
            return np.asarray(self.mind.infer(observation))
        if hasattr(self.mind, "observe"):  # it goes on from where the person leaves the robot
            self.mind.observe(observation)
        return np.asarray(self.hands.infer(observation))

    def _elapse(self, time: int) -> None:
        """Tells the mind how many of its steps nobody asked it about since it last saw something;
        its next observation stands for one."""
        if self._seen is not None and hasattr(self.mind, "elapse"):
            self.mind.elapse(max(0, round((time - self._seen) / self._dt) - 1))
        self._seen = time

    def _send(self, seen: Seen, actions: NDArray[Any]) -> str:
        chunk = TimedChunk(actions, seen.time, seen.time, self._dt, self._requests, self._number)
        self.mail.send(chunk)
        delay_s = (self.clock.now() - seen.time) / SECOND
        self.delays_s.append(delay_s)
        self.counts["inferences"] += 1
        said = "" if self._taken else str(getattr(self.mind, "said", ""))
        self._note(Thought(self._requests, said, seen.time, delay_s))
        return said

    def _take_up(self, word: Word) -> None:
        """Does as is said; a word that the policy refuses changes nothing but the number."""
        self._number = word.number
        if word.kind is not Kind.TASK:
            self._taken = word.kind is Kind.TAKE_OVER
            self._told = word.kind is Kind.CORRECTION
        try:
            self._tell(word)
        except ValueError as error:
            self.counts["refused"] += 1
            self.operator.refused(word, str(error))

    def _tell(self, word: Word) -> None:
        mind: Any = self.mind
        if word.kind is Kind.RELEASE and hasattr(mind, "release"):
            mind.release()
        elif word.kind in (Kind.TASK, Kind.CORRECTION):
            if not hasattr(mind, "correct"):
                raise ValueError("nobody here takes words but stop, arm, take and the like")
            mind.tell(word.parts) if word.kind is Kind.TASK else mind.correct(word.parts)
