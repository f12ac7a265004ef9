"""Whether recorded times go forward, evenly, in seconds, and at the rate that is declared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied_datasets.faults import Fault


def clock_faults(values: NDArray[Any], rate_hz: float) -> Iterator[Fault]:
    """What is wrong with the times (L,) of one episode's steps, in s."""
    periods = np.diff(np.asarray(values, np.float64))
    if not len(periods) or not np.isfinite(periods).all():
        return
    backward = periods <= 0
    if backward.any():
        frame = int(backward.argmax()) + 1
        yield Fault(
            "E_DATA_TIME_ORDER",
            f"goes from {values[frame - 1]:.6g} to {values[frame]:.6g}",
            "sort the frames, or rewrite the times from the rate (--fix does)",
            frame=frame,
            count=int(backward.sum()),
        )
        return
    period, wanted = float(np.median(periods)), 1 / rate_hz
    if abs(period / wanted / 1000 - 1) < 0.2:
        yield Fault(
            "E_DATA_TIME_UNIT",
            f"advances by {period:.4g} per step at {rate_hz:g} Hz, which looks like milliseconds",
            "divide by 1000; times are seconds (--fix rewrites them from the rate)",
            count=len(values),
        )
    elif abs(period / wanted - 1) > 0.1:
        yield Fault(
            "E_DATA_RATE",
            f"advances by {period:.4g} s per step ({1 / period:.4g} Hz), but the set declares "
            f"{rate_hz:g} Hz",
            "correct the declared rate (fps), or resample the episode",
            count=len(values),
        )
    uneven = abs(periods - period) > 0.5 * period
    if uneven.any():
        frame = int(uneven.argmax()) + 1
        yield Fault(
            "E_DATA_TIME_UNEVEN",
            f"advances by {periods[frame - 1]:.4g} s where {period:.4g} s is usual; frames were "
            "dropped or delayed",
            "resample the episode, or drop it",
            severity="warning",
            frame=frame,
            count=int(uneven.sum()),
        )
