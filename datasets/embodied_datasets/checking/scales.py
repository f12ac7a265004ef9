"""Magnitudes and motion that show only when the episodes of a set lie side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embodied.structs import Spec
from embodied_datasets.checking.common import Faults, listed
from embodied_datasets.checking.summary import Summary
from embodied_datasets.faults import Fault

_UNIT = 300.0
"""From here on a ratio of magnitudes is a unit (1000), not a habit of the operator."""
_TINY = 1e-9


def odd_scale_episodes(summaries: Sequence[Summary], spec: Spec) -> Faults:
    """Episodes larger than the median episode by a unit, in some or all dimensions."""
    for name in ("state", "action"):
        members = _with(summaries, name)
        if len(members) < 3:
            continue
        sizes = np.array([_magnitude(s, name) for s in members])
        usual = np.median(sizes, axis=0)
        moving = usual > _TINY
        ratio = sizes / np.maximum(usual, _TINY)
        for summary, size, r in zip(members, sizes, ratio, strict=True):
            odd = moving & (r > _UNIT)
            # A dimension that rarely moves may be large once; it does not dwarf all others then.
            if odd.any() and (odd[moving].all() or size[odd].max() > 10 * usual.max()):
                yield Fault(
                    "E_DATA_SCALE",
                    f"is {r[odd].max():.3g} times as large as in the other episodes in dimensions "
                    f"{listed(np.flatnonzero(odd))}; another unit (mm for m)?",
                    "convert the episode or drop it",
                    episode=summary.index,
                    field=name,
                    count=summary.length,
                )


def degrees_in_some_episodes(summaries: Sequence[Summary], spec: Spec) -> Faults:
    """Episodes whose every dimension is about 180 / pi times as large as usual."""
    for name in ("state", "action"):
        members = _with(summaries, name)
        sizes = np.array([_magnitude(s, name) for s in members]) if len(members) > 2 else None
        if sizes is None or sizes.shape[1] < 3:
            continue
        usual = np.median(sizes, axis=0)
        for summary, size in zip(members, sizes, strict=True):
            ratio = size / np.maximum(usual, _TINY)
            if (usual > _TINY).all() and ((ratio > 25) & (ratio < 130)).all():
                yield Fault(
                    "E_DATA_ANGLE_UNIT",
                    f"is {np.median(ratio):.0f} times as large as in the other episodes in all "
                    "dimensions, which looks like degrees for radians",
                    "convert the episode to radians or drop it",
                    episode=summary.index,
                    field=name,
                    count=summary.length,
                )


def odd_scale_dimensions(summaries: Sequence[Summary], spec: Spec) -> Faults:
    """One action dimension far larger than all others, which move as well."""
    members = _with(summaries, "action")
    if not members:
        return
    sizes = np.median([_magnitude(s, "action") for s in members], axis=0)
    order = np.sort(sizes)
    if len(order) >= 3 and order[-1] > _UNIT * order[-2] > _UNIT * _TINY:
        yield Fault(
            "E_DATA_SCALE_DIMENSION",
            f"dimension {int(sizes.argmax())} reaches {order[-1]:.3g}, every other at most "
            f"{order[-2]:.3g}; is it in another unit?",
            "convert the dimension, or confirm its unit",
            severity="warning",
            field="action",
            count=sum(s.length for s in members),
        )


def constant_dimensions(summaries: Sequence[Summary], spec: Spec) -> Faults:
    for name in ("state", "action"):
        members = _with(summaries, name)
        if not members or sum(s.length for s in members) < 2:
            continue
        low = np.min([s.tables[name].low for s in members], axis=0)
        high = np.max([s.tables[name].high for s in members], axis=0)
        still = np.flatnonzero(high - low <= 1e-7 * np.maximum(1, abs(high)))
        if len(still):
            yield Fault(
                "E_DATA_CONSTANT",
                f"never changes in dimensions {listed(still)}",
                "leave them out, or look whether a sensor was unplugged",
                severity="warning",
                field=name,
                count=len(still),
            )


def still_grippers(summaries: Sequence[Summary], spec: Spec) -> Faults:
    """A part of the state that is named after a gripper and never moves."""
    members, start = _with(summaries, "state"), 0
    for part, size in spec.state_parts.items():
        where = slice(start, start + size)
        start += size
        if "grip" in part.lower() and members:
            low = np.min([s.tables["state"].low[where] for s in members], axis=0)
            high = np.max([s.tables["state"].high[where] for s in members], axis=0)
            if (high - low <= 1e-6).all():
                yield Fault(
                    "E_DATA_GRIPPER",
                    "never moves in any episode",
                    "look whether it was connected; nothing is grasped in these data",
                    severity="warning",
                    field=part,
                    count=sum(s.length for s in members),
                )


def jumps(summaries: Sequence[Summary], spec: Spec) -> Faults:
    """A step far above all others of its episode and of every other episode.

    Contacts and switches make single large steps too; in other episodes they do so as well.
    """
    members = [s for s in _with(summaries, "state") if s.length >= 10]
    if len(members) < 3:
        return
    tables = [s.tables["state"] for s in members]
    order = np.sort([t.step for t in tables], axis=0)
    for summary, table in zip(members, tables, strict=True):
        others = np.where(table.step == order[-1], order[-2], order[-1])
        odd = (table.step > 20 * table.usual) & (table.step > 10 * others) & (others > _TINY)
        for dim in np.flatnonzero(odd)[:1]:
            yield _jump(summary, int(dim), float(others[dim]), int(odd.sum()))


def _jump(summary: Summary, dim: int, others: float, count: int) -> Fault:
    table = summary.tables["state"]
    returns = bool(table.spike[dim] > 0.5 * table.step[dim])
    return Fault(
        "E_DATA_SPIKE" if returns else "E_DATA_JUMP",
        f"dimension {dim} {'leaves for one frame' if returns else 'jumps'} by "
        f"{table.step[dim]:.4g}; no other episode steps further than {others:.4g}",
        "interpolate the frame, or drop the episode"
        if returns
        else "split the episode there, or drop it; look for a reset or a hand-over",
        episode=summary.index,
        frame=int(table.spike_at[dim] if returns else table.at[dim] + 1),
        field="state",
        count=count,
    )


def clipped_actions(summaries: Sequence[Summary], spec: Spec) -> Faults:
    """Actions that rest at a bound most of the time, grippers and switches left out."""
    members = _with(summaries, "action")
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    if not members or len(low) != len(members[0].tables["action"].low):
        return
    tables = [s.tables["action"] for s in members]
    at_bound = sum(
        t.at_low * np.isclose(t.low, low) + t.at_high * np.isclose(t.high, high) for t in tables
    )
    switch = np.all([t.few for t in tables], axis=0) | (high - low <= _TINY)
    share = at_bound / sum(s.length for s in members)
    clipped = np.flatnonzero((share > 0.5) & ~switch)
    if len(clipped):
        yield Fault(
            "E_DATA_CLIPPED",
            f"lies at its bounds in {100 * share[clipped].max():.0f} % of all steps in dimensions "
            f"{listed(clipped)}",
            "look whether commands were cut off; record what was executed",
            severity="warning",
            field="action",
            count=int(np.max(at_bound)),
        )


def _with(summaries: Sequence[Summary], name: str) -> list[Summary]:
    """The episodes whose table `name` is sound and as wide as the first such."""
    members = [s for s in summaries if name in s.tables and s.length]
    width = len(members[0].tables[name].low) if members else 0
    return [s for s in members if len(s.tables[name].low) == width]


def _magnitude(summary: Summary, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    table = summary.tables[name]
    return np.maximum(abs(table.low), abs(table.high))
