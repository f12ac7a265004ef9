"""What `meta/info.json` says, checked value by value, since the file may come from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embodied_datasets.faults import Fault, Report
from embodied_datasets.lerobot_schema import fail

_REMEDY = "correct it"


def fps(path: Path, info: Mapping[str, Any]) -> float:
    """The rate of all frames in Hz."""
    rate = info.get("fps")
    if not isinstance(rate, int | float) or not math.isfinite(rate) or not 0 < rate <= 1e6:
        message = f"fps must be a positive number of Hz, got {rate!r}"
        fail("E_DATA_INFO", path, message, _REMEDY, field="fps")
    return float(rate)


def features(path: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    """The description of all columns, as it stands."""
    stored = info.get("features")
    if not isinstance(stored, dict):
        message = f"features must be an object, got {stored!r}"
        fail("E_DATA_INFO", path, message, "restore the file", field="features")
    return stored


def template(path: Path, info: Mapping[str, Any], name: str, default: str) -> str:
    """A path template."""
    found = info.get(name, default)
    if not isinstance(found, str):
        fail("E_DATA_INFO", path, f"{name} must be a path template", _REMEDY, field=name)
    return found


def chunks_size(path: Path, info: Mapping[str, Any]) -> int:
    """How many files of v2 lie in one folder."""
    found = info.get("chunks_size", 1000)
    if not isinstance(found, int) or found < 1:
        message = f"chunks_size must be a positive number, got {found!r}"
        fail("E_DATA_INFO", path, message, _REMEDY, field="chunks_size")
    return found


def check_totals(
    path: Path, info: Mapping[str, Any], episodes: int, frames: int, where: str, report: Report
) -> None:
    """Compares the totals with those that the list of episodes, `where`, adds up to."""
    for name, found in (("total_episodes", episodes), ("total_frames", frames)):
        if info.get(name) != found:
            message = f"says {name} = {info.get(name)!r}, but {where} lists {found}"
            remedy = "a file is missing or stale, so fetch the set again"
            report(Fault("E_DATA_TOTALS", message, remedy, file=path, field=name))


def render_profile(path: Path, info: Mapping[str, Any]) -> str | None:
    """How the images were drawn, None where it is not recorded."""
    name = info.get("render_profile")
    if name is not None and not isinstance(name, str):
        message = f"render_profile must be a name, got {name!r}"
        fail("E_DATA_INFO", path, message, _REMEDY, field="render_profile")
    return name


def state_parts(path: Path, info: Mapping[str, Any]) -> dict[str, int] | None:
    """`Spec.state_parts` as our writer adds them, None where they are not recorded."""
    parts = info.get("state_parts")
    sizes = list(parts.values()) if isinstance(parts, dict) else []
    if parts is not None and (
        not isinstance(parts, dict) or not all(isinstance(n, int) and n > 0 for n in sizes)
    ):
        message = f"state_parts must map names to sizes, got {parts!r}"
        fail("E_DATA_INFO", path, message, _REMEDY, field="state_parts")
    return parts


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
            message = f"{name} must hold {action_dim} finite numbers, got {bound!r}"
            fail("E_DATA_INFO", path, message, _REMEDY, field=name)
    return tuple(bounds["action_low"]), tuple(bounds["action_high"])
