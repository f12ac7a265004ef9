"""Continuous goals in words: numbers as digits, in letters and as fractions."""

from __future__ import annotations

from typing import NamedTuple

from embodied.suites import Texts


class _Frames(NamedTuple):
    """Sentences about an object; the first is canonical."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]
    dial: bool = False  # whether a place on a dial is meant, not a part of the way


_FRAMES = {
    "drawer": _Frames(
        (
            "open the drawer {}",
            "pull the drawer out {}",
            "leave the drawer {} open",
            "slide the drawer {} out",
            "the drawer should be {} open",
        ),
        ("see to it that the drawer stands {} open", "i would like the drawer {} open please"),
    ),
    "window": _Frames(
        (
            "open the window {}",
            "slide the window {} open",
            "leave the window {} open",
            "push the window pane {} open",
            "the window should be {} open",
        ),
        ("see to it that the window stands {} open", "i would like the window {} open please"),
    ),
    "door": _Frames(
        (
            "open the door {}",
            "swing the door {} open",
            "leave the door {} open",
            "move the door until it is {} open",
            "the door should be {} open",
        ),
        ("see to it that the door stands {} open", "i would like the door {} open please"),
    ),
    "knob": _Frames(
        (
            "turn the knob to {}",
            "set the knob to {}",
            "rotate the dial to {}",
            "put the knob at {}",
            "the knob should point to {}",
        ),
        ("see to it that the knob ends up at {}", "i would like the dial at {} please"),
        dial=True,
    ),
}
_PARTS = {
    0: ("not at all",),
    25: ("a quarter", "one quarter"),
    50: ("halfway", "half"),
    75: ("three quarters", "three fourths"),
    100: ("all the way", "fully"),
}
_PLACES = {
    0: ("zero",),
    25: ("a quarter", "one quarter"),
    50: ("one half", "the middle"),
    75: ("three quarters", "three fourths"),
    100: ("the maximum", "the end of its range"),
}
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def continuous_texts(name: str, percent: int) -> Texts:
    """The wordings of bringing an object to a percentage of its range, in [0, 100]."""
    frames = _FRAMES[name]
    parts = (_PLACES if frames.dial else _PARTS).get(percent, ())
    amounts = (f"{percent} percent", f"{percent} %", f"{number_word(percent)} percent", *parts)
    canonical, *paraphrases = (
        frame.format(amount) for amount in amounts for frame in frames.trained
    )
    return Texts(
        canonical=canonical,
        paraphrases=tuple(paraphrases),
        held_out=(
            frames.held_out[0].format(amounts[0]),
            frames.trained[0].format(f"{number_word(percent)} per cent"),
            frames.held_out[1].format(amounts[-1]),
        ),
    )


def number_word(number: int) -> str:
    """A number from 0 to 100 in letters."""
    if number == 100:
        return "one hundred"
    tens, ones = divmod(number, 10)
    if number < 20:
        return _ONES[number]
    return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
