"""The tabletop in MuJoCo: where things lie at the start, what is seen, and what is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied_envs.scene import Scene
from embodied_envs.simulated_env import Transition
from embodied_envs.tabletop_tasks import (
    BLOCKS,
    PRESSED,
    ZONES,
    Task,
    Vector,
    View,
    parts_done,
    zones_filled,
)

FIRST, SECOND = 0.49, 0.51  # rewards for the parts of a two-step task, as in Block-Push
STAYS = 0.06  # m by which a block may move that another is brought to
LAMP = {False: (0.55, 0.12, 0.12, 1.0), True: (1.0, 0.72, 0.25, 1.0)}

_BLOCK_AREA = ((-0.19, -0.20), (0.19, 0.06))  # m, of the centres at the start
_ZONE_AREA = ((-0.22, -0.19), (0.22, 0.05))
_FINGER_AREA = ((-0.25, -0.22), (0.25, 0.16))
_HEIGHT = 0.1  # m of the fingertip at the start
_BETWEEN_BLOCKS = 0.12  # m, least distances at the start
_BETWEEN_ZONES = 0.20
_BLOCK_FROM_ZONE = 0.09
_OPENINGS = (0.3, 0.7)  # of the drawer's range at the start


class TabletopScene(Scene):
    """One task on the tabletop; arrangements do not depend on it, so that they tell nothing.

    Episodes terminate with the task. The reward is 1 once, when the task is done; in two-step tasks
    0.49 when the first block enters a zone and 0.51 when both lie in different ones, in any
    assignment. Info holds `result`, the share of the task's parts that are done.

    Attributes:
        task: what is judged; may be replaced before a reset.
    """

    file = "tabletop.xml"
    bounds = ((-0.31, -0.27, 0.006), (0.31, 0.31, 0.14))
    start = (0.0, -0.2, _HEIGHT)

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self._blocks = np.array([self._address(f"{name}-block") for name in BLOCKS])
        self._zones = [int(self.model.body(f"{name}-zone").mocapid[0]) for name in ZONES]
        joints = [self.model.joint(name) for name in ("drawer", "button")]
        self._sliders = np.array([joint.qposadr[0] for joint in joints])
        self._ranges = np.array([joint.range[1] for joint in joints])
        self._lamp = self.model.geom("button").id
        self._reward = 0.0
        self._start: Mapping[str, Vector] = {}

    def _place_finger(self, tip: Vector) -> None:
        self._target = tip
        self.data.qpos[self._rails] = self.data.ctrl[self._motors] = tip

    def _address(self, joint: str) -> int:
        return int(self.model.joint(joint).qposadr[0])

    def arrange(self, random: np.random.Generator) -> None:
        """Puts finger, blocks, zones and drawer at random places."""
        self._place_finger(np.array([*random.uniform(*_FINGER_AREA), _HEIGHT]))
        zones = _spread(random, len(ZONES), _ZONE_AREA, _BETWEEN_ZONES)
        blocks = _spread(
            random, len(BLOCKS), _BLOCK_AREA, _BETWEEN_BLOCKS, away=zones, far=_BLOCK_FROM_ZONE
        )
        self.data.mocap_pos[self._zones, :2] = zones
        yaws = random.uniform(-np.pi, np.pi, len(BLOCKS)) / 2
        for address, place, half in zip(self._blocks, blocks, yaws, strict=True):
            self.data.qpos[address : address + 2] = place
            self.data.qpos[address + 3 : address + 7] = np.cos(half), 0.0, 0.0, np.sin(half)
        self.data.qpos[self._sliders] = random.uniform(*_OPENINGS) * self._ranges[0], 0.0
        self._reward = 0.0
        self._start = View.of(self.observe()).blocks
        self._show_lamp(0.0)

    def observe(self) -> NDArray[np.float64]:
        """The state (36,); `View` names its numbers."""
        qpos, finger = self.data.qpos, self.finger
        blocks = []
        for address in self._blocks:
            place = qpos[address : address + 2]
            blocks += [place, place - finger[:2], _heading(qpos[address + 3 : address + 7])]
        zones = self.data.mocap_pos[self._zones, :2].ravel()
        sliders = np.clip(qpos[self._sliders] / self._ranges, 0.0, 1.0)
        return np.concatenate([finger, self._target, *blocks, zones, sliders])

    def step(self, action: NDArray[np.float64]) -> Transition:
        """Ends with the task."""
        last = super().step(action)
        return last._replace(terminated=last.info["result"] == 1.0)

    def judge(self) -> tuple[float, Mapping[str, Any]]:
        """What the step gained, and how far the task is."""
        view = View.of(self.observe())
        self._show_lamp(view.button)
        result = float(np.mean(self._done(view)))
        gained, self._reward = self._reward, max(self._reward, self._earned(view, result))
        filled = sum(zones_filled(self.task, view)) if len(self.task.blocks) == 2 else 0
        metrics = {
            "reward": self._reward,
            "result": result,
            "blocks_placed": float(filled),
            "drawer_opening": view.drawer,
        }
        return self._reward - gained, {"result": result, "metrics": metrics}

    def _done(self, view: View) -> tuple[bool, ...]:
        done = parts_done(self.task, view) or (False,)
        if self.task.kind != "block":
            return done
        other = self.task.targets[0]
        moved = np.linalg.norm(view.blocks[other] - self._start[other])
        return (done[0] and bool(moved <= STAYS),)

    def _earned(self, view: View, result: float) -> float:
        if len(self.task.blocks) < 2:
            return float(result == 1.0)
        return (0.0, FIRST, FIRST + SECOND)[sum(zones_filled(self.task, view))]

    def _show_lamp(self, button: float) -> None:
        self.model.geom_rgba[self._lamp] = LAMP[button >= PRESSED]


def _heading(quaternion: Vector) -> Vector:
    """The cosine and sine of a yaw, (2,)."""
    w, x, y, z = quaternion
    heading = np.array([w * w + x * x - y * y - z * z, 2 * (w * z + x * y)])
    return np.asarray(heading / max(float(np.hypot(*heading)), 1e-9))


def _spread(
    random: np.random.Generator,
    count: int,
    area: tuple[tuple[float, float], tuple[float, float]],
    apart: float,
    *,
    away: Sequence[Vector] = (),
    far: float = 0.0,
) -> list[Vector]:
    """Places in an area, `apart` from one another and `far` from others; begun anew when stuck."""
    while True:
        places: list[Vector] = []
        for _ in range(30 * count):
            place = random.uniform(*area)
            if all(np.linalg.norm(place - x) >= apart for x in places) and all(
                np.linalg.norm(place - x) >= far for x in away
            ):
                places.append(place)
            if len(places) == count:
                return places
