"""Gymnasium spaces as Minari writes them down, JSON, without Gymnasium."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Spec
from embodied_datasets.files import Wrong, parse_json
from embodied_datasets.recorded import state_parts

_MAX_DEPTH = 16
_MAX_SIZE = 2**28
_MIN_PIXELS = 32  # Minari takes anything smaller for codes, as those of grid worlds

Path = tuple[str | int, ...]
"""Keys of Dict spaces and places in Tuple spaces, from the outside in."""


@dataclass(frozen=True)
class Leaf:
    """A space that holds no others.

    Attributes:
        kind: Box, Discrete, MultiDiscrete, MultiBinary or Text.
        low, high: bounds in its shape, inclusive; None for Text.
    """

    path: Path
    kind: str
    shape: tuple[int, ...]
    dtype: str
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None

    @property
    def name(self) -> str:
        """Its path, joined by dots."""
        return ".".join(map(str, self.path))

    @property
    def size(self) -> int:
        """Numbers in one value."""
        return math.prod(self.shape)

    @property
    def is_image(self) -> bool:
        """Whether Minari takes it for an image, which it stores as JPEG unless told not to."""
        if self.kind != "Box" or self.dtype != "uint8" or len(self.shape) not in (2, 3):
            return False
        if min(self.shape[:2]) < _MIN_PIXELS or self.low is None or self.high is None:
            return False
        return bool((self.low == 0).all() and (self.high == 255).all())

    @property
    def is_camera(self) -> bool:
        """Whether it is an image in colour."""
        return self.is_image and self.shape[2:] == (3,)


def leaves(text: str | None, wrong: Wrong) -> list[Leaf]:
    """The leaves of a space, in its order. `wrong` makes the error where it is none."""
    space = parse_json(text, wrong)
    try:
        return list(_walk(space, ()))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise wrong(f"is no space ({error!r})") from error


def _walk(space: Mapping[str, Any], path: Path) -> Iterable[Leaf]:
    kind = space["type"]
    if len(path) > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    if kind in ("Dict", "Tuple"):
        inner = space["subspaces"]
        for name, each in inner.items() if kind == "Dict" else enumerate(inner):
            yield from _walk(each, (*path, name))
    elif kind == "Text":
        yield Leaf(path, kind, (), "str")
    else:
        yield _numeric(kind, space, path)


def _numeric(kind: str, space: Mapping[str, Any], path: Path) -> Leaf:
    if kind == "Box":
        shape = tuple(int(size) for size in space["shape"])
        low, high = (np.asarray(space[name], np.float64) for name in ("low", "high"))
        dtype = str(np.dtype(space["dtype"]))
    else:
        start = np.asarray(space.get("start", 0))
        counts = {"Discrete": "n", "MultiDiscrete": "nvec"}
        if kind == "MultiBinary":
            low, high = np.zeros(space["n"]), np.ones(space["n"])
        else:
            low, high = start, start + np.asarray(space[counts[kind]]) - 1
        shape, dtype = high.shape, "int8" if kind == "MultiBinary" else "int64"
    if math.prod(shape) > _MAX_SIZE or any(size < 0 for size in shape):
        raise ValueError(f"shape {shape}")
    return Leaf(path, kind, shape, dtype, np.broadcast_to(low, shape), np.broadcast_to(high, shape))


def observation_space(spec: Spec) -> str:
    """A Dict space of the state's parts and the cameras, or a Box where the state is all."""
    parts = state_parts(spec, "state")
    if not spec.cameras and not spec.state_parts:
        return json.dumps(_box((spec.state_dim,), -math.inf, math.inf))
    spaces = {name: _box((size,), -math.inf, math.inf) for name, size in parts.items()}
    pixels = {name: _box((*size, 3), 0, 255, "uint8") for name, size in spec.cameras.items()}
    return json.dumps({"type": "Dict", "subspaces": spaces | pixels})


def action_space(spec: Spec) -> str:
    """A Box within the spec's bounds."""
    box = _box((spec.action_dim,), 0, 0)
    return json.dumps(box | {"low": list(spec.action_low), "high": list(spec.action_high)})


def _box(shape: tuple[int, ...], low: float, high: float, dtype: str = "float32") -> dict[str, Any]:
    bounds = {"low": np.full(shape, low).tolist(), "high": np.full(shape, high).tolist()}
    return {"type": "Box", "dtype": dtype, "shape": list(shape), **bounds}
