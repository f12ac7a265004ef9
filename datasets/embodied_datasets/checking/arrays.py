"""One episode's arrays: lengths, shapes, types, and numbers that are none."""

from __future__ import annotations

import numpy as np

from embodied.structs import Episode, Spec
from embodied_datasets.checking.common import Faults, columns
from embodied_datasets.faults import Fault

_FLOATS = ("state", "action", "reward", "expert_action")


def no_steps(index: int, episode: Episode, spec: Spec) -> Faults:
    if len(episode) == 0:
        yield Fault(
            "E_DATA_EMPTY_EPISODE", "has no steps", "drop it (--fix does)", episode=index, count=0
        )


def one_step(index: int, episode: Episode, spec: Spec) -> Faults:
    if len(episode) == 1:
        yield Fault(
            "E_DATA_SHORT_EPISODE",
            "has a single step, from which no motion can be learned",
            "drop it, or look whether its recording was cut",
            severity="warning",
            episode=index,
        )


def wrong_shapes(index: int, episode: Episode, spec: Spec) -> Faults:
    length = len(episode)
    sizes = {"state": spec.state_dim, "action": spec.action_dim, "expert_action": spec.action_dim}
    for name, values in columns(episode).items():
        wanted = (length, sizes[name]) if name in sizes else (length, *values.shape[1:])
        wanted = (length,) if name == "reward" else wanted
        if values.shape != wanted:
            yield Fault(
                "E_DATA_SHAPE",
                f"has shape {values.shape}, expected {wanted}",
                "correct the declared sizes, or drop the episode",
                episode=index,
                field=name,
            )


def wrong_types(index: int, episode: Episode, spec: Spec) -> Faults:
    for name, values in columns(episode).items():
        fits = values.dtype == np.float32 if name in _FLOATS else values.dtype.kind in "fiub"
        if not fits:
            yield Fault(
                "E_DATA_DTYPE",
                f"has type {values.dtype}, expected {'float32' if name in _FLOATS else 'numbers'}",
                "store it as float32; object and text columns belong elsewhere",
                episode=index,
                field=name,
            )


def not_finite(index: int, episode: Episode, spec: Spec) -> Faults:
    for name, values in columns(episode).items():
        if values.dtype.kind != "f" or not values.size or not values.ndim:
            continue
        bad = ~np.isfinite(values).reshape(len(values), -1)
        frames = bad.any(1)
        if frames.any():
            dims = np.flatnonzero(bad.any(0)).tolist()
            where = f" in dimensions {dims[:6]}" if bad.shape[1] > 1 else ""
            yield Fault(
                "E_DATA_NONFINITE",
                f"is NaN or infinite{where}",
                "drop the episode (--fix does) or repair it",
                episode=index,
                frame=int(frames.argmax()),
                field=name,
                count=int(frames.sum()),
            )
