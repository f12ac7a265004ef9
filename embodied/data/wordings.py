"""Which wordings of recorded instructions mean the same, and which of them are never trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Wordings:
    """Attributes:
    groups: the wordings of each meaning, in the order that they were met.
    held_out: those that no training episode may be told.
    """

    groups: tuple[tuple[str, ...], ...]
    held_out: frozenset[str] = frozenset()
    _group: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        index = {text: i for i, group in enumerate(self.groups) for text in group}
        object.__setattr__(self, "_group", index)

    def like(self, text: str) -> tuple[str, ...]:
        """All wordings of what `text` means."""
        return self.groups[self._group[text]]

    def trained(self, text: str) -> tuple[str, ...]:
        """Those that may be trained on; empty where the whole meaning is held out."""
        return tuple(each for each in self.like(text) if each not in self.held_out)

    def unseen(self, text: str) -> tuple[str, ...]:
        """Those that may not."""
        return tuple(each for each in self.like(text) if each in self.held_out)

    def others(self, text: str) -> tuple[str, ...]:
        """The first trained wording of every other meaning."""
        groups = (self.trained(group[0]) for group in self.groups if text not in group)
        return tuple(group[0] for group in groups if group)

    def rewordings(self, *, reword: bool) -> dict[str, tuple[str, ...]]:
        """Instruction -> what may be said instead of it; for `Windows`.

        Args:
            reword: False says each as it was recorded, unless that is held out.
        """
        found = {}
        for text in self._group:
            choices = self.trained(text) or (text,)
            found[text] = choices if reword or text not in choices else (text,)
        return found


def gather_wordings(recorded: Iterable[Sequence[str]]) -> Wordings:
    """Groups of wordings, given those of each episode; what shares a wording means the same."""
    groups: list[dict[str, None]] = []
    for texts in recorded:
        met = [group for group in groups if group.keys() & set(texts)]
        groups = [group for group in groups if not any(group is each for each in met)]
        groups.append({text: None for each in [*met, dict.fromkeys(texts)] for text in each})
    return Wordings(tuple(tuple(group) for group in groups))


def hold_out(wordings: Wordings, fraction: float, seed: int) -> Wordings:
    """Holds out a share of the wordings of every meaning that has several, at least one and not
    all; and of the meanings that have only one, where all other meanings remain."""
    if not 0 <= fraction < 1:
        raise ValueError(f"held_out_wordings must lie in [0, 1), got {fraction}")
    if fraction == 0:
        return wordings
    random = np.random.default_rng(seed)
    several = [group for group in wordings.groups if len(group) > 1]
    single = [group[0] for group in wordings.groups if len(group) == 1]
    chosen = [text for group in several for text in _share(group, fraction, random, least=1)]
    chosen += _share(single, fraction, random, least=0 if several else 1)
    return Wordings(wordings.groups, frozenset(chosen))


def _share(
    texts: Sequence[str], fraction: float, random: np.random.Generator, *, least: int
) -> list[str]:
    count = min(max(round(fraction * len(texts)), least), len(texts) - 1)
    return [texts[i] for i in random.permutation(len(texts))[: max(0, count)]]


def split_episodes(
    instructions: Sequence[str], wordings: Wordings, fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Episodes to train on and episodes held out, both in order; at least one of each if there
    are two.

    An episode whose meaning is held out altogether is held out, beyond `fraction`.

    Args:
        fraction: in (0, 1), of the others.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"val_fraction must lie in (0, 1), got {fraction}")
    unseen = [i for i, text in enumerate(instructions) if not wordings.trained(text)]
    others = sorted(set(range(len(instructions))) - set(unseen))
    count = max(round(fraction * len(others)), 0 if unseen else 1)
    order = np.random.default_rng(seed).permutation(len(others))
    chosen = {others[i] for i in order[: min(count, len(others) - 1)]}
    return [i for i in others if i not in chosen], sorted({*chosen, *unseen})
