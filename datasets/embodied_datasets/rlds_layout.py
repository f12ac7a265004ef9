"""Which features of an RLDS set make up state, action, images and the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embodied_datasets.budget import damaged
from embodied_datasets.rlds_features import STEPS, Leaf

_STATES = ("observation/state", "observation/proprio")
_TEXTS = ("language_instruction", "observation/natural_language_instruction")
_MARKS = ("is_first", "is_last", "is_terminal")


@dataclass(frozen=True)
class Layout:
    """Which features make up what: names without "steps/"."""

    state: Sequence[str]
    action: Sequence[str]
    text: str | None
    cameras: Mapping[str, str]
    extras: Sequence[str]


def width(leaf: Leaf) -> int:
    """Numbers in one step's value."""
    return int(np.prod(leaf.shape, dtype=np.int64))


def choose_features(
    root: Path,
    leaves: Mapping[str, Leaf],
    state: Sequence[str] | None,
    action: Sequence[str] | None,
) -> Layout:
    """What makes up state, action and cameras; `state` and `action` overrule what is usual.

    Raises DataError where there is no action, or not what is asked for.
    """
    steps = {n.removeprefix(STEPS): leaf for n, leaf in leaves.items() if n.startswith(STEPS)}
    numbers = [name for name, leaf in steps.items() if leaf.kind == "number"]
    chosen = state or [name for name in _STATES if name in numbers][:1]
    if state is None and not chosen:
        chosen = sorted(name for name in numbers if _is_state(name, steps[name]))
    acted = action or (["action"] if "action" in numbers else [])
    if action is None and not acted:
        acted = sorted(name for name in numbers if name.startswith("action/"))
    unknown = sorted({*chosen, *acted} - set(numbers))
    if unknown or not acted:
        message = f"has no {unknown or 'action'} among {numbers}; name features with action, state"
        raise damaged(root, message, field="steps")
    images = [name for name, leaf in steps.items() if _is_camera(leaf)]
    used = {*chosen, *acted, *_MARKS, "reward"}
    texts = [name for name in _TEXTS if name in steps and steps[name].kind == "text"]
    extras = [name for name in numbers if name not in used]
    return Layout(chosen, acted, texts[0] if texts else None, _cameras(images), extras)


def _is_state(name: str, leaf: Leaf) -> bool:
    vector = leaf.dtype.kind == "f" and len(leaf.shape) == 1
    return name.startswith("observation/") and vector and "embedding" not in name


def _is_camera(leaf: Leaf) -> bool:
    colours = len(leaf.shape) == 3 and leaf.shape[2] in (1, 3, 4)
    return leaf.kind == "image" and colours and leaf.dtype == np.uint8


def _cameras(paths: Sequence[str]) -> dict[str, str]:
    """Camera -> feature; the last part of its name, or all of it where that is not enough."""
    short = [path.rpartition("/")[2] for path in paths]
    named = short if len(set(short)) == len(short) else [path.replace("/", ".") for path in paths]
    return dict(zip(named, paths, strict=True))
