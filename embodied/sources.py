"""Where training batches come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import torch

from embodied.data.windows import Windows
from embodied.noise import seeded
from embodied.structs import Batch


class Source(ABC):
    """An endless iterator of this process's share of each global batch.

    Attributes:
        batch_size: rows of the global batch, over all ranks.
        shard: (rank, number of ranks).
    """

    batch_size: int
    shard: tuple[int, int] = (0, 1)

    @abstractmethod
    def __next__(self) -> Batch: ...

    def __iter__(self) -> Iterator[Batch]:
        return self

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """JSON-able position, for an exact resume."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def split(self, rank: int, num_ranks: int) -> Self:
        """Keeps every rank's share: rows [rank, rank + 1) * batch_size / num_ranks."""
        if self.batch_size % num_ranks:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, "
                f"got {self.batch_size} and {num_ranks}"
            )
        self.shard = (rank, num_ranks)
        return self


class Offline(Source):
    """Windows drawn with replacement: an episode, then a frame of it, both uniformly.

    So a task whose episodes are short counts as much as one whose episodes are long. Each window's
    instruction is drawn anew among the rewordings that `windows` knows. The draws for position p
    depend on (seed, p) alone, so the position is the whole state.
    """

    def __init__(
        self,
        windows: Windows,
        *,
        batch_size: int,
        obs_horizon: int,
        pred_horizon: int,
        seed: int = 0,
    ) -> None:
        self.windows = windows
        self.batch_size = batch_size
        self.obs_horizon, self.pred_horizon = obs_horizon, pred_horizon
        self.seed = seed
        self.position = 0

    def __next__(self) -> Batch:
        generator = seeded(self.seed, self.position, torch.device("cpu"))
        index = self.windows.draw(self.batch_size, generator)
        wording = torch.rand(self.batch_size, generator=generator, dtype=torch.float64)
        self.position += 1
        rank, num_ranks = self.shard
        rows = self.batch_size // num_ranks
        mine = slice(rank * rows, (rank + 1) * rows)
        return self.windows.gather(
            index[mine],
            wording=wording[mine],
            obs_horizon=self.obs_horizon,
            pred_horizon=self.pred_horizon,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["seed"] != self.seed:
            raise ValueError(f"source was saved with seed {state['seed']}, now {self.seed}")
        self.position = state["position"]
