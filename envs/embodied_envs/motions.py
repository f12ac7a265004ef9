"""Motions about a block, some of them never demonstrated: what a sketch tells and words do not.

A faithful miniature of the evaluation of RT-Trajectory (Gu et al. 2024, arXiv:2311.01977, Sec. 4):
known pieces in motions that are new, in one scene, whose images do not tell which one is meant.
Departures: a finger on rails instead of an arm with a gripper, so nothing is grasped; "lift" and
"pass" are of the finger. Heights are told as in the paper: from the camera, some low motions and
some high ones look the same.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from embodied.suites import Expert, Hand, Texts
from embodied_envs.catalogue import TaskFacts
from embodied_envs.motions_scene import (
    DIRECTIONS,
    STATE_DIM,
    Kind,
    Motion,
    MotionExpert,
    MotionScene,
)
from embodied_envs.options import check_choice
from embodied_envs.scene import RATE_HZ
from embodied_envs.simulated import SimulatedSuite
from embodied_envs.simulated_env import Simulator

MAX_STEPS = 100
CAMERAS = ("front", "top")
Split = Literal["seen", "held_out", "crossed", "crossed_held_out"]
TWINS: tuple[Kind, ...] = ("pass", "behind", "lift", "retreat")  # two pairs that look alike
# Each kind is seen, each side, and both of two motions that look alike; not each kind on each side.
SEEN = (
    Motion("push", "right"),
    Motion("push", "away"),
    Motion("push", "left"),
    Motion("push", "toward"),
    Motion("pass", "right"),
    Motion("behind", "right"),
    Motion("lift", "left"),
    Motion("retreat", "left"),
)
HELD_OUT = (
    Motion("push", "away-right"),
    Motion("push", "toward-left"),
    Motion("pass", "left"),
    Motion("behind", "left"),
    Motion("lift", "right"),
    Motion("retreat", "right"),
)
# All kinds in all directions but few, of which a flat sketch tells only where and words, in the
# combinations that they are known from, mostly how. Two that look alike are held out together.
_ASIDE = ("right", "away-right", "away-left", "left", "toward-left", "toward-right")
CROSSED_HELD_OUT = (
    *(Motion(kind, way) for kind in ("pass", "behind") for way in ("left", "away-right")),
    *(Motion(kind, way) for kind in ("lift", "retreat") for way in ("right", "away-left")),
    Motion("push", "away-right"),
    Motion("push", "toward-left"),
)
CROSSED = tuple(
    motion
    for motion in (
        *(Motion("push", way) for way in DIRECTIONS),
        *(Motion(kind, way) for kind in TWINS for way in _ASIDE),
    )
    if motion not in CROSSED_HELD_OUT
)
_SPLITS: Mapping[str, Mapping[str, Motion]] = {
    split: {f"{motion.kind}-{motion.direction}": motion for motion in motions}
    for split, motions in (
        ("seen", SEEN),
        ("held_out", HELD_OUT),
        ("crossed", CROSSED),
        ("crossed_held_out", CROSSED_HELD_OUT),
    )
}
_SIDES = {"away": "far", "toward": "near"}
_WHERE = {"right": "to the right", "left": "to the left", "away": "away", "toward": "towards you"}
_TRAINED: Mapping[str, tuple[str, ...]] = {
    "push": ("push the block {to}", "shove the block {to}", "move the block {to} by pushing it"),
    "pass": ("pass over the block {to}", "cross above the block {to}", "fly over the block {to}"),
    "behind": (
        "slide along the table behind the block {to}",
        "go behind the block {to}",
        "move {to} along the table, behind the block",
    ),
    "lift": (
        "come down beside the block, at its {side}, and rise straight up",
        "from the {side} of the block go straight up",
        "rise straight up at the {side} of the block",
    ),
    "retreat": (
        "come down beside the block, at its {side}, and draw straight back",
        "from the {side} of the block go straight back along the table",
        "draw straight back at the {side} of the block",
    ),
}
_NEW: Mapping[str, str] = {
    "push": "give the block a push {to}",
    "pass": "travel {to} high above the block",
    "behind": "travel {to} low behind the block",
    "lift": "go up vertically next to the {side} face of the block",
    "retreat": "go backwards on the table next to the {side} face of the block",
}


@dataclass(frozen=True)
class Motions(SimulatedSuite):
    """Push a block, pass over it or behind it, rise or draw back beside it.

    Goal i of a benchmark seed is a place of the block and of the finger, the same for all tasks.
    Actions are (3,), the displacement of the finger's target in units of 3 cm, in [-1, 1]; for the
    state see `MotionScene`. Episodes are truncated after 100 steps, which are 10 s. See
    `SimulatedSuite` for the other fields.

    Attributes:
        tasks: all of the split's, where none is named.
        split: "seen" has the motions to be demonstrated, "held_out" new ones: diagonal pushes, and
            the other side of what was seen on one side alone. "crossed" has every kind in most
            directions, "crossed_held_out" the kinds in those directions that are left.
        cameras: any of `CAMERAS`, or their numbers.
        detours: whether experts take detours on their way to the block, so that there is more to
            learn than a path for each motion.
        terminates: whether an episode ends with its motion, wherever within reach of the last
            waypoint that is. Where it does not, demonstrations go on to that waypoint and rest
            there, so that who stays a little behind what he is shown is not a little short of it.
    """

    library: ClassVar[str] = "motions"
    camera_names: ClassVar[tuple[str, ...]] = CAMERAS

    tasks: tuple[str, ...] = ()
    split: Split = "seen"
    cameras: tuple[int | str, ...] = ("front",)
    image_size: tuple[int, int] = (64, 64)
    detours: bool = True
    terminates: bool = True

    def __post_init__(self) -> None:
        check_choice("split", self.split, get_args(Split))
        if not self.tasks:
            object.__setattr__(self, "tasks", tuple(_SPLITS[self.split]))
        super().__post_init__()

    @property
    def name(self) -> str:
        ways = "" if self.detours else "/straight"
        return f"motions/{self.split}{ways}" + ("" if self.terminates else "/resting")

    @property
    def hand(self) -> Hand:
        """The fingertip."""
        return Hand()

    def catalogue(self) -> Mapping[str, TaskFacts]:
        """The motions of the split; success is that one is done."""
        return _catalogue(self.split)

    def open_simulator(self, task: str) -> MotionScene:
        """The scene, judged by the motion."""
        return MotionScene(_SPLITS[self.split][task], terminates=self.terminates)

    def change_task(self, simulator: Simulator, task: str) -> Simulator:
        """The same simulator: one scene serves all motions."""
        assert isinstance(simulator, MotionScene)
        simulator.motion = _SPLITS[self.split][task]
        return simulator

    def expert(self, task: str, *, seed: int = 0) -> Expert:
        """Takes the state (S,); the seed draws its way to the block."""
        check_choice("task", task, self.tasks)
        return MotionExpert(_SPLITS[self.split][task], seed=seed, detours=self.detours)


@functools.cache
def _catalogue(split: str) -> Mapping[str, TaskFacts]:
    return {
        name: TaskFacts(
            state_dim=STATE_DIM,
            action_dim=3,
            rate_hz=RATE_HZ,
            max_steps=MAX_STEPS,
            measure="result",
            threshold=1.0,
            texts=_texts(motion),
        )
        for name, motion in _SPLITS[split].items()
    }


def _texts(motion: Motion) -> Texts:
    """The wordings of a motion."""
    to = " and ".join(_WHERE[word] for word in motion.direction.split("-"))
    names = {"to": to, "side": _side(motion.direction)}
    canonical, *others = (text.format(**names) for text in _TRAINED[motion.kind])
    return Texts(canonical, tuple(others), (_NEW[motion.kind].format(**names),))


def _side(direction: str) -> str:
    """Of the block: a side, or "far left corner"."""
    *depth, side = direction.split("-")
    return " ".join([*(_SIDES[word] for word in depth), side, *("corner" for _ in depth)])
