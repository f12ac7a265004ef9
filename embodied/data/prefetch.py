"""Batches made ahead of their turn, in a thread, and copied to the GPU while it computes."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import torch

from embodied.sources import Source
from embodied.structs import Batch


class Prefetch(Source):
    """The batches of another source, the next few of them ready.

    Its state is that of the batches taken, not of those made: a resume repeats none and skips
    none. An error in making a batch is raised when its turn comes.

    Args:
        device: where batches go; to a GPU from pinned memory, without waiting for the copy.
        ahead: how many batches are ready.
    """

    def __init__(self, source: Source, device: torch.device, *, ahead: int = 3) -> None:
        self.source, self.device, self.ahead = source, device, ahead
        self.batch_size = source.batch_size
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._ready: deque[Future[tuple[Batch, dict[str, Any]]]] = deque()
        self._state = source.state_dict()

    def __next__(self) -> Batch:
        while len(self._ready) <= self.ahead:
            self._ready.append(self._maker.submit(self._make))
        batch, self._state = self._ready.popleft().result()
        return batch.to(self.device)

    def _make(self) -> tuple[Batch, dict[str, Any]]:
        batch = next(self.source)
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        return batch, self.source.state_dict()

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rewind(state)
        self._state = state

    def split(self, rank: int, num_ranks: int) -> Self:
        self._rewind(self._state)
        self.source.split(rank, num_ranks)
        return super().split(rank, num_ranks)

    def close(self) -> None:
        self._rewind(self._state)
        self._maker.shutdown()
        self.source.close()

    def _rewind(self, state: dict[str, Any]) -> None:
        """Drops what was made ahead."""
        for future in self._ready:
            future.cancel()
        for future in self._ready:
            if not future.cancelled():
                future.exception()  # waits: nothing may use the source meanwhile
        self._ready.clear()
        self.source.load_state_dict(state)
