"""The fields of a request, each read with care: who sends is a stranger."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.data.sketches import Trace
from embodied.deploy.instructions import clean

OPTIONS = (
    *("prompt", "goal_image", "sketch", "motion"),
    *("reset", "cancel", "deadline_ms", "request_id", "obs_time"),
)
"""Keys that a request may have besides what is sensed."""

MAX_POINTS = 1000  # of a sketch
_SKETCH_KEYS = ("points", "size", "heights", "closes", "opens")


class RequestError(ValueError):
    """A request that cannot be obeyed; begins with its code, in a line, and tells no secrets."""


@dataclass(frozen=True, eq=False)
class Request:
    """What a client asks for.

    Attributes:
        observation: as of `embodied.deploy.brain.Brain.infer`.
        prompt: the instruction; None for the server's own.
        goal: camera -> (h, w, 3) uint8 of what shall be seen.
        sketch: the path that shall be followed, or its drawing (h, w, 3) uint8.
        motion: the phrase to be obeyed in place of the policy's own.
        reset: the seed of the episode that begins with this request, or True for the server's;
            None where none begins.
        cancel: whether earlier requests that still wait are no longer wanted.
        deadline_ms: after its arrival; later it is not begun.
        request_id, obs_time: come back with the answer.
    """

    observation: Mapping[str, NDArray[Any]]
    prompt: str | None = None
    goal: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    sketch: Trace | NDArray[np.uint8] | None = None
    motion: str | None = None
    reset: int | None = None
    cancel: bool = False
    deadline_ms: float = math.inf
    request_id: int | None = None
    obs_time: int | None = None


def options(message: Mapping[str, Any]) -> dict[str, Any]:
    """The plain fields of a `Request`; raises RequestError that names the first bad one."""
    reset = message.get("reset")
    return {
        "prompt": _words(message, "prompt"),
        "motion": _words(message, "motion"),
        "reset": None if reset is False else reset if reset is True else _whole(message, "reset"),
        "cancel": _truth(message, "cancel"),
        "deadline_ms": _above_zero(message, "deadline_ms"),
        "request_id": _whole(message, "request_id"),
        "obs_time": _whole(message, "obs_time"),
    }


def array(given: Any, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of a shape and type; where it is of floats, other numbers and lists will do.

    Raises RequestError where it is missing, of another kind, or not finite.
    """
    if given is None:
        raise RequestError(f"E_SERVE_FEATURE: {key!r} is missing: {shape} of {dtype}")
    try:
        found = np.asarray(given)
    except ValueError:
        raise RequestError(f"E_SERVE_FEATURE: {key!r} has rows of unlike lengths") from None
    fits = found.dtype.kind in "fiu" if dtype.kind == "f" else found.dtype == dtype
    if found.shape != shape or not fits:
        kind = found.dtype if found.dtype.kind in "fiub" else "no numbers"
        raise RequestError(
            f"E_SERVE_FEATURE: {key!r} must be {shape} of {dtype}, got {found.shape} of {kind}"
        )
    with np.errstate(over="ignore"):
        found = found.astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(found).all():
        raise RequestError(f"E_SERVE_FEATURE: {key!r} is not finite")
    return found


def trace(given: Any) -> Trace:
    """A sketch from its points (M, 2), pixels (x, y) of an image of `size`, and what else it has.

    Args:
        given: `points`, `size` [height, width] and, where they are known, `heights` (M,) in m,
            `closes` and `opens`, as of `embodied.data.sketches.Trace`.

    Raises RequestError where it is none; a path that leaves its image is none.
    """
    if not isinstance(given, dict) or not {"points", "size"} <= set(given) <= set(_SKETCH_KEYS):
        raise RequestError(f"E_SERVE_FEATURE: sketch must be a map of {', '.join(_SKETCH_KEYS)}")
    facts = {key: x.tolist() if isinstance(x, np.ndarray) else x for key, x in given.items()}
    try:
        facts.setdefault("heights", [0.0] * len(facts["points"]))
        found = Trace.from_json(json.dumps(facts))
    except (TypeError, ValueError) as error:
        raise RequestError(f"E_SERVE_FEATURE: sketch: {_line(error)}") from error
    height, width = found.size
    if (
        len(found.points) > MAX_POINTS
        or not ((found.points >= -0.5) & (found.points <= [width - 0.5, height - 0.5])).all()
    ):
        raise RequestError(
            f"E_SERVE_FEATURE: sketch has at most {MAX_POINTS} points, in its image {found.size}"
        )
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error)[:200].split())


def _words(message: Mapping[str, Any], key: str) -> str | None:
    given = message.get(key)
    if given is not None and not isinstance(given, str):
        raise RequestError(f"E_SERVE_FEATURE: {key!r} must be text, got {type(given).__name__}")
    return None if given is None else clean(given)


def _truth(message: Mapping[str, Any], key: str) -> bool:
    given = message.get(key, False)
    if type(given) is not bool:
        raise RequestError(f"E_SERVE_FEATURE: {key!r} must be true or false")
    return given


def _whole(message: Mapping[str, Any], key: str) -> int | None:
    given = message.get(key)
    if given is not None and (type(given) is not int or not 0 <= given < 2**63):
        raise RequestError(f"E_SERVE_FEATURE: {key!r} must be a whole number in [0, 2^63)")
    return given


def _above_zero(message: Mapping[str, Any], key: str) -> float:
    given = message.get(key, math.inf)
    if type(given) not in (int, float) or not given > 0:
        raise RequestError(f"E_SERVE_FEATURE: {key!r} must be a number above 0")
    return float(given)
