"""Repairs that cannot make data worse, written as a copy: what was recorded stays as it is."""

from __future__ import annotations

import dataclasses
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied.structs import Episode, Episodes
from embodied_datasets import lerobot_schema, lerobot_stats
from embodied_datasets.checking.lerobot_files import RawSet, read_raw
from embodied_datasets.checking.lerobot_rows import RawRows
from embodied_datasets.checking.run import Inspection, inspect_path
from embodied_datasets.faults import Fault
from embodied_datasets.formats import find_format

DROPPED = ("E_DATA_EMPTY_EPISODE", "E_DATA_NAN", "E_DATA_INF", "E_DATA_DUPLICATE")
"""Faults whose episodes are left out."""
RENUMBERED = ("E_DATA_INDEX", "E_DATA_TIME_ORDER", "E_DATA_TIME_UNIT", "E_DATA_DTYPE")
"""Faults that are gone once the episodes are written anew, with times from the rate."""
RECOUNTED = ("E_DATA_COUNTS", "E_DATA_STATS")
"""Faults of LeRobot's metadata alone, as long as there are no others."""
_OWN = ("next.done", "next.success")  # the writer's own columns


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
    raw = read_raw(inspection.path, _ignore) if inspection.format == "lerobot" else None
    fixable = {f.code for f in inspection.faults} & {*DROPPED, *RENUMBERED, *RECOUNTED}
    if raw is not None and fixable <= set(RECOUNTED) and _agrees(inspection):
        return _recount(raw, staging)
    episodes: Episodes
    if raw is not None:
        rows = RawRows(raw, _ignore)
        episodes, numbers = rows, [entry.index for entry in rows.entries]
    else:
        episodes = find_format(inspection.path, inspection.format).open(inspection.path)
        numbers = list(range(len(episodes)))
    return _rewrite(inspection, episodes, numbers, staging)


def _agrees(inspection: Inspection) -> bool:
    """Whether the counts that are wrong are those of the header alone, not of a data file."""
    header = Path(lerobot_schema.INFO_PATH)
    return all(f.file == header for f in inspection.faults if f.code == "E_DATA_COUNTS")


def _recount(raw: RawSet, staging: Path) -> list[str]:
    """A copy of all files, with the header's counts and the statistics of numbers made anew."""
    shutil.copytree(raw.root, staging)
    rows = RawRows(raw, _ignore)
    info: dict[str, Any] = dict(raw.info)
    counts: dict[str, Any] = {
        "total_episodes": len(raw.episodes),
        "total_frames": sum(episode.length for episode in raw.episodes),
        "total_tasks": len(raw.tasks),
        "splits": {"train": f"0:{len(raw.episodes)}"},
    }
    if _splits_fit(info.get("splits"), len(raw.episodes)):
        counts.pop("splits")
    changes = [f"{k}: {info.get(k)} -> {v}" for k, v in counts.items() if info.get(k) != v]
    lerobot_schema.write_json(staging / lerobot_schema.INFO_PATH, info | counts)
    path = staging / lerobot_schema.STATS_PATH
    stored = _read_stats(path)
    fresh = {name: _plain(lerobot_stats.array_stats(v)) for name, v in rows.joined().items()}
    lerobot_schema.write_json(path, stored | fresh)
    return [*changes, f"{lerobot_schema.STATS_PATH}: computed anew for {', '.join(fresh)}"]


def _splits_fit(splits: Any, num_episodes: int) -> bool:
    stops = [str(split).rpartition(":")[2] for split in (splits or {}).values()]
    return all(stop.isdigit() and int(stop) <= num_episodes for stop in stops)


def _read_stats(path: Path) -> dict[str, Any]:
    try:
        return lerobot_schema.read_json(path)
    except (OSError, ValueError):
        return {}


def _plain(stats: lerobot_stats.Stats) -> dict[str, Any]:
    return {name: values.tolist() for name, values in stats.items()}


def _rewrite(
    inspection: Inspection, episodes: Episodes, numbers: Sequence[int], staging: Path
) -> list[str]:
    """Every episode that is worth keeping, through the format's writer."""
    reasons: dict[int, list[str]] = defaultdict(list)
    for fault in inspection.faults:
        if fault.code in DROPPED and fault.episode is not None:
            reasons[fault.episode].append(fault.code)
    known = find_format(inspection.path, inspection.format)
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
    """The episode with its numbers as float32, and without columns that its writer makes."""
    return dataclasses.replace(
        episode,
        state=np.asarray(episode.state, np.float32),
        action=np.asarray(episode.action, np.float32),
        extras={name: x for name, x in episode.extras.items() if name not in _OWN},
        reward=_float32(episode.reward),
        expert_action=_float32(episode.expert_action),
    )


def _float32(values: Any) -> Any:
    return None if values is None else np.asarray(values, np.float32)


def _ignore(fault: Fault) -> None:
    """Faults were reported when the set was inspected."""
