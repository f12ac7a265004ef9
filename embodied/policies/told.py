"""What the rows of a batch see and are told: the present, and a phrase or none."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from embodied.structs import Condition, Observation


def latest(observation: Observation, count: int, spacing: int = 1) -> Observation:
    """The last `count` of the steps, `spacing` apart and ending with the present; without what was
    done between them."""
    chosen = slice(-1 - (count - 1) * spacing, None, spacing)
    steps = observation.steps
    return Observation(
        state=observation.state[:, chosen],
        images={name: images[:, chosen] for name, images in observation.images.items()},
        steps=None if steps is None else (1 + (steps - 1) // spacing).clamp(max=count),
    )


def untold(condition: Condition) -> Condition:
    """Without the phrase, which neither the phrase level nor an encoder may see."""
    present = {name: x for name, x in condition.present.items() if name != "motion"}
    return replace(condition, motion=None, present=present)


def is_told(condition: Condition, rows: int, device: torch.device) -> Tensor:
    """(B,) whether a phrase is given."""
    spoken = torch.tensor([bool(each) for each in condition.motion or ("",) * rows])
    spoken = spoken.to(device, non_blocking=True)
    present = condition.present.get("motion")
    return spoken if present is None else spoken & present


def told(condition: Condition, rows: int, device: torch.device) -> tuple[str | None, ...]:
    """The phrase given in each row; None where there is none."""
    flags = is_told(condition, rows, device).tolist()
    motion = condition.motion or ("",) * rows
    return tuple(each if flag else None for each, flag in zip(motion, flags, strict=True))
