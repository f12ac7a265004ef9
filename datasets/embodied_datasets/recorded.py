"""What readers do with recorded arrays: group them, cut states, find bounds, look for NaN."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Spec
from embodied_datasets.faults import Fault, Report

Array = NDArray[Any]


def group(columns: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The columns whose role begins with the prefix, by the rest of their roles."""
    return {role.removeprefix(prefix): x for role, x in columns.items() if role.startswith(prefix)}


def split(joined: Array, parts: Mapping[str, int]) -> dict[str, Array]:
    """The parts of states that lie end to end: (..., S) to name -> (..., size)."""
    ends = np.cumsum(list(parts.values()))
    pieces = np.split(joined, ends[:-1], axis=-1) if parts else []
    return dict(zip(parts, pieces, strict=True))


def state_parts(spec: Spec, name: str) -> dict[str, int]:
    """The spec's parts, or one of the given name."""
    return dict(spec.state_parts) or {name: spec.state_dim}


def check_finite(report: Report, place: Fault, arrays: Mapping[str, Array]) -> None:
    """Reports the first frame of each array that is not finite; `place` says where it lies."""
    for name, values in arrays.items():
        if values.dtype.kind != "f" or np.isfinite(values).all():
            continue
        bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
        report(
            dataclasses.replace(
                place,
                code="E_DATA_NONFINITE",
                message=f"is not finite in {bad.sum()} frames",
                remedy="drop or repair the episode",
                frame=int(bad.argmax()),
                field=name,
                count=int(bad.sum()),
            )
        )


class Bounds:
    """The extremes of the actions seen so far."""

    def __init__(self, size: int) -> None:
        self._low = np.full(size, np.inf, np.float32)
        self._high = np.full(size, -np.inf, np.float32)

    def add(self, actions: Array) -> None:
        """Actions (n, A); NaN is passed over."""
        actions = actions.astype(np.float32)
        self._low = np.fmin(self._low, np.fmin.reduce(actions, 0, initial=np.inf))
        self._high = np.fmax(self._high, np.fmax.reduce(actions, 0, initial=-np.inf))

    def get(self, *, unit: bool = False) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Lowest and highest; -1 and 1 where `unit` says that these are usual and all fit."""
        if unit and (self._low >= -1).all() and (self._high <= 1).all():
            return (-1.0,) * len(self._low), (1.0,) * len(self._high)
        return tuple(self._low.tolist()), tuple(self._high.tolist())
