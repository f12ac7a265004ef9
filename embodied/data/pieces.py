"""A column that lies in several tensors, such as the mapped files of several data sets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Pieces:
    """Rows of several host tensors of one kind, one after another."""

    def __init__(self, pieces: Sequence[Tensor]) -> None:
        self.pieces = tuple(pieces)
        self._ends = torch.tensor([len(x) for x in pieces]).cumsum(0)
        self.shape = torch.Size((int(self._ends[-1]), *pieces[0].shape[1:]))
        self.dtype, self.device = pieces[0].dtype, pieces[0].device

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        return self.index_select(0, torch.arange(*rows.indices(len(self))))

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.pieces)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The rows `index` (B,), as `torch.Tensor.index_select` with `dim` 0."""
        found = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        piece = torch.searchsorted(self._ends, index, right=True)
        for i, x in enumerate(self.pieces):
            rows = (piece == i).nonzero()[:, 0]
            start = int(self._ends[i]) - len(x)
            found[rows] = x.index_select(0, index[rows] - start)
        return found

    def to(self, device: torch.device) -> Tensor | Pieces:
        """One tensor on an accelerator, which would have to wait to choose among several."""
        if device == self.device:
            return self
        found = torch.empty(self.shape, dtype=self.dtype, device=device)
        for end, x in zip(self._ends.tolist(), self.pieces, strict=True):
            found[end - len(x) : end] = x.to(device)
        return found


Column = Tensor | Pieces


def take(x: Column, index: Tensor) -> Tensor:
    """x[index], which for rows of images is 9 times slower on a CPU."""
    return x.index_select(0, index.flatten()).reshape(*index.shape, *x.shape[1:])


def join(columns: Sequence[Column]) -> Column:
    """Columns one after another; images may be mapped files larger than memory and stay so."""
    tensors = [x for x in columns if isinstance(x, Tensor)]
    return Pieces(tensors) if tensors[0].dtype == torch.uint8 else torch.cat(tensors)
