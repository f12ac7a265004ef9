"""What a normaliser makes of a data set: what is clipped, constant, far off, or has no statistics.

Without a checkpoint the statistics are the set's own, `meta/stats.json`, as LeRobot's policies use
them: mean and standard deviation for states, extremes for actions. Those of formats that store none
are computed from the data. With a checkpoint they are the policy's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episodes
from embodied_datasets import lerobot_schema
from embodied_datasets.checking.common import is_table, listed, rows
from embodied_datasets.faults import Fault
from embodied_datasets.files import read_json
from embodied_datasets.formats import open_episodes

Floats = NDArray[np.float64]

_FAR = 10.0
"""Normalised values beyond this lie far outside what a network was trained on."""
_CONSTANT = 1e-4
"""As in `embodied.normalize`: dimensions that vary less are not scaled."""
_CLIPPED = 0.05
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Transform:
    """A normaliser as it stands in a checkpoint or a file.

    Attributes:
        key: where it was found.
        kind: "zscore", (x - a) / b, or "minmax", [a, b] to [-1, 1].
        a, b: mean and standard deviation, or low and high, each (D,).
    """

    key: str
    kind: str
    a: Floats
    b: Floats

    def __call__(self, values: Floats) -> Floats:
        """Values (N, D) as the policy sees them; dimensions that do not vary are not scaled."""
        zscore = self.kind == "zscore"
        centre = self.a if zscore else (self.a + self.b) / 2
        scale = self.b if zscore else (self.b - self.a) / 2
        return np.asarray((values - centre) / np.where(scale < _CONSTANT, 1.0, scale))


@dataclass(frozen=True)
class Row:
    """One field under one transform.

    Attributes:
        clipped: share of numbers beyond the limits of a min-max transform, which a policy cuts.
        far: share of numbers beyond 10 after the transform.
        low, high: extremes after the transform, over all dimensions.
        constant: dimensions that do not vary in the data.
        off: dimensions whose spread after the transform is below 1/10 or above 10.
    """

    field: str
    key: str
    kind: str
    clipped: float
    far: float
    low: float
    high: float
    constant: tuple[int, ...]
    off: tuple[int, ...]


@dataclass(frozen=True)
class NormReport:
    """All fields, and what is wrong with their statistics."""

    path: Path
    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "faults": [str(fault) for fault in self.faults],
        }

    def as_text(self) -> str:
        lines = [f"{'field':8} {'transform':8} {'clipped':>8} {'beyond 10':>9}   range"]
        for r in self.rows:
            figures = f"{100 * r.clipped:7.2f}% {100 * r.far:8.2f}%   {r.low:.3g} to {r.high:.3g}"
            lines.append(f"{r.field:8} {r.kind:8}  {figures}  ({r.key})")
            lines += [f"  constant: dimensions {listed(r.constant)}"] if r.constant else []
            lines += [f"  badly scaled: dimensions {listed(r.off)}"] if r.off else []
        return "\n".join([*lines, *map(str, self.faults)])


def norm_report(
    path: Path,
    *,
    format: str | None = None,
    tensors: Mapping[str, NDArray[Any]] | None = None,
    **options: Any,
) -> NormReport:
    """States and actions of the set at `path` after normalisation.

    Args:
        tensors: the state dict of a policy; None takes the statistics in the set itself, or else
            computes them.
        options: what the format's reader takes.
    """
    episodes = open_episodes(path, format=format, **options)
    values = {field: _gather(episodes, field) for field in ("state", "action")}
    if tensors is not None:
        transforms = _of_policy(tensors, episodes.spec.state_dim, episodes.spec.action_dim)
    else:
        transforms = _of_set(path) if _stores_statistics(path) else _of_data(values)
    found, faults = [], []
    for field, table in values.items():
        matching = transforms.get(field, [])
        found += [_row(field, each, table) for each in matching if len(each.a) == table.shape[1]]
        faults += list(_judge(field, matching, table))
    return NormReport(path, tuple(found), tuple(faults))


def _gather(episodes: Episodes, field: str) -> Floats:
    tables = [getattr(episode, field) for episode in episodes]
    return np.concatenate([rows(table) for table in tables if is_table(table)])


def _row(field: str, transform: Transform, values: Floats) -> Row:
    normal = transform(values)
    limit = 1 + _TOLERANCE if transform.kind == "minmax" else np.inf
    constant = np.ptp(values, axis=0) < _CONSTANT
    spread = normal.std(0)
    return Row(
        field=field,
        key=transform.key,
        kind=transform.kind,
        clipped=float((abs(normal) > limit).mean()),
        far=float((abs(normal) > _FAR).mean()),
        low=float(normal.min()),
        high=float(normal.max()),
        constant=tuple(np.flatnonzero(constant).tolist()),
        off=tuple(np.flatnonzero(~constant & ((spread > 10) | (spread < 0.01))).tolist()),
    )


def _judge(field: str, transforms: list[Transform], values: Floats) -> Iterator[Fault]:
    again = "fit the statistics to the data they are used on"
    if not transforms:
        message = "has no statistics; a normaliser that lacks them may pass numbers on unchanged"
        yield Fault("E_DATA_NORM_MISSING", message, again, field=field)
    for transform in transforms:
        if len(transform.a) != values.shape[1]:
            message = f"{transform.key} has {len(transform.a)} numbers, the data {values.shape[1]}"
            yield Fault("E_DATA_NORM_SIZE", message, "choose data of the same robot", field=field)
        elif not (np.isfinite(transform.a).all() and np.isfinite(transform.b).all()):
            message = f"{transform.key} holds numbers that are not finite"
            yield Fault("E_DATA_NORM_MISSING", message, again, field=field)
        else:
            row = _row(field, transform, values)
            if row.clipped > _CLIPPED or row.far > _CLIPPED or row.off:
                yield Fault(
                    "E_DATA_NORM_FIT",
                    f"{transform.key}: {100 * row.clipped:.1f} % lie beyond the limits, "
                    f"{100 * row.far:.1f} % beyond 10; badly scaled: {listed(row.off) or 'none'}",
                    again + "; look for another unit or mode",
                    field=field,
                )


def _stores_statistics(path: Path) -> bool:
    """Whether a set is of the one format that has a place for them."""
    header = path / lerobot_schema.INFO_PATH
    if not header.is_file():
        return False
    version = read_json(header).get("codebase_version")
    return version == lerobot_schema.CODEBASE_VERSION


def _of_data(values: Mapping[str, Floats]) -> dict[str, list[Transform]]:
    """What a policy would fit to the data themselves."""
    state, action = values["state"], values["action"]
    key = "computed from the data, as none are stored"
    return {
        "state": [Transform(key, "zscore", state.mean(0), state.std(0))],
        "action": [Transform(key, "minmax", action.min(0), action.max(0))],
    }


def _of_set(path: Path) -> dict[str, list[Transform]]:
    """Of a LeRobot folder's own statistics; empty where there are none."""
    file = path / lerobot_schema.STATS_PATH
    stored = read_json(file) if file.is_file() else {}
    wanted = {
        "state": (lerobot_schema.STATE, "zscore", ("mean", "std")),
        "action": (lerobot_schema.ACTION, "minmax", ("min", "max")),
    }
    found: dict[str, list[Transform]] = {}
    for field, (name, kind, keys) in wanted.items():
        stats = stored.get(name)
        if isinstance(stats, dict) and all(key in stats for key in keys):
            a, b = (np.asarray(stats[key], np.float64).reshape(-1) for key in keys)
            found[field] = [Transform(f"{lerobot_schema.STATS_PATH}: {name}", kind, a, b)]
    return found


def _of_policy(
    tensors: Mapping[str, NDArray[Any]], state_dim: int, action_dim: int
) -> dict[str, list[Transform]]:
    """The normalisers of a policy's state dict, told apart by name, then by size.

    One of neither size is taken for the state's where no other is, since data of another robot
    must not pass for data without statistics; those of text embeddings never are.
    """
    found: dict[str, list[Transform]] = {}
    others: list[Transform] = []
    for transform in _transforms(tensors):
        size = len(transform.a)
        if "action" in transform.key or size == action_dim != state_dim:
            found.setdefault("action", []).append(transform)
        elif size == state_dim:
            found.setdefault("state", []).append(transform)
        elif "language" not in transform.key:
            others.append(transform)
    return {"state": others} | found if others else found


def _transforms(tensors: Mapping[str, NDArray[Any]]) -> Iterator[Transform]:
    """Pairs of vectors named as `embodied.normalize` names its buffers."""
    for kind, first, second in (("zscore", "mean", "std"), ("minmax", "low", "high")):
        for key, values in tensors.items():
            prefix, _, last = key.rpartition(".")
            other = tensors.get(f"{prefix}.{second}" if prefix else second)
            if last == first and other is not None and values.ndim == 1:
                a, b = (np.asarray(x, np.float64) for x in (values, other))
                yield Transform(prefix or kind, kind, a, b)
