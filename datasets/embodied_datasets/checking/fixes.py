"""Repairs that cannot make data worse, written as a copy: what was recorded stays as it is."""

from __future__ import annotations

import dataclasses
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from embodied.structs import Episode, Episodes
from embodied_datasets import lerobot_schema, lerobot_stats
from embodied_datasets.checking.run import Inspection, inspect_path, place_of
from embodied_datasets.files import read_json, write_json
from embodied_datasets.formats import find_format
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.lerobot_surroundings import statistics

DROPPED = ("E_DATA_EMPTY_EPISODE", "E_DATA_NONFINITE", "E_DATA_DUPLICATE")
"""Faults whose episodes are left out."""
RENUMBERED = (
    "E_DATA_LISTING",
    "E_DATA_ORDER",
    "E_DATA_TIME_ORDER",
    "E_DATA_TIME_UNIT",
    "E_DATA_DTYPE",
)
"""Faults that are gone once the episodes are written anew, with times from the rate."""
RECOUNTED = ("E_DATA_TOTALS", "E_DATA_STATS")
"""Faults of LeRobot's metadata alone, as long as there are no others."""


def repair(inspection: Inspection, target: Path | None, *, in_place: bool = False) -> list[str]:
    """Writes a repaired copy of the data set that was inspected, and says what it changed.

    Only the faults of `DROPPED`, `RENUMBERED` and `RECOUNTED` are repaired; the others stay.

    Args:
        target: a path where nothing is yet; None is the set's own with "-fixed" added.
        in_place: the copy takes the set's place, and the set goes to "<name>.before-fix".

    Raises FileExistsError if something is there already, ValueError if the format is only read.
    """
    path = inspection.path
    codes = {fault.code for fault in inspection.faults}
    if not inspection.episodes or not codes & {*DROPPED, *RENUMBERED, *RECOUNTED}:
        return []
    target = target or path.with_name(f"{path.name}-fixed")
    backup = path.with_name(f"{path.name}.before-fix")
    for taken in [backup] if in_place else [target]:
        if taken.exists():
            raise FileExistsError(f"{taken} exists; move it away, or name another target")
    staging = target.with_name(f".{target.name}.fixing")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        changes = _write(inspection, staging)
        if in_place:
            path.rename(backup)
            target = path
            changes.append(f"{path} replaced; what it held is in {backup}")
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    left = inspect_path(target, format=inspection.format).faults
    remaining = ", ".join(sorted({fault.code for fault in left})) or "none"
    return [*changes, f"written to {target}; faults that remain: {remaining}"]


def _write(inspection: Inspection, staging: Path) -> list[str]:
    fixable = {f.code for f in inspection.faults} & {*DROPPED, *RENUMBERED, *RECOUNTED}
    source = inspection.source
    assert source is not None
    if isinstance(source, LeRobotDataset) and fixable <= set(RECOUNTED):
        return _recount(source, staging)
    return _rewrite(inspection, source, staging)


def _recount(source: LeRobotDataset, staging: Path) -> list[str]:
    """A copy of all files, with the header's counts and the statistics of numbers made anew."""
    shutil.copytree(source.root, staging)
    entries = source.catalog.entries
    info = read_json(source.root / lerobot_schema.INFO_PATH)
    counts: dict[str, Any] = {
        "total_episodes": len(entries),
        "total_frames": sum(entry.length for entry in entries),
        "total_tasks": len(source.catalog.tasks),
        "splits": {"train": f"0:{len(entries)}"},
    }
    if _splits_fit(info.get("splits"), len(entries)):
        counts.pop("splits")
    changes = [f"{k}: {info.get(k)} -> {v}" for k, v in counts.items() if info.get(k) != v]
    write_json(staging / lerobot_schema.INFO_PATH, info | counts)
    if info.get("codebase_version") != lerobot_schema.CODEBASE_VERSION:
        return changes  # older sets keep other statistics
    path = staging / lerobot_schema.STATS_PATH
    fresh = {name: _plain(stats) for name, stats in statistics(source).items()}
    write_json(path, _read_stats(path) | fresh)
    return [*changes, f"{lerobot_schema.STATS_PATH}: computed anew for {', '.join(fresh)}"]


def _splits_fit(splits: Any, num_episodes: int) -> bool:
    stops = [str(split).rpartition(":")[2] for split in (splits or {}).values()]
    return all(stop.isdigit() and int(stop) <= num_episodes for stop in stops)


def _read_stats(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def _plain(stats: lerobot_stats.Stats) -> dict[str, Any]:
    return {name: values.tolist() for name, values in stats.items()}


def _rewrite(inspection: Inspection, episodes: Episodes, staging: Path) -> list[str]:
    """Every episode that is worth keeping, through the format's writer."""
    reasons: dict[int, list[str]] = defaultdict(list)
    for fault in inspection.faults:
        if fault.code in DROPPED and fault.episode is not None:
            reasons[fault.episode].append(fault.code)
    known = find_format(inspection.path, inspection.format)
    numbers = [place_of(episodes, i)[0] for i in range(len(episodes))]
    kept = [(i, n) for i, n in enumerate(numbers) if n not in reasons]
    if not kept:
        raise ValueError(f"{inspection.path}: no episode would remain; record them again")
    width = len(str(max(numbers)))
    try:
        writer = known.create(staging, episodes.spec)
    except NotImplementedError as error:
        raise ValueError(f"{known.name} is only read; convert the set and fix that one") from error
    with writer:
        for position, number in kept:
            writer.add(f"{number:0{width}d}", _sound(episodes[position]))
        writer.finalize()
    changes = [f"episode {n}: dropped ({', '.join(sorted(set(r)))})" for n, r in reasons.items()]
    changes.append(f"{len(kept)} episodes written anew: indices, counts, statistics and times")
    if episodes.spec.cameras:
        changes.append("videos: encoded again, so that pixels differ slightly")
    return changes


def _sound(episode: Episode) -> Episode:
    """The episode with its numbers as float32."""
    return dataclasses.replace(
        episode,
        state=np.asarray(episode.state, np.float32),
        action=np.asarray(episode.action, np.float32),
        reward=_float32(episode.reward),
        expert_action=_float32(episode.expert_action),
    )


def _float32(values: Any) -> Any:
    return None if values is None else np.asarray(values, np.float32)
