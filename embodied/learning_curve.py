"""What a curve of short evaluations says; made by `curve_point`, while a policy learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SUCCESS, RETURN = "eval/success", "eval/return"
LABELS = {
    "offline": "offline end",
    "dip": "dip at the switch",
    "last": "last",
    "best": "best",
    "regret": "regret online",
}
"""What `summarise` finds, in the words of tables."""


def points(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[int, float]]:
    """Steps and values of a measure in the rows of metrics.jsonl."""
    return [(int(row["step"]), row[name]) for row in rows if name in row]


def summaries(
    rows: Sequence[Mapping[str, float]], offline_steps: int | None
) -> dict[str, dict[str, float]]:
    """`summarise` of successes and returns, each where it was measured, by the words of tables."""
    found = {name: summarise(rows, name, offline_steps) for name in (SUCCESS, RETURN)}
    return {
        name: {LABELS[key]: each[key] for key in LABELS if key in each}
        for name, each in found.items()
        if each
    }


def summarise(
    rows: Sequence[Mapping[str, float]], name: str, offline_steps: int | None
) -> dict[str, float]:
    """What a curve says: last, best and, where the policy began to act, what that did.

    "offline" is the last value before the policy acts, "dip" how far the curve falls below it
    afterwards, "regret" the mean of 1 - value from then on, of successes.

    Args:
        rows: of metrics.jsonl.
        name: of the measure.
        offline_steps: the step at which the policy began to act; None if it never did.
    """
    curve = points(rows, name)
    if not curve:
        return {}
    values = [value for _, value in curve]
    found = {"last": values[-1], "best": max(values)}
    before = [v for step, v in curve if offline_steps is not None and step <= offline_steps]
    after = [v for step, v in curve if offline_steps is not None and step > offline_steps]
    if offline_steps and before and after:  # at step 0 nothing had been learned
        found |= {"offline": before[-1], "dip": max(0.0, before[-1] - min(after))}
    if after and name == SUCCESS:
        found["regret"] = float(np.mean([1 - value for value in after]))
    return found
