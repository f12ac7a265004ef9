"""Compared segments, and others, as tensors to draw batches from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embodied.data.preferences import Comparisons
from embodied.feedback import Pairs, SegmentBatch


def pairs_of(comparisons: Comparisons, told: str, device: torch.device) -> Pairs:
    """All comparisons, of segments that were to do what is told."""

    def side(i: int) -> SegmentBatch:
        state, action = (torch.tensor(x[:, i]) for x in (comparisons.state, comparisons.action))
        mask = torch.ones(state.shape[:2], dtype=torch.bool)
        return SegmentBatch(state, action, mask, (told,) * len(state))

    label = torch.tensor(comparisons.second_better)
    return Pairs(side(0), side(1), label).to(device)


def take(pairs: Pairs, rows: Tensor) -> Pairs:
    """Some of them, by indices (B,); all are told the same."""
    found = pairs.map(lambda x: x[rows])
    told = pairs.first.told[:1] * len(rows)
    first, second = (replace(side, told=told) for side in (found.first, found.second))
    return Pairs(first, second, found.second_better)


class Stretches:
    """Whole episodes, to draw segments from that may begin anywhere; those that begin near an
    episode's end are padded with its last step.

    Args:
        states, actions: (L, S) and (L, A) of each episode.
        length: steps of a segment.
    """

    def __init__(
        self,
        states: Sequence[NDArray[Any]],
        actions: Sequence[NDArray[Any]],
        *,
        length: int,
        told: str,
        device: torch.device,
    ) -> None:
        self.length, self.told = length, told
        self.state, self.action = (
            torch.tensor(np.concatenate(list(x)), dtype=torch.float32, device=device)
            for x in (states, actions)
        )
        lengths = torch.tensor([len(x) for x in actions], device=device)
        self.end = lengths.cumsum(0).repeat_interleave(lengths)

    def draw(self, count: int, generator: torch.Generator) -> SegmentBatch:
        """Segments of which every beginning is equally likely; `generator` lives on the CPU."""
        size = len(self.end)
        start = torch.randint(size, (count,), generator=generator).to(self.end.device)
        rows = start[:, None] + torch.arange(self.length, device=start.device)
        end = self.end[start][:, None]
        inside = torch.minimum(rows, end - 1)
        return SegmentBatch(
            self.state[inside], self.action[inside], rows < end, (self.told,) * count
        )
