"""How much an untrusted file may ask for, checked from what it declares before it is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied_datasets.faults import DataError, Fault

MAX_BYTES = 8 * 2**30
"""What a reader holds in memory at most unless it is told otherwise."""
MAX_PIXELS = 16 * 10**6
"""Of one image, before it is decoded."""
_MAX_DIMS = 8


def array_bytes(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Bytes of an array, in whole numbers that cannot overflow."""
    return math.prod(int(size) for size in shape) * dtype.itemsize


def damaged(file: Path, message: str, *, field: str | None = None, **place: Any) -> DataError:
    """The error for a file that is not what it says."""
    remedy = "fetch or write the file again"
    return DataError(Fault("E_DATA_UNREADABLE", message, remedy, file=file, field=field, **place))


def check_budget(file: Path, wanted: int, max_bytes: int, **place: Any) -> None:
    """Raises DataError if decoding something would take more memory than is allowed."""
    if wanted > max_bytes:
        message = f"takes {wanted} bytes once decoded, more than max_bytes = {max_bytes}"
        remedy = "raise max_bytes if you trust the data and have the memory"
        raise DataError(Fault("E_DATA_BUDGET", message, remedy, file=file, **place))


class Budget:
    """Bytes that may still be asked for. Every array is charged before it is read.

    Args:
        max_bytes: for all that is charged together.
        file: named by the error.
    """

    def __init__(self, max_bytes: int, file: Path) -> None:
        self.max_bytes = max_bytes
        self._left = max_bytes
        self._file = file

    def take(self, size: int, field: str | None = None) -> None:
        """Charges `size` bytes; raises DataError if that is more than is left."""
        asked = self.max_bytes - self._left + size
        check_budget(self._file, asked, self.max_bytes, field=field)
        self._left -= size


def check_numbers(
    file: Path, field: str, shape: Sequence[int], dtype: np.dtype[Any], *, text: bool = False
) -> None:
    """Raises DataError unless an array is of plain numbers (or, with `text`, of short strings).

    Arrays of Python objects would have to be unpickled, which runs code that the file chooses.
    """
    if dtype.hasobject:
        message = f"has dtype {dtype}: Python objects, which only pickle reads"
        remedy = "write numbers instead; pickle runs code, and this project reads none"
        raise DataError(Fault("E_DATA_PICKLE", message, remedy, file=file, field=field))
    plain = dtype.names is None and dtype.subdtype is None
    if not plain or dtype.kind not in ("biufSU" if text else "biuf"):
        message = f"has dtype {dtype}, expected plain numbers"
        remedy = "write integers, floats or booleans"
        raise DataError(Fault("E_DATA_DTYPE", message, remedy, file=file, field=field))
    if len(shape) > _MAX_DIMS or any(size < 0 for size in shape):
        raise damaged(file, f"declares the shape {tuple(shape)}", field=field)
