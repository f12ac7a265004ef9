"""Several data sets as one, each drawn from in the share of its weight."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from embodied.data.pieces import join
from embodied.data.windows import Windows


def mix(sets: Mapping[str, tuple[Windows, float]]) -> Windows:
    """The frames of all, one data set after another; images stay where they are.

    Args:
        sets: name -> windows over all episodes of a data set, and its weight > 0; within it all
            episodes are drawn alike.

    Raises ValueError listing the columns of all, where they differ.
    """
    parts = {name: windows for name, (windows, _) in sets.items()}
    kinds = {name: _kinds(windows) for name, windows in parts.items()}
    if len({tuple(sorted(each.items())) for each in kinds.values()}) > 1:
        raise ValueError(f"mixed data sets must have the same columns, got {kinds}")
    if bad := {name: weight for name, (_, weight) in sets.items() if not weight > 0}:
        raise ValueError(f"weights of data sets must be above 0, got {bad}")
    names = next(iter(parts.values())).columns
    counts = torch.tensor([len(each.lengths) for each in parts.values()])
    shares = torch.tensor([weight for _, weight in sets.values()], dtype=torch.float64)
    return Windows(
        {name: join([each.columns[name] for each in parts.values()]) for name in names},
        torch.cat([each.lengths for each in parts.values()]),
        *_all_texts(parts.values()),
        weights=(shares / shares.sum() / counts).repeat_interleave(counts),
        sources=tuple(parts),
        episode_source=torch.arange(len(parts)).repeat_interleave(counts),
        notes=[notes for each in parts.values() for notes in each.notes],
        scenes=[f"{name}/{scene}" for name, each in parts.items() for scene in each.scenes],
    )


def _kinds(windows: Windows) -> dict[str, str]:
    return {name: f"{x.dtype} {list(x.shape[1:])}" for name, x in windows.columns.items()}


def _all_texts(parts: Collection[Windows]) -> tuple[list[str], dict[str, list[str]]]:
    """Instructions of all episodes, and the rewordings of each in any of the data sets."""
    instructions, rewordings = list[str](), dict[str, list[str]]()
    for each in parts:
        for text in each.episode_text.tolist():
            instructions.append(each.texts[text])
            known = rewordings.setdefault(each.texts[text], [])
            known += [choice for choice in each.words.choices(text) if choice not in known]
    return instructions, rewordings
