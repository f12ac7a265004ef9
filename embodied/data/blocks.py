"""Windows from data that not even the disk cache holds: blocks of episodes take turns in memory.

Random frames of a file larger than memory cost one read of the disk each. Here whole blocks of
consecutive episodes are read in one go, a few blocks drawn at random are the pool that batches are
drawn from for a while, and the next pool is read meanwhile.

The law: every row by itself is drawn exactly as without blocks, since blocks are drawn by the
weight of their episodes, then one of the pool's blocks, then its episodes by weight. But rows of
one pool are of the same few blocks: neighbouring batches are more alike, the more so the fewer
blocks a pool has. Goals "of any frame" are of the pool. A pool serves as many batches as it has
frames to fill, so that an epoch's worth of batches reads the data about once.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from embodied.data.windows import Windows
from embodied.noise import seeded


class Blocks:
    """The pools of a sequence of batches; a `Store` for `embodied.sources.Offline`.

    Args:
        block_bytes: about how much is read in one go.
        pool_blocks: how many blocks are in memory for one pool; with the next one, twice as many.
    """

    def __init__(
        self,
        windows: Windows,
        *,
        batch_size: int,
        seed: int,
        block_bytes: int = 2**26,
        pool_blocks: int = 16,
    ) -> None:
        self.windows, self.seed, self.pool_blocks = windows, seed, pool_blocks
        self._weights = _uniform(windows) if windows.weights is None else windows.weights
        self._block = _blocks(windows, block_bytes)
        self.num_blocks = int(self._block[-1]) + 1
        frames = pool_blocks * len(windows) // self.num_blocks
        self.batches = max(1, frames // batch_size)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="blocks")
        self._pools: dict[int, Future[Windows]] = {}

    @property
    def law(self) -> dict[str, Any]:
        """What makes the batches what they are."""
        return {"blocks": self.num_blocks, "pool": self.pool_blocks, "batches": self.batches}

    def at(self, position: int) -> Windows:
        """The pool of the batch at a position; reads the next one meanwhile."""
        turn = position // self.batches
        wanted = (turn, turn + 1)
        self._pools = {i: pool for i, pool in self._pools.items() if i in wanted}
        for i in wanted:
            if i not in self._pools:
                self._pools[i] = self._reader.submit(self._read, i)
        return self._pools[turn].result()

    def close(self) -> None:
        """Ends the reading ahead."""
        self._pools = {}
        self._reader.shutdown(cancel_futures=True)

    def _read(self, turn: int) -> Windows:
        episodes, weights = self.choose(turn)
        return self.windows.read(episodes, weights)

    def choose(self, turn: int) -> tuple[Tensor, Tensor]:
        """The episodes of a pool, in order, and the weight of each."""
        generator = seeded(self.seed + 1, turn, torch.device("cpu"))
        totals = torch.zeros(self.num_blocks, dtype=torch.float64)
        totals = totals.index_add(0, self._block, self._weights)
        drawn = torch.multinomial(totals, self.pool_blocks, replacement=True, generator=generator)
        times = torch.bincount(drawn, minlength=self.num_blocks)[self._block]
        episodes = times.nonzero()[:, 0]
        weights = times * self._weights / totals[self._block]
        return episodes, weights[episodes]


def _uniform(windows: Windows) -> Tensor:
    count = len(windows.lengths)
    return torch.full((count,), 1 / count, dtype=torch.float64)


def _blocks(windows: Windows, block_bytes: int) -> Tensor:
    """(E,) which block each episode is of: consecutive episodes of about `block_bytes`."""
    frame = sum(x[:1].nbytes for x in windows.columns.values())
    before = (windows.lengths.cumsum(0) - windows.lengths) * frame
    number = before // block_bytes
    is_new = torch.diff(number, prepend=number[:1]) > 0
    return is_new.cumsum(0)
