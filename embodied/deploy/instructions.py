"""What people say to a running robot: cleaned, numbered, and told from the words that stop it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

MAX_CHARACTERS = 2000
STOP_WORDS = frozenset({"stop", "freeze", "halt", "emergency stop", "e-stop"})


@dataclass(frozen=True)
class Instruction:
    """Something that the policy is told.

    Attributes:
        number: counts up; chunks that obey it carry it as their `instruction_id`.
        text: at most `MAX_CHARACTERS`, without control characters.
    """

    number: int
    text: str


def clean(text: str) -> str:
    """One line without control characters and outer blanks, cut at `MAX_CHARACTERS`."""
    text = text[:MAX_CHARACTERS]
    visible = (" " if unicodedata.category(x)[0] in "CZ" else x for x in text)
    return " ".join("".join(visible).split())


def says_stop(text: str) -> bool:
    """Whether somebody wants the robot to stop. No model is asked."""
    return clean(text).casefold().strip(" .!,") in STOP_WORDS


class Desk:
    """Takes what is said, and has the newest instruction ready for the next inference."""

    def __init__(self, text: str = "") -> None:
        self.current = Instruction(0, clean(text))

    def say(self, text: str) -> Instruction:
        """The instruction from now on; empty text leaves the last one."""
        found = clean(text)
        if found:
            self.current = Instruction(self.current.number + 1, found)
        return self.current
