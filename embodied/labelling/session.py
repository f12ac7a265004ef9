"""Which pairs a person is asked about, what was said so far, and what the page may send."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embodied.data.preferences import Preferences, Segments, draw_segments, join

SAID = {"left": 0.0, "right": 1.0, "equal": 0.5}
"""An answer, and the probability that it gives the second segment, on the right."""
ANSWERS = (*SAID, "skip")

Save = Callable[[Preferences], object]


def draw_questions(
    lengths: Sequence[int], length: int, count: int, *, held_out: float = 0.2, seed: int = 0
) -> tuple[Segments, Segments]:
    """Pairs of segments, evenly among all; a share of them of episodes that no other pair is of, so
    that what is learned can be judged by episodes that were never compared.

    Raises ValueError where no two episodes are long enough.
    """
    rng = np.random.default_rng(seed)
    apart = rng.permutation(len(lengths)) < round(held_out * len(lengths))
    sides = []
    for mine, share in ((~apart, 1 - held_out), (apart, held_out)):
        number = round(share * count)
        if number:
            usable = np.where(mine, lengths, 0).tolist()
            sides.append([draw_segments(usable, length, number, rng) for _ in range(2)])
    first, second = (
        Segments(
            np.concatenate([pair[i].episode for pair in sides]),
            np.concatenate([pair[i].start for pair in sides]),
            length,
        )
        for i in range(2)
    )
    order = rng.permutation(len(first))
    return first[order], second[order]


class Session:
    """Questions in a fixed order, and the answers, which are saved one by one.

    Who comes back finds the questions that are answered already answered; those that were skipped
    are asked again.

    Args:
        first, second: the segments to compare, shown left and right.
        labeller: who answers.
        save: keeps all that was said, at once or not at all.
        before: what was said already, of these questions or of others, by whomever.
    """

    def __init__(
        self,
        first: Segments,
        second: Segments,
        *,
        labeller: str,
        save: Save,
        before: Preferences | None = None,
    ) -> None:
        self.first, self.second, self.labeller = first, second, labeller
        self._save = save
        self._lock = threading.Lock()
        names = _names(first, second)
        self.answers: dict[int, str] = {}
        self._others: Preferences | None = None
        if before is not None:
            said = _names(before.first, before.second)
            known = dict(zip(said, before.second_better.tolist(), strict=True))
            self.answers = {i: _word(known[x]) for i, x in enumerate(names) if x in known}
            self._others = before[[i for i, x in enumerate(said) if x not in set(names)]]

    def __len__(self) -> int:
        return len(self.first)

    def next(self) -> int | None:
        """The first question that has neither an answer nor was skipped; None at the end."""
        return next((i for i in range(len(self)) if i not in self.answers), None)

    def progress(self) -> dict[str, Any]:
        """What the page shows."""
        told = list(self.answers.values())
        return {
            "total": len(self),
            "answered": sum(each != "skip" for each in told),
            "skipped": told.count("skip"),
            "next": self.next(),
        }

    def answer(self, message: bytes) -> dict[str, Any]:
        """Takes `{"question": number, "answer": word}`, keeps it, and tells how far one is.

        The last question may be answered anew. Raises ValueError naming the field where the message
        is none, OSError where it cannot be kept; then nothing has changed.
        """
        question, word = self._read(message)
        with self._lock:
            changed = {**self.answers, question: word}
            if word != "skip" or question in self.answers:
                self._keep(changed)
            self.answers = changed
            return self.progress()

    def _read(self, message: bytes) -> tuple[int, str]:
        try:
            facts = json.loads(message.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the message must be JSON in UTF-8, got {message[:40]!r}") from error
        if not isinstance(facts, dict) or set(facts) != {"question", "answer"}:
            raise ValueError(
                f"the message must be an object of question and answer, got {str(facts)[:60]}"
            )
        question, word = facts["question"], facts["answer"]
        if type(question) is not int or not 0 <= question < len(self):
            raise ValueError(
                f"question must be a whole number from 0 to {len(self) - 1}, got {question!r:.40}"
            )
        if word not in ANSWERS:
            raise ValueError(f"answer must be one of {', '.join(ANSWERS)}, got {word!r:.40}")
        return question, word

    def _keep(self, answers: dict[int, str]) -> None:
        rows = sorted(i for i, word in answers.items() if word != "skip")
        said = np.array([SAID[answers[i]] for i in rows], np.float32)
        mine = Preferences(self.first[rows], self.second[rows], said, (self.labeller,) * len(rows))
        others = [] if self._others is None or not len(self._others) else [self._others]
        self._save(join([*others, mine]))


def _names(first: Segments, second: Segments) -> list[tuple[int, int, int, int]]:
    columns = (first.episode, first.start, second.episode, second.start)
    return list(zip(*(x.tolist() for x in columns), strict=True))


def _word(second_better: float) -> str:
    return min(SAID, key=lambda word: abs(SAID[word] - second_better))
