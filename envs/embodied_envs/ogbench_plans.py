"""Which sub-task comes next on a table of OGBench: on the way to a goal, and in play."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embodied_envs.ogbench_scene import CUBE, SLIDES, Array, Scene, World

COLOURS = ("red", "blue", "orange", "green", "purple", "yellow", "magenta", "grey")
DRAWER, WINDOW = range(2)  # numbers of the slides
OPEN = (-0.16, 0.2)  # how far drawer and window are moved when open, m; closed they are at 0
IN_DRAWER = (0.33, -0.24, 0.066)  # the library's place in the open drawer, m
_NEAR = 0.03  # m at which a thing counts as where it should be; the library's success has 0.04


@dataclass(frozen=True)
class Subtask:
    """One thing to do.

    Attributes:
        kind: what is moved, and so which oracle does it.
        index: which of the cubes or buttons.
        target: (x, y, z, yaw) of a cube, the state of a button, or how far a slide is moved.
        words: what it is called.
        slack: m by which a cube may miss its target; oracles ask for 2 cm and never let go before.
    """

    kind: Literal["cube", "button", "drawer", "window"]
    index: int
    target: tuple[float, ...]
    words: str
    slack: float = 0.02


def next_for_goal(scene: Scene, world: World, random: np.random.Generator) -> Subtask | None:
    """What to do next for the scene's goal; None where nothing is left or helps."""
    if world.grid != (0, 0):
        return _next_press(scene, world)
    if world.num_slides:
        return _next_in_room(scene)
    return _next_cube(scene, world, random)


def next_in_play(
    scene: Scene, world: World, random: np.random.Generator, *, stacking: float
) -> Subtask:
    """Something at random, as the library's own play has it.

    `stacking` is the probability that a cube is put on another one rather than on the table.
    """
    if world.grid != (0, 0):
        return _press(scene, world, int(random.integers(world.num_buttons)))
    if world.num_slides and (kind := _kind_in_play(scene, random)) != "cube":
        if kind == "button":
            return _press(scene, world, int(random.integers(world.num_buttons)))
        slide = SLIDES.index(kind)
        is_open = abs(scene.slides[slide, 0]) > abs(OPEN[slide]) / 2
        return _slide(slide, 0.0 if is_open else OPEN[slide])
    return _cube_in_play(scene, world, random, stacking)


def _kind_in_play(scene: Scene, random: np.random.Generator) -> str:
    """What moves next in the scene; locked things seldom, a cube in the drawer never."""
    free = [1.0 if scene.buttons[lock, 0] else 0.25 for lock in (DRAWER, WINDOW)]
    weights = np.array([0.0 if in_drawer(scene) else 1.0, 1.0, *free])
    return str(random.choice(["cube", "button", "drawer", "window"], p=weights / weights.sum()))


def in_drawer(scene: Scene) -> bool:
    """Whether the cube of the scene lies in the drawer."""
    low = np.array([0.21, scene.slides[DRAWER, 2] - 0.27, 0.0])
    beyond = scene.cubes[0, :3] - low
    return bool(((beyond >= 0) & (beyond <= (0.24, 0.2, 0.15))).all())


def _cube_in_play(
    scene: Scene, world: World, random: np.random.Generator, stacking: float
) -> Subtask:
    free = [i for i in range(world.num_cubes) if _is_clear(scene.cubes, i)]
    cube = int(random.choice(free))
    others = [i for i in free if i != cube]
    yaw = random.uniform(0, 2 * np.pi)
    name = f"the {COLOURS[cube]} cube"
    if world.num_slides and scene.slides[DRAWER, 0] < -0.12 and random.uniform() < 0.3:
        x, y = np.array(IN_DRAWER[:2]) + random.uniform(-0.005, 0.005, 2)
        return Subtask("cube", cube, (x, y, IN_DRAWER[2], yaw), f"put {name} into the drawer")
    if others and random.uniform() < stacking:
        base = int(random.choice(others))
        x, y, z = scene.cubes[base, :3]
        words = f"put {name} on the {COLOURS[base]} cube"
        return Subtask("cube", cube, (x, y, z + CUBE, yaw), words)
    x, y = random.uniform(*world.table)
    return Subtask("cube", cube, (x, y, CUBE / 2, yaw), f"move {name}")


def _next_cube(scene: Scene, world: World, random: np.random.Generator) -> Subtask | None:
    """Moves a cube that can go to its place, or one that is in the way to a free place."""
    cubes, goals = scene.cubes[:, :3], scene.goal_cubes
    away = np.linalg.norm(cubes - goals, axis=1) > _NEAR
    clear = np.array([_is_clear(cubes, i) for i in range(len(cubes))])
    for i in sorted(np.flatnonzero(away & clear).tolist(), key=lambda i: float(goals[i, 2])):
        if not _is_taken(cubes, goals[i], i) and not away[_below(goals, i)].any():
            return Subtask("cube", i, (*goals[i].tolist(), 0.0), f"move the {COLOURS[i]} cube")
    if not away.any():
        return None
    free: list[int] = np.flatnonzero(clear).tolist()
    cube = next((i for i in free if _blocks(cubes, goals, away, i)), free[0])
    x, y = _free_place(cubes, goals, world, random)
    words = f"put the {COLOURS[cube]} cube out of the way"
    return Subtask("cube", cube, (x, y, CUBE / 2, 0.0), words)


def _is_clear(cubes: Array, cube: int) -> bool:
    """Whether nothing stands on a cube."""
    return not (_beside(cubes, cubes[cube], 0.03) & (cubes[:, 2] > cubes[cube, 2] + CUBE / 2)).any()


def _is_taken(cubes: Array, place: Array, cube: int) -> bool:
    """Whether another cube is where one is to go, or above."""
    there = _beside(cubes, place, 0.9 * CUBE) & (cubes[:, 2] > place[2] - CUBE / 2)
    there[cube] = False
    return bool(there.any())


def _below(goals: Array, cube: int) -> NDArray[np.bool_]:
    """Which cubes are to be under this one."""
    lower = goals[:, 2] < goals[cube, 2] - CUBE / 2
    return np.asarray(lower & _beside(goals, goals[cube], 0.03))


def _blocks(cubes: Array, goals: Array, away: NDArray[np.bool_], cube: int) -> bool:
    """Whether a cube is in the way of others, or stands on one that has to move."""
    others = away.copy()
    others[cube] = False
    return bool((_beside(goals, cubes[cube], 0.9 * CUBE) & others).any()) or bool(
        (_beside(cubes, cubes[cube], 0.03) & others).any()
    )


def _beside(places: Array, place: Array, distance: float) -> NDArray[np.bool_]:
    """Which places are less than a horizontal distance from one."""
    return np.asarray(np.linalg.norm(places[:, :2] - place[:2], axis=1) < distance)


def _free_place(
    cubes: Array, goals: Array, world: World, random: np.random.Generator
) -> tuple[float, float]:
    """Where a cube is in nobody's way: the best of some places."""
    tried = random.uniform(*world.table, size=(64, 2))
    taken = np.concatenate([cubes[:, :2], goals[:, :2]])
    room = np.linalg.norm(tried[:, None] - taken, axis=2).min(axis=1)
    x, y = tried[np.argmax(room)].tolist()
    return x, y


def _next_in_room(scene: Scene) -> Subtask | None:
    """The cube into the drawer first, then drawer and window, the cube on the table, the locks."""
    goal = scene.goal_cubes[0]
    away = np.linalg.norm(scene.cubes[0, :3] - goal) > _NEAR
    if goal[1] < -0.15 and not in_drawer(scene):
        if scene.slides[DRAWER, 0] > OPEN[DRAWER] + _NEAR:
            return _unlocked(scene, DRAWER, OPEN[DRAWER])
        return Subtask("cube", 0, (*IN_DRAWER, 0.0), "put the cube into the drawer", slack=0.035)
    for slide in (DRAWER, WINDOW):
        if abs(scene.slides[slide, 0] - scene.goal_slides[slide]) > 0.02:
            return _unlocked(scene, slide, float(scene.goal_slides[slide]))
    if away and not in_drawer(scene):
        return Subtask("cube", 0, (*goal.tolist(), 0.0), "move the cube")
    wrong = np.flatnonzero(scene.buttons[:, 0] != scene.goal_buttons)
    return _press_lock(scene, int(wrong[0])) if len(wrong) else None


def _unlocked(scene: Scene, slide: int, target: float) -> Subtask:
    return _slide(slide, target) if scene.buttons[slide, 0] else _press_lock(scene, slide)


def _slide(slide: int, target: float) -> Subtask:
    verb = "close" if target == 0 else "open"
    return Subtask(
        "drawer" if slide == DRAWER else "window", 0, (target,), f"{verb} the {SLIDES[slide]}"
    )


def _press_lock(scene: Scene, button: int) -> Subtask:
    state = 1.0 - float(scene.buttons[button, 0])
    return Subtask(
        "button", button, (state,), f"{'unlock' if state else 'lock'} the {SLIDES[button]}"
    )


def _press(scene: Scene, world: World, button: int) -> Subtask:
    if world.num_slides:
        return _press_lock(scene, button)
    row, column = divmod(button, world.grid[1])
    words = f"press the button in row {row + 1}, column {column + 1}"
    return Subtask("button", button, (1.0 - float(scene.buttons[button, 0]),), words)


def _next_press(scene: Scene, world: World) -> Subtask | None:
    """Of the buttons that have to be pressed, the one nearest to the gripper."""
    wrong = (scene.buttons[:, 0] != scene.goal_buttons).reshape(world.grid)
    solution = solve_lights_out(wrong)
    if solution is None or not solution.any():
        return None
    presses = np.flatnonzero(solution)
    distances = np.linalg.norm(scene.buttons[presses, 1:3] - scene.arm[:2], axis=1)
    return _press(scene, world, int(presses[np.argmin(distances)]))


def solve_lights_out(wrong: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The fewest presses that set all lights right, (rows, columns) both; None if none do.

    Pressing toggles a light and its neighbours. The presses of the first row decide all others,
    each of which must mend the light above it.
    """
    rows, columns = wrong.shape
    solutions = []
    for first in itertools.product((False, True), repeat=columns):
        lights, presses = wrong.copy(), np.zeros_like(wrong)
        for row in range(rows):
            presses[row] = first if row == 0 else lights[row - 1]
            for column in np.flatnonzero(presses[row]):
                lights[max(row - 1, 0) : row + 2, column] ^= True
                lights[row, max(column - 1, 0) : column + 2] ^= True
                lights[row, column] ^= True  # twice by now
        if not lights[-1].any():
            solutions.append(presses)
    return min(solutions, key=lambda presses: int(presses.sum()), default=None)
