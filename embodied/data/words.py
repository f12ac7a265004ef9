"""The instructions of recorded episodes, each kept once, and what may be said instead of each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Words:
    """Attributes:
    texts: the distinct instructions and their rewordings.
    """

    def __init__(
        self, instructions: Sequence[str], rewordings: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        recorded = tuple(dict.fromkeys(instructions))
        choices = [tuple((rewordings or {}).get(text, (text,))) for text in recorded]
        self.texts = tuple(dict.fromkeys([*recorded, *itertools.chain(*choices)]))
        self.rank = {text: i for i, text in enumerate(self.texts)}
        self._is_reworded = any(
            each != (text,) for text, each in zip(recorded, choices, strict=True)
        )
        self._num_choices = torch.tensor([len(each) for each in choices])
        self._choices = nn.utils.rnn.pad_sequence(
            [torch.tensor([self.rank[text] for text in each]) for each in choices],
            batch_first=True,
        )

    def index(self, instructions: Sequence[str]) -> Tensor:
        """Where instructions stand among `texts`."""
        return torch.tensor([self.rank[text] for text in instructions])

    def choices(self, text: int) -> tuple[str, ...]:
        """What may be said for the recorded instruction `text`."""
        found = self._choices[text, : int(self._num_choices[text])]
        return tuple(self.texts[i] for i in found.tolist())

    def meaning(self, text: Tensor) -> Tensor:
        """A number that recorded instructions share where one may be said for the other."""
        return self._choices[text, 0]

    def reached(self, texts: Tensor) -> tuple[str, ...]:
        """All that may be said for any of these recorded instructions, in the order of `texts`."""
        found = {word for text in set(texts.tolist()) for word in self.choices(text)}
        return tuple(text for text in self.texts if text in found)

    def say(self, text: Tensor, wording: Tensor | None) -> tuple[str, ...]:
        """Strings for B recorded instructions; `wording` (B,) in [0, 1) chooses rewordings."""
        if wording is not None and self._is_reworded:
            text = self._choices[text, (wording * self._num_choices[text]).long()]
        return tuple(map(self.texts.__getitem__, text.tolist()))
