"""What `meta/info.json` says, checked value by value, since the file may come from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embodied_datasets import lerobot_schema as schema

_MAX_DIM = 2**20


def check_version(path: Path, info: Mapping[str, Any]) -> None:
    """Raises ValueError for any layout but v3.0."""
    version = info.get("codebase_version")
    if version != schema.CODEBASE_VERSION:
        raise ValueError(
            f"{path} has codebase_version {version!r}, expected {schema.CODEBASE_VERSION!r}; "
            "convert the set with LeRobot's own conversion script"
        )


def fps(path: Path, info: Mapping[str, Any]) -> float:
    """The rate of all frames in Hz."""
    rate = info.get("fps")
    if not isinstance(rate, int | float) or not math.isfinite(rate) or not 0 < rate <= 1e6:
        raise ValueError(f"{path}: fps must be a positive number of Hz, got {rate!r}; correct it")
    return float(rate)


def features(path: Path, info: Mapping[str, Any]) -> dict[str, schema.Feature]:
    """The columns that are read, as vectors of the types that they are read as."""
    stored = info.get("features")
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: features must be an object, got {stored!r}; restore the file")
    names = [schema.STATE, schema.ACTION, schema.EXPERT_ACTION, schema.REWARD, schema.SUCCESS]
    names += [schema.TIMESTAMP, "frame_index", "episode_index", "index", "task_index"]
    found = {name: stored[name] for name in names if name in stored}
    for name in (schema.STATE, schema.ACTION, schema.TIMESTAMP, "frame_index", "task_index"):
        if name not in found:
            raise ValueError(f"{path}: features lack {name!r}; this reader needs a set with it")
    for name, feature in found.items():
        shape: Any = feature.get("shape") if isinstance(feature, dict) else None
        one_dim = isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int)
        if not one_dim or not 0 < shape[0] <= _MAX_DIM:
            raise ValueError(
                f"{path}: feature {name!r} must have a shape of one number in [1, {_MAX_DIM}], "
                f"got {shape!r}; flatten it"
            )
    floats = (schema.STATE, schema.ACTION, schema.EXPERT_ACTION, schema.REWARD, schema.TIMESTAMP)
    dtypes = {name: "float32" if name in floats else "int64" for name in found}
    dtypes[schema.SUCCESS] = "bool"
    return {name: feature | {"dtype": dtypes[name]} for name, feature in found.items()}


def cameras(path: Path, info: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Camera -> (h, w) of all videos."""
    found = {}
    for name, feature in info["features"].items():
        if not isinstance(feature, dict) or feature.get("dtype") not in ("video", "image"):
            continue
        shape: Any = feature.get("shape")
        sides = isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape)
        if feature["dtype"] == "image" or not sides or len(shape) != 3 or shape[2] != 3:
            raise ValueError(
                f"{path}: camera {name!r} has dtype {feature['dtype']!r} and shape {shape!r}; "
                "only videos of shape [h, w, 3] are read: convert it to video, or remove it"
            )
        found[name.removeprefix(schema.IMAGES)] = (shape[0], shape[1])
    return found


def render_profile(path: Path, info: Mapping[str, Any]) -> str | None:
    """How the images were drawn, None where it is not recorded."""
    name = info.get("render_profile")
    if name is not None and not isinstance(name, str):
        raise ValueError(f"{path}: render_profile must be a name, got {name!r}; correct it")
    return name


def action_bounds(
    path: Path, info: Mapping[str, Any], action_dim: int
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(low, high) as our writer adds them, None where they are not recorded."""
    if not {"action_low", "action_high"} & info.keys():
        return None
    bounds: dict[str, Any] = {name: info.get(name) for name in ("action_low", "action_high")}
    for name, bound in bounds.items():
        numbers = isinstance(bound, list) and len(bound) == action_dim
        if not numbers or not all(isinstance(x, int | float) and math.isfinite(x) for x in bound):
            raise ValueError(
                f"{path}: {name} must hold {action_dim} finite numbers, got {bound!r}; correct it"
            )
    return tuple(bounds["action_low"]), tuple(bounds["action_high"])
