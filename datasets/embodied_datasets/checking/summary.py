"""What is kept of an episode while a set streams by, so that episodes can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode
from embodied_datasets.checking.common import columns, is_table, rows

Floats = NDArray[np.float64]

POINTS = 12
"""Moments of an episode that near-duplicates are compared at."""
_TINY = 1e-9
_MAX_COMPARED = 2000
_NEAR = 1e-3
"""Distance of near-duplicates, in standard deviations of the set; people never come so close."""


@dataclass(frozen=True)
class Column:
    """One table (L, D) of an episode in a few numbers, each (D,).

    Attributes:
        step: the largest change from one frame to the next, whole turns of angles not counted.
        usual: the third largest, which a jump and its return leave out.
        at: the frame before the largest.
        spike: the largest change that the next frame takes back.
        spike_at: the frame between the two.
        at_low, at_high: how many values equal the smallest and the largest.
        few: whether there are at most three distinct values.
    """

    low: Floats
    high: Floats
    mean: Floats
    std: Floats
    step: Floats
    usual: Floats
    at: NDArray[np.int64]
    spike: Floats
    spike_at: NDArray[np.int64]
    at_low: NDArray[np.int64]
    at_high: NDArray[np.int64]
    few: NDArray[np.bool_]


@dataclass(frozen=True)
class Summary:
    """An episode without its data.

    Attributes:
        task: `info["task"]`, where it is recorded.
        digest: of state, action and instruction.
        tables: "state" and "action", where they are finite numbers.
        path: (POINTS, S + A) states and actions at evenly spaced moments.
        rewards: the distinct rewards, at most three.
        names: the columns and cameras that it has.
    """

    index: int
    length: int
    instruction: str
    task: str | None
    success: bool
    digest: str
    tables: Mapping[str, Column]
    path: Floats | None
    rewards: tuple[float, ...]
    names: frozenset[str]


def summarise(index: int, episode: Episode) -> Summary:
    """Reads all numbers of the episode, and none of its images."""
    found = {"state": episode.state, "action": episode.action}
    tables = {name: rows(values) for name, values in found.items() if is_table(values)}
    whole = len(tables) == 2 and len({len(table) for table in tables.values()}) == 1
    reward = np.zeros(0) if episode.reward is None else np.asarray(episode.reward)
    task = episode.info.get("task")
    return Summary(
        index=index,
        length=len(episode),
        instruction=episode.instruction,
        task=None if task is None else str(task),
        success=bool(episode.success),
        digest=_digest(episode),
        tables={name: _column(table) for name, table in tables.items()},
        path=_path(np.hstack(list(tables.values()))) if whole else None,
        rewards=tuple(np.unique(reward[np.isfinite(reward)])[:3].tolist()),
        names=frozenset([*columns(episode), *(f"images.{name}" for name in episode.images)]),
    )


def _column(table: Floats) -> Column:
    low, high = table.min(0), table.max(0)
    steps = abs(np.diff(table, axis=0))
    for turn in (2 * np.pi, 360.0):  # an angle that wraps has not jumped
        steps = np.where(abs(steps - turn) < 0.05 * turn, abs(steps - turn), steps)
    spike, spike_at = _spike(np.diff(table, axis=0))
    ordered = np.sort(steps, axis=0) if len(steps) > 2 else np.zeros((3, table.shape[1]))
    ranked = np.sort(table, axis=0)
    return Column(
        low=low,
        high=high,
        mean=table.mean(0),
        std=table.std(0),
        step=ordered[-1],
        usual=ordered[-3],
        at=steps.argmax(0) if len(steps) else np.zeros(table.shape[1], np.int64),
        spike=spike,
        spike_at=spike_at,
        at_low=(table == low).sum(0),
        at_high=(table == high).sum(0),
        few=(np.diff(ranked, axis=0) > 0).sum(0) <= 2,
    )


def _spike(steps: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The largest step of each dimension that the next one undoes, and the frame it leads to."""
    if len(steps) < 2:
        return np.zeros(steps.shape[1]), np.zeros(steps.shape[1], np.int64)
    there, back = steps[:-1], steps[1:]
    size = np.where(there * back < 0, np.minimum(abs(there), abs(back)), 0.0)
    return size.max(0), size.argmax(0) + 1


def _path(table: Floats) -> Floats:
    moments = np.linspace(0, len(table) - 1, POINTS).round().astype(int)
    return np.asarray(table[moments])


def _digest(episode: Episode) -> str:
    digest = hashlib.sha256(episode.instruction.encode())
    for values in (episode.state, episode.action):
        array = np.ascontiguousarray(values)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes() if array.dtype != object else b"")
    return digest.hexdigest()


def near_pairs(summaries: Sequence[Summary]) -> list[tuple[Summary, Summary]]:
    """Pairs of about equal length that run side by side; each episode with its first double.

    Of very large sets only the first 2,000 episodes are compared.
    """
    members = [s for s in summaries if s.path is not None and s.length > 1][:_MAX_COMPARED]
    widths = {s.path.shape for s in members if s.path is not None}
    if len(members) < 2 or len(widths) != 1:
        return []
    paths = np.array([s.path for s in members])
    scale = np.maximum(paths.std((0, 1)), _TINY)
    flat = ((paths - paths.mean((0, 1))) / scale).reshape(len(members), -1)
    lengths = np.array([s.length for s in members])
    found = []
    for j in range(1, len(members)):
        distance = np.sqrt(np.mean((flat[:j] - flat[j]) ** 2, axis=1))
        alike = (distance < _NEAR) & (abs(lengths[:j] - lengths[j]) <= 0.1 * lengths[j])
        if alike.any():
            found.append((members[int(alike.argmax())], members[j]))
    return found
