"""A point, four coloured pads and an instruction: a world that costs microseconds per step.

The state shows where everything lies, but only the words say which pad is meant. The smallest task
that a policy deaf to language cannot solve, for tests, tutorials and the debugging of learners.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied.suites import Expert, Texts

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (214, 50, 48),
    "green": (62, 160, 75),
    "blue": (48, 98, 205),
    "yellow": (235, 190, 40),
}
TASKS = tuple(f"reach-{colour}" for colour in COLOURS)
CAMERAS = ("top",)
STEP = 0.05  # by default; the table is [-1, 1] x [-1, 1]
REACHED = 0.05  # distance at which a pad counts as reached
MARGIN = 0.9  # pads and starts lie in [-MARGIN, MARGIN]
APART = 0.3  # least distance between two pads, and of the start from any pad
_PARAPHRASES = (
    "move to the {} pad",
    "reach the {} pad",
    "head for the {} square",
    "drive over to the {} pad",
    "travel to the {} tile",
    "make your way to the {} pad",
    "please go to the {} square",
    "the {} pad is your target",
    "park on the {} pad",
    "find the {} pad and stop there",
)
_HELD_OUT = (
    "get yourself onto the {} square",
    "navigate towards the {} pad",
    "your destination is the {} tile",
)

Observations = dict[str, Any]  # of arrays; gymnasium types a Dict space so


@dataclass(frozen=True)
class PointSuite:
    """Reach the pad that the instruction names; a point moved by its velocity.

    Actions are (2,) velocities in [-1, 1]. The state is (10,): the point's xy, then the xy of the
    red, green, blue and yellow pads, in [-1, 1]. An episode terminates when the pad that the task
    names is reached, whatever the instruction says, and is truncated after `max_steps`.

    Attributes:
        tasks: any of `TASKS`.
        num_goals: how many layouts of the pads; all tasks share them.
        step: distance per axis and control step at full speed; the table is 2 wide.
        cameras: image observations; `CAMERAS` lists the choices.
        image_size: (h, w) of a camera's image in pixels.
    """

    tasks: tuple[str, ...] = TASKS
    num_goals: int = 50
    max_steps: int = 60
    rate_hz: float = 10.0
    step: float = STEP
    cameras: tuple[str, ...] = ()
    image_size: tuple[int, int] = (64, 64)

    def __post_init__(self) -> None:
        for name, choices in (("tasks", TASKS), ("cameras", CAMERAS)):
            values = tuple(getattr(self, name))
            for value in values:
                _check_choice(name, value, choices)
            object.__setattr__(self, name, values)  # a configuration file gives lists
        object.__setattr__(self, "image_size", tuple(self.image_size))

    @property
    def name(self) -> str:
        return "point"

    def texts(self, task: str) -> Texts:
        """The wordings of a task."""
        _check_choice("task", task, self.tasks)
        colour = task.removeprefix("reach-")
        return Texts(
            canonical=f"go to the {colour} pad",
            paraphrases=tuple(text.format(colour) for text in _PARAPHRASES),
            held_out=tuple(text.format(colour) for text in _HELD_OUT),
        )

    def make_env(self, *, render_size: tuple[int, int] | None = None) -> PointEnv:
        """An environment that can run every task; `render_size` is (h, w) in pixels."""
        return PointEnv(self, render_size)

    def expert(self, task: str, *, seed: int = 0) -> Expert:
        """A proportional controller: states (..., 10) to actions (..., 2)."""
        _check_choice("task", task, self.tasks)
        pad = _pad_slice(task)

        def act(state: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
            velocity = (state[..., pad] - state[..., :2]) / self.step
            return np.clip(velocity, -1.0, 1.0).astype(np.float32)

        return act


class PointEnv(gymnasium.Env[Observations, NDArray[np.float32]]):
    """The world of `PointSuite`, one episode at a time."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  gymnasium's type

    def __init__(self, suite: PointSuite, render_size: tuple[int, int] | None = None) -> None:
        self._suite = suite
        self._render_size = render_size
        self.render_mode = None if render_size is None else "rgb_array"
        spaces: dict[str, gymnasium.Space[Any]] = {
            "state": gymnasium.spaces.Box(-1.0, 1.0, (10,), np.float32)
        }
        for camera in suite.cameras:
            spaces[camera] = gymnasium.spaces.Box(0, 255, (*suite.image_size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._state = np.zeros(10, np.float32)
        self._xy = (0.0, 0.0)
        self._target = (0.0, 0.0)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Starts an episode: `seed` draws the start, `options` name the task and the layout.

        Options left out default to the suite's first task, goal 0, benchmark seed 0 and the task's
        canonical instruction.
        """
        super().reset(seed=seed)
        choice = self._checked(options or {})
        pads = _draw_pads(choice["benchmark_seed"], choice["goal"])
        start = _draw_apart(self.np_random, list(pads))
        self._state[:] = np.asarray([start, *pads], np.float32).ravel()
        self._target = pads[TASKS.index(choice["task"])]
        self._xy = start
        self._steps = 0
        return self._observation(), choice

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """Moves for one control step; the reward is minus the distance to the task's pad.

        An action that is not finite leaves the point where it is and truncates the episode.
        """
        vx, vy = np.asarray(action, np.float64).tolist()
        self._steps += 1
        stable = math.isfinite(vx) and math.isfinite(vy)
        if stable:
            step = self._suite.step
            self._xy = (_moved(self._xy[0], vx, step), _moved(self._xy[1], vy, step))
            self._state[:2] = self._xy
        distance = math.dist(self._xy, self._target)
        success = stable and distance <= REACHED
        info: dict[str, Any] = {"success": success, "unstable": not stable}
        if not stable:
            info["reason"] = f"the action is not finite: ({vx}, {vy})"
        truncated = not stable or (self._steps >= self._suite.max_steps and not success)
        return self._observation(), -distance, success, truncated, info

    def render(self) -> NDArray[np.uint8]:
        """The table from above, (h, w, 3)."""
        if self._render_size is None:
            raise ValueError("render_size is None: give make_env(render_size=(h, w)) to render")
        return draw(self._state, self._render_size)

    def _observation(self) -> Observations:
        images = {name: draw(self._state, self._suite.image_size) for name in self._suite.cameras}
        return {"state": self._state.copy(), **images}

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options of a reset, completed; raises where one is wrong."""
        for key in options:
            _check_choice("option", key, ("task", "goal", "benchmark_seed", "instruction"))
        task = options.get("task", self._suite.tasks[0])
        _check_choice("task", task, self._suite.tasks)
        goal = int(options.get("goal", 0))
        if not 0 <= goal < self._suite.num_goals:
            raise ValueError(
                f"goal must lie in [0, {self._suite.num_goals - 1}] (the suite's num_goals - 1), "
                f"got {goal}"
            )
        instruction = options.get("instruction", self._suite.texts(task).canonical)
        benchmark_seed = int(options.get("benchmark_seed", 0))
        if benchmark_seed < 0:
            raise ValueError(f"benchmark_seed must be 0 or more, got {benchmark_seed}")
        return {
            "task": task,
            "goal": goal,
            "benchmark_seed": benchmark_seed,
            "instruction": instruction,
        }


def draw(state: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The table from above with y upwards: pads as squares, the point in black; (h, w, 3)."""
    image = np.full((*size, 3), 236, np.uint8)
    for pad, colour in enumerate(COLOURS.values(), start=1):
        image[_square(state[2 * pad : 2 * pad + 2], 0.12, size)] = colour
    image[_square(state[:2], 0.06, size)] = 20
    return image


def _square(
    centre: NDArray[np.floating[Any]], half: float, size: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns of a square; at least one pixel, so that nothing vanishes."""
    x, y = float(centre[0]), float(centre[1])
    height, width = size
    top, bottom = (1 - y - half) / 2 * height, (1 - y + half) / 2 * height
    left, right = (1 + x - half) / 2 * width, (1 + x + half) / 2 * width
    return _pixels(top, bottom, height), _pixels(left, right, width)


def _pixels(low: float, high: float, length: int) -> slice:
    first = min(max(round(low), 0), length - 1)
    return slice(first, max(round(high), first + 1))


def _moved(position: float, velocity: float, step: float) -> float:
    return min(max(position + step * min(max(velocity, -1.0), 1.0), -1.0), 1.0)


def _pad_slice(task: str) -> slice:
    first = 2 * (1 + TASKS.index(task))
    return slice(first, first + 2)


def _draw_pads(benchmark_seed: int, goal: int) -> tuple[tuple[float, float], ...]:
    # The last number keeps this stream apart from that of an episode's own seed: NumPy pads seeds
    # with zeros, so that [5] and [5, 0] would draw the same numbers.
    random = np.random.default_rng([benchmark_seed, goal, 1])
    pads: list[tuple[float, float]] = []
    for _ in COLOURS:
        pads.append(_draw_apart(random, pads))
    return tuple(pads)


def _draw_apart(
    random: np.random.Generator, others: list[tuple[float, float]]
) -> tuple[float, float]:
    """A position at least `APART` from all others; five such discs never fill the table."""
    while True:
        x, y = random.uniform(-MARGIN, MARGIN, 2).tolist()
        if all(math.dist((x, y), other) >= APART for other in others):
            return x, y


def _check_choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {field} {value!r}; choose from: {', '.join(choices)}")
