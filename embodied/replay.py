"""A replay buffer: rows of experience, in the order in which they were made."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embodied.checkpoint_files import CheckpointError


class Replay:
    """An append-only log of rows, of which the newest `capacity` are what is learned from.

    Nothing is overwritten, so a checkpoint needs only to know how many rows there were: a resumed
    run goes on from there, and writes again what an interrupted one had added since. The file is
    sparse: what has not been written takes no room on the disk.

    Args:
        width: numbers in a row.
        max_rows: how many will ever be appended.
        capacity: how many of the newest count; None counts all.
        path: the file; None keeps the rows in memory alone.
    """

    def __init__(
        self, width: int, max_rows: int, *, capacity: int | None = None, path: Path | None = None
    ) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"a replay buffer's capacity must be at least 1, got {capacity}")
        self.capacity = max_rows if capacity is None else capacity
        self._rows = _open(path, (max_rows, width))
        self.rows: Tensor = torch.from_numpy(self._rows)
        self.count = 0
        self._digest = hashlib.blake2b()

    def __len__(self) -> int:
        """How many rows count."""
        return min(self.count, self.capacity)

    def append(self, rows: NDArray[np.float32]) -> None:
        """Adds rows (n, width); raises ValueError where there is no room left."""
        stop = self.count + len(rows)
        if stop > len(self._rows):
            raise ValueError(
                f"the replay buffer was made for {len(self._rows)} rows, and row {stop} is added"
            )
        self._rows[self.count : stop] = rows
        self._digest.update(rows.tobytes())
        self.count = stop

    def take(self, index: Tensor) -> Tensor:
        """Rows (B, width) by number (B,) in [0, len), oldest first; a copy."""
        return self.rows.index_select(0, index + (self.count - len(self)))

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"rows": self.count, "digest": self._digest.hexdigest()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Forgets the rows that came later; raises CheckpointError where the file is another."""
        self.count = state["rows"]
        kept: Any = self._rows[: self.count]  # a buffer, which NumPy's types do not say
        self._digest = hashlib.blake2b(kept)
        if self._digest.hexdigest() != state["digest"]:
            raise CheckpointError(
                f"E_REPLAY_CHANGED: the replay buffer's first {self.count} rows are not those that "
                "the checkpoint was saved with; restore the run's replay.f32, or start another run"
            )


def _open(path: Path | None, shape: tuple[int, int]) -> NDArray[np.float32]:
    if path is None:
        return np.zeros(shape, np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = shape[0] * shape[1] * 4
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(size)
    return np.memmap(path, np.float32, "r+", shape=shape)
