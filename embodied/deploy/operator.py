"""The person beside a running robot: every line that they say, by keyboard, file or queue.

Stop words come first, before any model is asked. What else is said is numbered, and reaches the
policy at its next inference: a motion (RT-H, Belkhale et al. 2024, arXiv:2403.01823, Sec. III-D) or
a sub-task (YAY Robot, Shi et al. 2024, arXiv:2403.12910) in place of its own phrase, another task,
another path, or the person's own hands.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from embodied.conditions import Language, LanguageMotion, Row, Sketch
from embodied.deploy.clock import Clock, to_ns
from embodied.deploy.instructions import clean, says_stop
from embodied.deploy.watchdog import Event
from embodied.deploy.words import Kind, Word, points_in, sketch_of, with_duration
from embodied.people.corrections import Level
from embodied.people.terminal import Phrasebook

logger = logging.getLogger(__name__)

HELP = (
    "stop, freeze, halt    stops the robot, at once",
    "PHRASE [for N s]      what to do instead; holds for N s, or until it is released",
    "ok, or an empty line  the policy does as it likes again",
    "task WORDS            another instruction",
    "draw X,Y X,Y ...      another path in the image; X and Y in [0, 1], from the upper left",
    "take, give            you take the controls, and give them back",
    "good, bad             ends the episode: done, not done",
    "arm, disarm, reset    for the robot: may move, may not, is no longer stopped",
    "quit                  ends the episode",
)
_ORDERS = {"arm": Event.ARM, "disarm": Event.DISARM, "reset": Event.RESET}
_ENDS: dict[str, bool | None] = {"good": True, "bad": False, "quit": None}


@dataclass(frozen=True)
class Speech:
    """What a policy can be told.

    Attributes:
        book: the phrases that it knows.
        level: what a phrase is; "task" for policies without phrases, which get instructions.
        hold_s: how long a phrase holds; None until it is released.
        sketch: (h, w) of its sketches; None where it has none.
        hands: whether somebody's hands can take over.
    """

    book: Phrasebook
    level: Literal["motion", "subtask", "task"] = "task"
    hold_s: float | None = None
    sketch: tuple[int, int] | None = None
    hands: bool = False


class Operator:
    """Takes what is said, from any thread, and has it ready for the next inference.

    Args:
        order: what reaches the control loop, at once.
        say: answers the person.
        note: is given every word that was said, as it is recorded.
        end: called when the episode shall end, with whether the task is done (None: not said).
        who: the person's name in the record.

    Attributes:
        number: of what holds now.
    """

    def __init__(
        self,
        speech: Speech,
        *,
        clock: Clock,
        order: Callable[[Event], None],
        say: Callable[[str], Any] = print,
        note: Callable[[Word], Any] = lambda word: None,
        end: Callable[[bool | None], Any] = lambda done: None,
        who: str = "operator",
    ) -> None:
        self.speech, self.clock, self.who, self.number = speech, clock, who, 0
        self._order, self._say, self._note, self._end = order, say, note, end
        self._new: deque[Word] = deque()
        self._holds: Word | None = None
        self._lock = threading.Lock()

    def hear(self, line: str) -> None:
        """A line was said."""
        if says_stop(line):
            self._order(Event.STOP)
        text = clean(line)
        with self._lock:
            try:
                self._understand(text)
            except ValueError as error:
                self._say(str(error))

    def due(self) -> list[Word]:
        """What an inference that begins now has to take up, oldest first."""
        with self._lock:
            holds = self._holds
            if holds is not None and holds.until is not None and self.clock.now() >= holds.until:
                self._release("")
            return [self._new.popleft() for _ in range(len(self._new))]

    def refused(self, word: Word, why: str) -> None:
        """The policy could not be told a word."""
        logger.warning("the policy was not told %r: %s", word.text, why)
        self._say(why)

    def _understand(self, text: str) -> None:
        first, _, rest = text.partition(" ")
        command = text.casefold()
        if says_stop(text):
            self._add(Kind.NOTE, text)
        elif command in _ORDERS:
            self._add(Kind.NOTE, text)
            self._order(_ORDERS[command])
        elif command in _ENDS:
            self._add(Kind.NOTE, text)
            self._end(_ENDS[command])
        elif command == "help":
            for each in (*HELP, *self.speech.book.lines()[2:]):
                self._say(each)
        elif command in ("", "ok", "give"):
            self._release(text)
        elif command == "take":
            self._take_over(text)
        elif first.casefold() == "task" and rest:
            self._add(Kind.TASK, rest, None, (Language(rest),))
        elif first.casefold() == "draw":
            self._correct(text, "sketch", (self._sketch(rest),), None)
        else:
            self._phrase(text)

    def _phrase(self, text: str) -> None:
        words, seconds = with_duration(text)
        level, book = self.speech.level, self.speech.book
        if not book.understands(words):
            near = " or ".join(map(repr, book.nearest(words)))
            hint = f"did you mean {near}?" if near else "type 'help' for what it knows"
            self._add(Kind.NOTE, text)
            self._say(f"the policy does not know {words!r}; {hint}")
        elif level == "task":
            self._correct(words, "subtask", (Language(words),), seconds)
        else:
            self._correct(words, level, (LanguageMotion(words),), seconds)

    def _sketch(self, text: str) -> Sketch:
        if self.speech.sketch is None:
            raise ValueError("the policy takes no sketches; tell it in words")
        return sketch_of(points_in(text), self.speech.sketch)

    def _take_over(self, text: str) -> None:
        if not self.speech.hands:
            raise ValueError("there are no controls to take: give teleop=keyboard")
        self._holds = self._add(Kind.TAKE_OVER, text, "action")

    def _correct(self, text: str, level: Level, parts: Row, seconds: float | None) -> None:
        seconds = self.speech.hold_s if seconds is None else seconds
        until = None if seconds is None else self.clock.now() + to_ns(seconds)
        self._holds = self._add(Kind.CORRECTION, text, level, parts, until)

    def _release(self, text: str) -> None:
        if self._holds is not None:
            self._holds = None
            self._add(Kind.RELEASE, text)

    def _add(
        self,
        kind: Kind,
        text: str,
        level: Level | None = None,
        parts: Row = (),
        until: int | None = None,
    ) -> Word:
        self.number += kind is not Kind.NOTE
        word = Word(self.number, self.clock.now(), kind, text, level, parts, until, self.who)
        self._note(word)
        if kind is not Kind.NOTE:
            self._new.append(word)
        return word
