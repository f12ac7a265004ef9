"""Whether an episode is what the spec of its data set says, before it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Spec
from embodied_datasets.zip_safe import leads_out

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_FINITE = ("state", "action", "expert_action", "reward", "final/state")


def check_episode(key: str, arrays: Mapping[str, NDArray[Any]], spec: Spec) -> None:
    """Raises ValueError unless an episode's arrays, by role, are as its spec says."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} cannot name a file; use letters, digits, '_', '-', '.'")
    length = len(arrays["action"])
    if not length:
        raise ValueError(f"episode {key!r} has no steps; an episode needs at least one")
    found = {role.removeprefix("images/") for role in arrays if role.startswith("images/")}
    if found != set(spec.cameras):
        raise ValueError(
            f"images of episode {key!r} must be of the spec's cameras {sorted(spec.cameras)}, "
            f"got {sorted(found)}"
        )
    for role, dtype, shape in _wanted(length, spec):
        if role in arrays and (arrays[role].shape != shape or arrays[role].dtype != dtype):
            raise ValueError(
                f"{role} of episode {key!r} must be {dtype} {shape} as the spec says, "
                f"got {arrays[role].dtype} {arrays[role].shape}"
            )
    for role, values in arrays.items():
        _check_role(key, role, values, length)
        if role.startswith("final/"):
            _check_final(key, role, arrays, spec)


def _wanted(length: int, spec: Spec) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    yield "state", "float32", (length, spec.state_dim)
    yield "action", "float32", (length, spec.action_dim)
    yield "expert_action", "float32", (length, spec.action_dim)
    yield "reward", "float32", (length,)
    yield "final/state", "float32", (spec.state_dim,)
    for camera, size in spec.cameras.items():
        yield f"images/{camera}", "uint8", (length, *size, 3)
        yield f"final/images.{camera}", "uint8", (*size, 3)


def _check_role(key: str, role: str, values: NDArray[Any], length: int) -> None:
    if leads_out(role) or not all(role.split("/")):
        raise ValueError(f"{role!r} of episode {key!r} cannot name an array; rename it")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{role} of episode {key!r} must hold numbers, got {values.dtype}")
    if role.startswith("extras/") and (not values.ndim or len(values) != length):
        raise ValueError(f"{role} of episode {key!r} must have {length} rows, got {values.shape}")
    if role in _FINITE and not np.isfinite(values).all():
        frame = length if role == "final/state" else int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(
            f"{role} of episode {key!r} is not finite at frame {frame}; drop or repair the episode"
        )


def _check_final(key: str, role: str, arrays: Mapping[str, NDArray[Any]], spec: Spec) -> None:
    name = role.removeprefix("final/")
    if name == "state" or name in [f"images.{camera}" for camera in spec.cameras]:
        return
    extra = arrays.get(f"extras/{name}")
    if extra is None or arrays[role].shape != extra.shape[1:]:
        shape = "no such extra" if extra is None else f"rows {extra.shape[1:]} of that extra"
        raise ValueError(
            f"{role} of episode {key!r} must be the state, a camera or an extra of the episode, "
            f"got {arrays[role].shape} and {shape}"
        )
