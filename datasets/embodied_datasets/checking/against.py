"""One data set beside another, such as training beside validation data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from embodied_datasets.checking.run import Inspection
from embodied_datasets.faults import Fault


def compare(inspection: Inspection, other: Inspection) -> Iterator[Fault]:
    """What makes the sets unfit to be used together, or to judge one by the other."""
    yield from _differing_specs(inspection, other)
    yield from _shared_episodes(inspection, other)
    yield from _differing_scales(inspection, other)


def _differing_specs(inspection: Inspection, other: Inspection) -> Iterator[Fault]:
    if inspection.spec is None or other.spec is None:
        return
    for name in ("state_dim", "action_dim", "rate_hz", "cameras"):
        mine, theirs = getattr(inspection.spec, name), getattr(other.spec, name)
        if mine != theirs:
            yield Fault(
                "E_DATA_SPEC_DIFFERS",
                f"is {mine}, in {other.path} it is {theirs}",
                "map the features of one to those of the other",
                field=name,
            )


def _shared_episodes(inspection: Inspection, other: Inspection) -> Iterator[Fault]:
    known = {summary.digest: summary.index for summary in other.summaries}
    for summary in inspection.summaries:
        if summary.length and summary.digest in known:
            yield Fault(
                "E_DATA_LEAK",
                f"is episode {known[summary.digest]} of {other.path}",
                "drop it from one of the sets; a score on it says nothing",
                episode=summary.index,
                count=summary.length,
            )


def _differing_scales(inspection: Inspection, other: Inspection) -> Iterator[Fault]:
    for name in ("state", "action"):
        sizes = []
        for summaries in (inspection.summaries, other.summaries):
            tables = [s.tables[name] for s in summaries if name in s.tables]
            sizes.append([np.maximum(abs(t.low), abs(t.high)) for t in tables])
        if not all(sizes) or sizes[0][0].shape != sizes[1][0].shape:
            continue
        mine, theirs = (np.maximum(np.median(each, axis=0), 1e-9) for each in sizes)
        ratio = mine / theirs
        odd = (mine > 1e-6) & (theirs > 1e-6) & ((ratio > 300) | (ratio < 1 / 300))
        if odd.any():
            yield Fault(
                "E_DATA_SCALE",
                f"is {ratio[odd][0]:.3g} times as large as in {other.path} in dimension "
                f"{int(odd.argmax())}",
                "convert one of the sets to the units of the other",
                field=name,
            )
