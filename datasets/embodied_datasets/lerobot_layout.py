"""Which columns of a data set are state, action, images and further numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embodied_datasets import lerobot_schema as schema
from embodied_datasets.lerobot_columns import NUMBERS, Feature
from embodied_datasets.lerobot_entries import Camera, Layout, Options
from embodied_datasets.lerobot_schema import fail

_MAX_DIM = 2**20
_FLAGS = (schema.DONE, schema.SUCCESS, schema.TERMINATED, schema.TRUNCATED)
_logger = logging.getLogger(__name__)


def make_layout(
    path: Path,
    features: Mapping[str, Any],
    options: Options,
    *,
    required: Sequence[str] = (schema.TIMESTAMP, "frame_index"),
    parts: Mapping[str, int] | None = None,
) -> Layout:
    """Sorts the features of a data set.

    Args:
        path: the file that describes them, for messages.
        parts: `Spec.state_parts` where the set's writer recorded them.
    """
    columns = _columns(path, features)
    _require(path, columns, required)
    action = _action(path, columns, options.action)
    state = _state(path, columns, options.state, parts)
    known = {action, *state, schema.EXPERT_ACTION, schema.REWARD, schema.TIMESTAMP}
    known |= {*_FLAGS, *schema.COUNTERS}
    extras = tuple(name for name in columns if name not in known)
    vectors = {*state, action.removeprefix("next."), schema.EXPERT_ACTION, schema.REWARD}
    types = dict.fromkeys([*vectors, schema.TIMESTAMP], "float32")
    types |= dict.fromkeys(schema.COUNTERS, "int64") | dict.fromkeys(_FLAGS, "bool")
    for name in (*vectors, *types):
        if name in columns and len(columns[name]["shape"]) != 1:
            _refuse_shape(path, name, columns[name]["shape"])
    columns = {
        name: each | {"dtype": types.get(name, each["dtype"])} for name, each in columns.items()
    }
    language = tuple(n for n in (schema.PERSISTENT, schema.EVENTS) if n in features)
    return Layout(columns, state, action, extras, language, _cameras(path, features))


def _columns(path: Path, features: Mapping[str, Any]) -> dict[str, Feature]:
    """The features that are numbers, with shapes that make sense."""
    found = {}
    for name, feature in features.items():
        dtype = feature.get("dtype") if isinstance(feature, dict) else None
        if isinstance(feature, dict) and dtype not in NUMBERS:
            continue  # images, texts
        shape: Any = feature.get("shape") if isinstance(feature, dict) else None
        sizes = isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape)
        if not sizes or not shape or len(shape) > 5 or math.prod(shape) > _MAX_DIM:
            _refuse_shape(path, name, shape)
        found[name] = feature
    return found


def _refuse_shape(path: Path, name: str, shape: Any) -> None:
    message = (
        f"feature {name!r} must have a shape of one number in [1, {_MAX_DIM}] (or, if it is an "
        f"extra, of up to five), got {shape!r}"
    )
    fail("E_DATA_SHAPE", path, message, "flatten it", field=name)


def _require(path: Path, columns: Mapping[str, Feature], names: Sequence[str]) -> None:
    for name in names:
        if name not in columns:
            message = f"features lack {name!r}"
            fail("E_DATA_FEATURE", path, message, "this reader needs a set with it", field=name)


def _action(path: Path, columns: Mapping[str, Feature], name: str) -> str:
    shifted = name.startswith("next.") and name.removeprefix("next.") in columns
    if name not in columns and not shifted:
        message = f"features lack {name!r}; there are {sorted(columns)}"
        remedy = (
            "name another column by action=NAME, or take what is reached for the action with "
            "action='next.observation.state'"
        )
        fail("E_DATA_FEATURE", path, message, remedy, field=name)
    return name


def _state(
    path: Path,
    columns: Mapping[str, Feature],
    chosen: tuple[str, ...] | None,
    parts: Mapping[str, int] | None,
) -> tuple[str, ...]:
    if chosen is not None:
        _require(path, columns, chosen)
        return chosen
    low_dim = [
        name
        for name, feature in columns.items()
        if name.startswith(schema.OBSERVATION)
        and feature["dtype"].startswith("float")
        and len(feature["shape"]) == 1
    ]
    if parts is not None:
        named = [schema.OBSERVATION + name for name in parts]
        low_dim = named if named and set(named) <= set(low_dim) else [schema.STATE]
        _require(path, columns, low_dim)
        size = sum(columns[name]["shape"][0] for name in low_dim)
        if parts and sum(parts.values()) != size:
            message = f"state_parts {dict(parts)} do not add up to the state's size {size}"
            fail("E_DATA_INFO", path, message, "correct it", field="state_parts")
    if not low_dim:
        message = f"features lack {schema.STATE!r}; there are {sorted(columns)}"
        remedy = "name the columns that are the state by state=[NAME, ...]; [] for images alone"
        fail("E_DATA_FEATURE", path, message, remedy, field=schema.STATE)
    return tuple(low_dim)


def _cameras(path: Path, features: Mapping[str, Any]) -> dict[str, Camera]:
    found = {}
    for name, feature in features.items():
        if not isinstance(feature, dict) or feature.get("dtype") not in ("video", "image"):
            continue
        shape: Any = feature.get("shape")
        sides = isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape)
        if not sides or len(shape) != 3:
            message = (
                f"camera {name!r} has dtype {feature['dtype']!r} and shape {shape!r}, but only "
                "videos and images of shape [h, w, 3] are read"
            )
            fail("E_DATA_SHAPE", path, message, "correct or remove it", field=name)
        names = feature.get("names")
        if shape[0] == 3 and isinstance(names, list) and str(names[:1]).startswith("['channel"):
            shape = [*shape[1:], 3]
        if shape[2] != 3:
            _logger.warning(
                "%s: camera %s has shape %s, not RGB, and is left out", path, name, shape
            )
            continue
        short = name.removeprefix(schema.IMAGES)
        found[short] = Camera(name, (shape[0], shape[1]), feature["dtype"] == "image")
    return found
