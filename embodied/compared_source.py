"""Batches in which comparisons lie beside recorded steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from embodied.data.compared import Stretches, take
from embodied.feedback import Pairs
from embodied.noise import seeded
from embodied.sources import Source
from embodied.structs import Batch, Metrics

_STREAM = 0x5EED
"""Keeps the draws of pairs apart from those of steps, which have the same seed and position."""


class Compared(Source):
    """Another source's batches, each with comparisons drawn with replacement.

    What is drawn for batch p depends on (seed, p) alone.

    Args:
        steps: batches of recorded steps.
        pairs: to learn from; `held_out` to be judged by.
        num_pairs: of each batch; so many unlabelled segments are drawn besides.
        facts: what was found out about the comparisons before, logged as it is.
    """

    def __init__(
        self,
        steps: Source,
        pairs: Pairs,
        held_out: Pairs,
        stretches: Stretches,
        *,
        num_pairs: int,
        seed: int = 0,
        facts: Metrics | None = None,
    ) -> None:
        if num_pairs < 1:
            raise ValueError(f"source.num_pairs must be at least 1, got {num_pairs}")
        self.steps, self.pairs, self.held_out, self.stretches = steps, pairs, held_out, stretches
        self.batch_size, self.num_pairs, self.seed = steps.batch_size, num_pairs, seed
        self.facts: Metrics = dict(facts or {})
        self.position = 0

    def __next__(self) -> Batch:
        generator = seeded(self.seed ^ _STREAM, self.position, torch.device("cpu"))
        labels = self.pairs.second_better
        rows = torch.randint(len(labels), (self.num_pairs,), generator=generator)
        self.position += 1
        return replace(
            next(self.steps),
            pairs=take(self.pairs, rows.to(labels.device)),
            held_out=self.held_out,
            segments=self.stretches.draw(self.num_pairs, generator),
        )

    def take_metrics(self) -> Metrics:
        return {**self.steps.take_metrics(), **self.facts}

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "seed": self.seed, "steps": self.steps.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["seed"] != self.seed:
            raise ValueError(f"this source has seed {self.seed}, the saved one {state['seed']}")
        self.position = state["position"]
        self.steps.load_state_dict(state["steps"])

    def close(self) -> None:
        self.steps.close()
