"""What may be asked on the tabletop, what its state shows, and when a task is done."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BLOCKS = ("red", "green", "blue", "yellow")
ZONES = ("orange", "purple")
SIDES = {"left": -1.0, "right": 1.0}  # signs of x
PAIRS = (("red", "blue"), ("green", "yellow"))  # the blocks of two-step tasks
STATE_DIM = 6 + 6 * len(BLOCKS) + 2 * len(ZONES) + 2

PLACED = 0.05  # m from a zone's centre at which a block lies in it; Block-Push's radius
TOUCHING = 0.07  # m between the centres of blocks that lie side by side
AT_SIDE = 0.25  # m of |x| from which a block lies at a side; rims are at 0.32
OPEN, SHUT = 0.95, 0.05  # of the drawer's range
PRESSED = 0.7  # of the button's range

Vector = NDArray[np.float64]
Kind = Literal["zone", "block", "side", "both", "sort", "drawer", "button", "play"]


@dataclass(frozen=True)
class Task:
    """What is asked.

    Attributes:
        kind: "zone", "block" and "side" bring one block somewhere; "sort" brings two blocks to a
            zone each, as told, "both" in any assignment; "play" asks for nothing.
        blocks: those to be moved.
        targets: where to: zones, a block, a side, or what becomes of the drawer; one for each
            block, but for "both".
    """

    kind: Kind
    blocks: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


PLAY = "play"
TASKS: Mapping[str, Task] = {
    **{f"push-{b}-to-{z}-zone": Task("zone", (b,), (z,)) for b in BLOCKS for z in ZONES},
    **{
        f"push-{a}-to-{b}-block": Task("block", (a,), (b,))
        for a, b in itertools.permutations(BLOCKS, 2)
    },
    **{f"push-{b}-to-{side}": Task("side", (b,), (side,)) for b in BLOCKS for side in SIDES},
    "open-drawer": Task("drawer", targets=("open",)),
    "close-drawer": Task("drawer", targets=("shut",)),
    "press-button": Task("button"),
    **{f"both-{a}-{b}": Task("both", (a, b), ZONES) for a, b in PAIRS},
    **{
        f"sort-{a}-{zones[0]}-{b}-{zones[1]}": Task("sort", (a, b), zones)
        for a, b in PAIRS
        for zones in itertools.permutations(ZONES)
    },
}


@dataclass(frozen=True)
class View:
    """The state (36,) in names; positions in m.

    In this order: the fingertip xyz and its target xyz; for each of `BLOCKS` its xy, its xy as seen
    from the fingertip, and the cosine and sine of its yaw; for each of `ZONES` its xy; how far the
    drawer is open and the button down, each in [0, 1].
    """

    finger: Vector
    target: Vector
    blocks: Mapping[str, Vector]
    zones: Mapping[str, Vector]
    drawer: float
    button: float

    @classmethod
    def of(cls, state: NDArray[np.floating[Any]]) -> View:
        """Names the numbers of a state."""
        x: Vector = np.asarray(state, np.float64)
        rows = x[6:30].reshape(-1, 6)
        zones = x[30:34].reshape(-1, 2)
        return cls(
            finger=x[:3],
            target=x[3:6],
            blocks={name: row[:2] for name, row in zip(BLOCKS, rows, strict=True)},
            zones=dict(zip(ZONES, zones, strict=True)),
            drawer=float(x[34]),
            button=float(x[35]),
        )


def parts_done(task: Task, view: View, *, margin: float = 0.0) -> tuple[bool, ...]:
    """Which parts of a task are done: one for each target, or just one.

    In "both", parts are zones that hold one of the two blocks each.

    Args:
        margin: m, or share of a range, by which more is asked; for those who aim.
    """
    if task.kind == "both":
        return zones_filled(task, view, margin=margin)
    if task.kind == "drawer":
        reach = view.drawer - OPEN if task.targets[0] == "open" else SHUT - view.drawer
        return (reach >= 0,)
    if task.kind == "button":
        return (view.button >= PRESSED,)
    pairs = zip(task.blocks, task.targets, strict=True)
    return tuple(_lies(task.kind, block, target, view, margin) for block, target in pairs)


def zones_filled(task: Task, view: View, *, margin: float = 0.0) -> tuple[bool, ...]:
    """For the best assignment of the task's two blocks to the zones, which zones hold theirs."""
    options = [
        tuple(_lies("zone", b, z, view, margin) for b, z in zip(task.blocks, zones, strict=True))
        for zones in itertools.permutations(ZONES)
    ]
    return max(options, key=sum)


def _lies(kind: Kind, block: str, target: str, view: View, margin: float) -> bool:
    place = view.blocks[block]
    if kind == "side":
        return bool(place[0] * SIDES[target] >= AT_SIDE + margin)
    goal, radius = (
        (view.blocks[target], TOUCHING) if kind == "block" else (view.zones[target], PLACED)
    )
    return bool(np.linalg.norm(place - goal) <= radius - margin)
