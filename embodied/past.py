"""What was planned before in an episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Chunk = NDArray[np.float32]


class Past:
    """The chunks of an episode that still speak of its present step, oldest first."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []  # each begins at the present step

    def add(self, chunk: Chunk) -> None:
        """Takes an (H, A) chunk that was planned now."""
        self._chunks.append(np.array(chunk))

    def step(self) -> None:
        """A step was executed."""
        self._chunks = [chunk[1:] for chunk in self._chunks if len(chunk) > 1]

    def forget(self) -> None:
        """What was planned no longer counts."""
        self._chunks = []

    @property
    def newest(self) -> Chunk | None:
        """(at most H, A), what is left of the chunk that was planned last; None if nothing is."""
        return self._chunks[-1] if self._chunks else None

    @property
    def now(self) -> Chunk:
        """(n, A), what each of the chunks has for the present step."""
        return np.stack([chunk[0] for chunk in self._chunks])


def rests(pasts: Sequence[Past], pred_horizon: int) -> Tensor:
    """(B, H, A), what is left of each last chunk; its last action stands for the steps beyond."""
    found = []
    for past in pasts:
        rest = past.newest
        assert rest is not None, "`looks_back` says so"
        found.append(np.concatenate([rest, np.repeat(rest[-1:], pred_horizon - len(rest), axis=0)]))
    return torch.from_numpy(np.stack(found))
