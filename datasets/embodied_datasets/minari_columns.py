"""What Minari's storages have in common: columns of an episode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied_datasets.faults import DataError
from embodied_datasets.minari_spaces import Leaf
from embodied_datasets.pictures import decode_picture

Array = NDArray[Any]


class Columns(ABC):
    """What is recorded of one episode. Columns are named by group and path in the space; Arrow
    pads all of them to the number of observations."""

    @abstractmethod
    def array(self, group: str, leaf: Leaf) -> Array:
        """(rows, *shape) of a leaf of numbers."""

    @abstractmethod
    def frames(self, group: str, leaf: Leaf, start: int, stop: int) -> Array:
        """(stop - start, *shape) uint8 of an image, decoded where it is JPEG."""

    @abstractmethod
    def scalars(self, name: str) -> Array:
        """(rows,) of rewards, terminations or truncations."""

    @abstractmethod
    def text(self, group: str, leaf: Leaf) -> str | None:
        """The first of a leaf of texts."""

    @abstractmethod
    def infos(self) -> dict[str, Array]:
        """All numbers of infos, by names joined with slashes."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What our writer added; empty where another wrote it."""

    @abstractmethod
    def seed(self) -> int | None:
        """The seed of its reset."""

    @abstractmethod
    def error(self, code: str, message: str, field: str) -> DataError:
        """An error about this episode; raise it."""

    def joined(self, group: str, parts: Sequence[Leaf]) -> NDArray[np.float32]:
        """(rows, n) of leaves of numbers, end to end."""
        arrays = [self.array(group, leaf) for leaf in parts]
        rows = min((len(values) for values in arrays), default=0)
        flat = [
            x[:rows].reshape(rows, leaf.size).astype(np.float32)
            for x, leaf in zip(arrays, parts, strict=True)
        ]
        return np.concatenate([np.zeros((rows, 0), np.float32), *flat], axis=1)

    def column(self, name: str, rows: int) -> Array:
        """The first `rows` of rewards, terminations or truncations; DataError if there are less."""
        values = self.scalars(name).reshape(-1)
        if len(values) < rows:
            raise self.error("E_DATA_SHAPE", f"has {len(values)} rows, expected {rows}", name)
        return values[:rows]


def decode(data: bytes, leaf: Leaf, columns: Columns) -> Array:
    """The pixels in a JPEG file; DataError if they are not what the space says."""
    try:
        pixels = decode_picture(
            data, (leaf.shape[0], leaf.shape[1]), "RGB" if leaf.is_camera else "L"
        )
    except ValueError as error:
        message = f"holds an image that cannot be read ({error})"
        raise columns.error("E_DATA_IMAGE", message, leaf.name) from error
    return pixels.reshape(leaf.shape)
