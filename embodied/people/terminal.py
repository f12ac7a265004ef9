"""A person at a terminal, who types what a running policy should do instead."""

from __future__ import annotations

import difflib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from embodied.conditions import Language, LanguageMotion
from embodied.people.corrections import Action, Correction, Release, View
from embodied.suites import Assignment

HELP, GO_ON, QUIT = "help", ".", "quit"
_SHOWN = 40  # phrases of a list


class Quit(Exception):
    """The person has had enough."""


@dataclass
class Lines:
    """Lines as they are typed. A thread waits for them, so that the robot need not."""

    stream: TextIO
    _lines: queue.Queue[str | None] = field(default_factory=queue.Queue)
    _ended: bool = False

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.stream:
            self._lines.put(line.strip())
        self._lines.put(None)

    def next(self, *, wait: bool) -> str | None:
        """The next line; None where there is none, yet or ever."""
        if self._ended:
            return None
        try:
            line = self._lines.get(block=wait)
        except queue.Empty:
            return None
        self._ended = line is None
        return line


class Phrasebook:
    """The phrases that a policy knows.

    Args:
        phrases: any number of them.
        is_open: whether it also understands others.
    """

    def __init__(self, phrases: Sequence[str], *, is_open: bool) -> None:
        self.phrases, self.is_open = tuple(dict.fromkeys(phrases)), is_open or not phrases

    def understands(self, text: str) -> bool:
        return self.is_open or text in self.phrases

    def nearest(self, text: str) -> list[str]:
        """Up to three known phrases that may have been meant."""
        return difflib.get_close_matches(text, self.phrases, 3, 0.5)

    def lines(self) -> list[str]:
        """What `help` says."""
        usual = [
            "type a phrase and Enter to correct the policy; an empty line lets it go on by itself",
            f"{HELP!r} shows this, {QUIT!r} ends the session and keeps what was recorded",
        ]
        if self.is_open:
            usual.append("the policy takes any words")
        shown = [f"  {phrase}" for phrase in self.phrases[:_SHOWN]]
        more = len(self.phrases) - len(shown)
        return [*usual, *shown, *([f"  ... and {more} more"] if more else [])]


@dataclass
class Terminal:
    """`People` who are one person at a terminal.

    Attributes:
        period_s: of a step in the person's time, in s; None waits for a line every `turn` steps
            instead, where "." changes nothing.
        steps: how long a correction holds; None until it is released or replaced.
        replan: whether the policy is asked at once.
        said_as: "motion" for policies with phrases, "language" replaces the instruction.
        show: called before each step, to show what the robot sees.
        say: prints a line.
    """

    lines: Lines
    book: Phrasebook
    period_s: float | None = None
    turn: int = 8
    steps: int | None = None
    replan: bool = False
    said_as: str = "motion"
    show: Callable[[View], None] = lambda view: None
    say: Callable[[str], Any] = print
    name: str = "terminal"

    def begin(self, assignment: Assignment) -> TerminalPerson:
        self.say(f"{assignment.task}, goal {assignment.goal}: {assignment.instruction!r}")
        return TerminalPerson(self)


class TerminalPerson:
    """The person in one episode."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal, self.name = terminal, terminal.name
        self._due_s = time.monotonic()
        self._said, self._held = "", False

    def __call__(self, view: View) -> Correction | Release | None:
        terminal = self._terminal
        terminal.show(view)
        self._report(view)
        if terminal.period_s is None:
            return self._answer(view, wait=True) if view.step % terminal.turn == 0 else None
        self._due_s = max(self._due_s + terminal.period_s, time.monotonic() - terminal.period_s)
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        return self._answer(view, wait=False)

    def demonstrate(self, view: View) -> Action | None:
        return None

    def _report(self, view: View) -> None:
        if view.said and view.said != self._said:
            self._terminal.say(f"step {view.step}: {view.said!r}")
        if view.held != self._held:
            text = "obeys" if view.held else "does as it likes again"
            self._terminal.say(f"step {view.step}: the policy {text}")
        self._said, self._held = view.said, view.held

    def _answer(self, view: View, *, wait: bool) -> Correction | Release | None:
        """What the next line that asks for anything says."""
        while (line := self._terminal.lines.next(wait=wait)) is not None:
            if line == QUIT:
                raise Quit
            if line == GO_ON:
                return None
            if not line:
                return Release()
            if line == HELP:
                self._tell(self._terminal.book.lines())
            elif self._terminal.book.understands(line):
                return self._correction(view, line)
            else:
                self._tell(self._unknown(line))
        return None

    def _unknown(self, text: str) -> list[str]:
        near = [repr(phrase) for phrase in self._terminal.book.nearest(text)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"type {HELP!r} for a list"
        return [f"the policy does not know {text!r}; {hint}"]

    def _tell(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._terminal.say(line)

    def _correction(self, view: View, text: str) -> Correction:
        terminal = self._terminal
        terminal.say(f"step {view.step}: told {text!r}")
        how: dict[str, Any] = {"steps": terminal.steps, "replan": terminal.replan}
        if terminal.said_as == "motion":
            return Correction("motion", (LanguageMotion(text),), **how)
        return Correction("subtask", (Language(text),), **how)
