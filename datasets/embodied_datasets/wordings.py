"""Choosing among several wordings of one instruction, the same in every process for ever."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence


def canonical(text: str) -> str:
    """What two wordings share that differ only in case, spaces and final punctuation."""
    return re.sub(r"\s+", " ", text).strip().rstrip(".!?").rstrip().casefold()


def hold_out(texts: Sequence[str], count: int, seed: int, name: str) -> tuple[list[str], list[str]]:
    """(kept, held out): `count` of the distinct wordings, drawn by a fixed seed.

    Wordings with the same `canonical` form stay together, so that none of the held-out ones is
    ever trained on.

    Args:
        name: of the task, so that tasks do not draw alike.

    Raises ValueError if that leaves nothing on a side that is asked for.
    """
    forms = sorted({canonical(text) for text in texts})
    if not 0 <= count < len(forms):
        raise ValueError(
            f"held_out_utterances must lie in [0, {len(forms) - 1}] for {name}, which has "
            f"{len(forms)} distinct wordings, got {count}"
        )
    held = set(sorted(forms, key=lambda form: _draw(f"{seed}/{name}/{form}"))[:count])
    distinct = list(dict.fromkeys(texts))
    return (
        [text for text in distinct if canonical(text) not in held],
        [text for text in distinct if canonical(text) in held],
    )


def choose(texts: Sequence[str], name: str) -> str:
    """One of the texts, drawn by the name alone."""
    return texts[_draw(name) % len(texts)]


def _draw(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def words(name: str) -> str:
    """A name as words, for sets that record no instruction: "PickPlaceCan" to "pick place can"."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.sub(r"[\s_\-/.]+", " ", apart).strip().lower() or "unknown task"
