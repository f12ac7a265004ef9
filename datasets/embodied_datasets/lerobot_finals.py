"""What was seen after the last action, as text beside the episode's other facts.

LeRobot has no place for it: its tables hold one row for each action.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied_datasets.lerobot_columns import NUMBERS
from embodied_datasets.lerobot_schema import FINAL_KEY, fail, relative_to
from embodied_datasets.lerobot_tables import open_table, read_slice


def encode_final(final: Mapping[str, NDArray[Any]]) -> str:
    """A JSON object: name -> dtype, shape, and the bytes in base64."""
    return json.dumps({name: _encode(np.asarray(values)) for name, values in final.items()})


def _encode(values: NDArray[Any]) -> dict[str, Any]:
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": values.dtype.name, "shape": list(values.shape), "data": data}


def decode_final(path: Path, text: str) -> dict[str, NDArray[Any]]:
    """The arrays of `encode_final`. Raises DataError naming `path` where it is none."""
    try:
        return {name: _decode(each) for name, each in json.loads(text or "{}").items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        message = f"holds a last observation that is no array ({error})"
        fail("E_DATA_UNREADABLE", path, message, "fetch or record it again", field="final")


def _decode(value: Mapping[str, Any]) -> NDArray[Any]:
    dtype, shape = value["dtype"], tuple(value["shape"])
    if dtype not in NUMBERS:
        raise ValueError(f"dtype {dtype!r}")
    data = base64.b64decode(value["data"], validate=True)
    kind = np.dtype(dtype).newbyteorder("<")
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"shape {shape}")
    if len(data) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{len(data)} bytes for shape {shape} of {dtype}")
    return np.frombuffer(data, kind).astype(dtype).reshape(shape)


class Final(Mapping[str, NDArray[Any]]):
    """One episode's last observation, read at the first look at it.

    Args:
        place: the file, and the row of its column `final`; None for the file's own metadata.
    """

    def __init__(self, root: Path, place: tuple[Path, int | None], max_bytes: int) -> None:
        self._root = root
        self._place = place
        self._max_bytes = max_bytes

    @cached_property
    def _values(self) -> dict[str, NDArray[Any]]:
        path, row = self._place
        with relative_to(self._root):
            if row is None:
                text = open_table(path).schema_arrow.metadata.get(FINAL_KEY, b"{}").decode()
            else:
                text = read_slice(path, "final", row, 1, self._max_bytes)[0].as_py()
            return decode_final(path, text)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
