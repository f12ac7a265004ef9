"""What a robomimic file offers, and whether all of its demonstrations offer the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied.structs import Spec
from embodied_datasets.faults import DataError
from embodied_datasets.hdf5 import Hdf5, natural, subgroup
from embodied_datasets.recorded import Bounds, state_parts


def demo_names(hdf5: Hdf5, file: Any, mask: str | None) -> list[str]:
    data = subgroup(file, "data")
    names = [name for name in data if len(subgroup(subgroup(data, name), "obs"))]
    if mask is not None:
        masks = subgroup(file, "mask")
        if mask not in masks:
            raise ValueError(f"{hdf5.path} has no mask {mask!r}; it has {[*masks]}")
        listed = hdf5.read_strings(masks[mask])
        unknown = sorted(set(listed) - set(names))
        if unknown:
            raise hdf5.damaged(f"lists {unknown[:3]}, which are not there", field=f"mask/{mask}")
        names = [name for name in names if name in set(listed)]
    if not names:
        raise hdf5.damaged("holds no demonstration with observations", field="data")
    return sorted(names, key=natural)


def choose_parts(
    path: Path, demo: Any, keys: Sequence[str] | None, written: Spec | None
) -> dict[str, int]:
    """Names and sizes of the observations that make the state.

    Args:
        keys: which, in order; None means those of `written`, the spec in a file of ours, else all.
    """
    shapes = {name: demo["obs"][name].shape for name in _datasets(demo["obs"])}
    sizes = {name: (*shape, 1)[1] for name, shape in shapes.items() if len(shape) in (1, 2)}
    if keys is None and written is not None:
        order = list(state_parts(written, "state"))
        keys = order if set(order) <= sizes.keys() else None
    unknown = sorted(set(keys or ()) - set(sizes))
    if unknown:
        raise ValueError(f"{path} has no observations {unknown} (L, n); it has {[*sizes]}")
    return {name: sizes[name] for name in (sorted(sizes) if keys is None else keys)}


def choose_cameras(
    path: Path, demo: Any, cameras: Sequence[str] | None
) -> dict[str, tuple[int, int]]:
    """Names and sizes (h, w) of the cameras; None takes all."""
    items = {name: demo["obs"][name] for name in _datasets(demo["obs"])}
    found = {
        name: (item.shape[1], item.shape[2])
        for name, item in items.items()
        if len(item.shape) == 4 and item.shape[3] == 3 and item.dtype == np.uint8
    }
    unknown = sorted(set(cameras or ()) - set(found))
    if unknown:
        raise ValueError(f"{path} has no cameras {unknown}; it has {[*found]}")
    return {name: found[name] for name in (found if cameras is None else cameras)}


def look_through(
    hdf5: Hdf5,
    demos: Mapping[str, Any],
    parts: Mapping[str, int],
    cameras: Mapping[str, tuple[int, int]],
) -> Bounds:
    """Compares the shapes of all demonstrations and gathers the bounds of their actions."""
    bounds: Bounds | None = None
    width = None
    for index, demo in enumerate(demos.values()):
        actions = demo.get("actions")
        found: tuple[int, ...] = getattr(actions, "shape", ())
        if len(found) != 2 or width not in (None, found[1]):
            message = f"has shape {found}, expected (L, {'A' if width is None else width})"
            raise _wrong_shape(hdf5, message, index, "actions")
        width = found[1]
        wanted = {name: (size,) for name, size in parts.items()}
        _check_shapes(hdf5, demo, index, wanted | {k: (*v, 3) for k, v in cameras.items()})
        bounds = bounds or Bounds(width)
        bounds.add(hdf5.read(actions))
    assert bounds is not None  # there is a demonstration
    return bounds


def _check_shapes(
    hdf5: Hdf5, demo: Any, index: int, observed: Mapping[str, tuple[int, ...]]
) -> None:
    """`observed`: observation -> shape of one row."""
    length = demo["actions"].shape[0]
    wanted = {f"obs/{name}": (length, *shape) for name, shape in observed.items()}
    wanted |= {name: (length,) for name in ("rewards", "dones") if name in demo}
    if not length:
        raise _wrong_shape(hdf5, "has no steps", index, "actions")
    for name, shape in wanted.items():
        item = demo.get(name)
        found = getattr(item, "shape", None)
        if found != shape and found != (shape[0],) * (shape[1:] == (1,)):
            message = f"has shape {found}, expected {shape}"
            raise _wrong_shape(hdf5, message, index, name)
    samples = hdf5.attribute(demo, "num_samples")
    if samples not in (None, length):
        message = f"says num_samples {samples}, but has {length} actions"
        raise _wrong_shape(hdf5, message, index, "num_samples")


def _wrong_shape(hdf5: Hdf5, message: str, index: int, field: str) -> DataError:
    remedy = "write the demonstration again or leave it out with mask="
    return hdf5.fault("E_DATA_SHAPE", message, remedy, episode=index, field=field)


def _datasets(group: Any) -> list[str]:
    return [name for name in group if hasattr(group[name], "shape")]
