"""What the checks share: their signatures, and how faults are gathered from a module of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets.faults import Fault

Array = NDArray[Any]
Faults = Iterator[Fault]
EpisodeCheck = Callable[[int, Episode, Spec], Faults]
"""Looks at one episode, given with its index and what the set says of all."""


def checks_in(module: ModuleType) -> list[Callable[..., Faults]]:
    """The public functions that a module defines, in the order of their lines."""
    found = [
        function
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
    ]
    return sorted(found, key=lambda function: function.__code__.co_firstlineno)


def columns(episode: Episode) -> dict[str, Array]:
    """Every array of numbers in an episode by the name that faults give it, images left out."""
    found: dict[str, Any] = {
        "state": episode.state,
        "action": episode.action,
        "reward": episode.reward,
        "expert_action": episode.expert_action,
    }
    found |= {f"extras.{name}": values for name, values in episode.extras.items()}
    return {name: np.asarray(values) for name, values in found.items() if values is not None}


def rows(values: Array) -> NDArray[np.float64]:
    """Numbers (L, ...) as (L, D) float64."""
    flat = np.asarray(values, np.float64)
    return flat.reshape(len(flat), -1) if flat.size else np.zeros((len(flat), 0))


def is_table(values: Array, width: int | None = None) -> bool:
    """Whether an array is (L, D) of finite numbers, so that motion in it can be looked at."""
    array = np.asarray(values)
    numeric = array.ndim == 2 and array.dtype.kind in "fiu" and array.size > 0
    fits = numeric and (width is None or array.shape[1] == width)
    return fits and bool(np.isfinite(array).all())


def listed(items: Any, limit: int = 6) -> str:
    """The first items in words."""
    texts = [str(item) for item in items]
    rest = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {rest} more" if rest > 0 else "")
