"""Which stretches of recorded episodes were compared, and what people said of them.

Comparisons refer to episodes and copy nothing, so that labels can lie beside a data set and outlive
changes of how it is stored. Arrays only: data sets import this without torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """N stretches of `length` steps, each within one episode.

    Attributes:
        episode, start: (N,) which episode, and the first step in it.
    """

    episode: Integers
    start: Integers
    length: int

    def __len__(self) -> int:
        return len(self.episode)

    def __getitem__(self, rows: Any) -> Segments:
        """Some of them, by a slice, indices or (N,) bool."""
        return Segments(self.episode[rows], self.start[rows], self.length)

    def check(self, lengths: Sequence[int]) -> None:
        """Raises ValueError where a segment does not lie within its episode.

        Args:
            lengths: of all episodes, in steps.
        """
        known = np.asarray(lengths, np.int64)
        strange = (self.episode < 0) | (self.episode >= len(known))
        if strange.any():
            raise ValueError(
                f"segment {_first(strange)} is of episode {self.episode[_first(strange)]}, of "
                f"{len(known)} episodes; take the data set that was labelled"
            )
        crosses = (self.start < 0) | (self.start + self.length > known[self.episode])
        if crosses.any():
            row = _first(crosses)
            raise ValueError(
                f"segment {row} covers steps [{self.start[row]}, {self.start[row] + self.length}) "
                f"of episode {self.episode[row]}, which has {known[self.episode[row]]}; segments "
                "must not cross episodes"
            )

    def take(self, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """(N, T, ...) from one array (L, ...) for each episode."""
        rows = zip(self.episode.tolist(), self.start.tolist(), strict=True)
        return np.stack([values[e][start : start + self.length] for e, start in rows])


def draw_segments(
    lengths: Sequence[int], length: int, count: int, rng: np.random.Generator
) -> Segments:
    """Segments of which every one is equally likely, in whatever episode; with replacement.

    Raises ValueError if no episode is long enough.
    """
    starts = np.maximum(np.asarray(lengths, np.int64) - length + 1, 0)
    if length < 1 or not starts.any():
        longest = max(lengths, default=0)
        raise ValueError(
            f"length must lie in [1, {longest}] (the longest of {len(lengths)} episodes), got "
            f"{length}"
        )
    ends = np.cumsum(starts)
    drawn = rng.integers(ends[-1], size=count)
    episode = np.searchsorted(ends, drawn, side="right")
    return Segments(episode, drawn - (ends - starts)[episode], length)


@dataclass(frozen=True)
class Preferences:
    """N comparisons.

    Attributes:
        first, second: what was compared, of one length.
        second_better: (N,) float32 in [0, 1], the probability that the second is better: 0, 1, or
            0.5 where neither is.
        labeller: N names of who said so.

    Raises ValueError where these do not fit together.
    """

    first: Segments
    second: Segments
    second_better: NDArray[np.float32]
    labeller: tuple[str, ...]

    def __post_init__(self) -> None:
        sizes = [len(each) for each in (self.first, self.second, self.second_better, self.labeller)]
        if len(set(sizes)) > 1 or self.first.length != self.second.length:
            raise ValueError(
                "first, second, second_better and labeller must have one size, and segments one "
                f"length, got sizes {sizes}, lengths {self.first.length}, {self.second.length}"
            )
        wrong = ~((self.second_better >= 0) & (self.second_better <= 1))  # also NaN
        if wrong.any():
            row = _first(wrong)
            raise ValueError(
                f"second_better must lie in [0, 1], got {self.second_better[row]} in row {row}"
            )

    def __len__(self) -> int:
        return len(self.second_better)

    def __getitem__(self, rows: Any) -> Preferences:
        """Some of them, by a slice, indices or (N,) bool."""
        chosen = np.arange(len(self))[rows]
        names = tuple(self.labeller[i] for i in chosen.tolist())
        return Preferences(
            self.first[chosen], self.second[chosen], self.second_better[chosen], names
        )

    def check(self, lengths: Sequence[int]) -> None:
        """Raises ValueError where a segment does not lie within its episode."""
        self.first.check(lengths)
        self.second.check(lengths)

    def compare(self, states: Sequence[Any], actions: Sequence[Any]) -> Comparisons:
        """What was compared, from one array (L, ...) for each episode."""
        pair = (self.first, self.second)
        return Comparisons(
            np.stack([each.take(states) for each in pair], 1).astype(np.float32, copy=False),
            np.stack([each.take(actions) for each in pair], 1).astype(np.float32, copy=False),
            self.second_better,
        )


def join(parts: Sequence[Preferences]) -> Preferences:
    """All of them, in order. Raises ValueError unless all segments have one length."""
    lengths = {part.first.length for part in parts}
    if len(lengths) != 1:
        raise ValueError(f"preferences must be of segments of one length, got {sorted(lengths)}")

    def segments(side: str) -> Segments:
        found = [getattr(part, side) for part in parts]
        return Segments(
            np.concatenate([each.episode for each in found]),
            np.concatenate([each.start for each in found]),
            found[0].length,
        )

    return Preferences(
        segments("first"),
        segments("second"),
        np.concatenate([part.second_better for part in parts]),
        tuple(name for part in parts for name in part.labeller),
    )


@dataclass(frozen=True)
class Comparisons:
    """What reward models and policies learn from: the steps of N pairs.

    Attributes:
        state: (N, 2, T, S) float32, environment units.
        action: (N, 2, T, A) float32.
        second_better: (N,) float32 in [0, 1].
    """

    state: NDArray[np.float32]
    action: NDArray[np.float32]
    second_better: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.second_better)

    def __getitem__(self, rows: Any) -> Comparisons:
        return Comparisons(*(x[rows] for x in (self.state, self.action, self.second_better)))

    def split(self, held_out: float, rng: np.random.Generator) -> tuple[Comparisons, Comparisons]:
        """Two disjoint parts at random, the second with the share `held_out` of all."""
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must lie in (0, 1), got {held_out}")
        order = rng.permutation(len(self))
        cut = len(self) - round(held_out * len(self))
        return self[order[:cut]], self[order[cut:]]

    def exchanged(self) -> Comparisons:
        """The same comparisons, each asked the other way round."""
        return dataclasses.replace(
            self,
            state=self.state[:, ::-1],
            action=self.action[:, ::-1],
            second_better=1 - self.second_better,
        )


def _first(wrong: NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(wrong)[0])
