"""People who show what they mean, by what an expert does in the same scene: a goal, a sketch."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.conditions import GoalImage, GoalState, Part, Sketch
from embodied.data.sketches import Camera, Trace, draw
from embodied.people.corrections import Action, Correction, Level, View
from embodied.suites import Assignment, Suite


@dataclass(frozen=True)
class Demonstration:
    """What an expert does in an episode.

    Attributes:
        state: (L, S) as a policy observes it.
        images: camera -> (L, h, w, 3) uint8.
        cameras: camera -> its matrices, where the simulator knows them.
    """

    state: NDArray[np.float32]
    images: Mapping[str, NDArray[np.uint8]]
    cameras: Mapping[str, Any]


def rehearse(suite: Suite, assignment: Assignment) -> Demonstration:
    """The suite's expert in the very episode, in an environment of its own, until it succeeds."""
    expert = suite.expert(assignment.task, seed=assignment.seed)
    options = {name: getattr(assignment, name) for name in ("task", "goal", "benchmark_seed")}
    options["instruction"] = assignment.instruction
    with closing(suite.make_env()) as env:
        observation, _ = env.reset(seed=assignment.seed, options=options)
        seen, ended = [observation], False
        for _ in range(suite.max_steps):
            view = getattr(env.unwrapped, "full_observation", observation["state"])
            observation, _, terminated, truncated, info = env.step(expert(view))
            seen.append(observation)
            ended = terminated or truncated or info["success"]
            if ended:
                break
        cameras: Mapping[str, Any] = getattr(env.unwrapped, "camera_matrices", dict)()
    rows = {name: np.stack([np.array(each[name]) for each in seen]) for name in seen[0]}
    return Demonstration(rows.pop("state").astype(np.float32), rows, cameras)


class _Shower(abc.ABC):
    """Speaks where the policy is far from the demonstration, or late.

    Args:
        columns: which numbers of the state are compared with the demonstration's.
        tolerance: distance from all its states that is let pass, in their units.
        late: steps by which the nearest state may lag behind; None: any number.
    """

    level: Level

    def __init__(
        self,
        *,
        suite: Suite,
        assignment: Assignment,
        columns: Sequence[int],
        tolerance: float,
        late: int | None = None,
    ) -> None:
        self.demonstration = rehearse(suite, assignment)
        self._columns, self._tolerance, self._late = list(columns), tolerance, late
        self._path = self.demonstration.state[:, self._columns]

    def __call__(self, view: View) -> Correction | None:
        here = np.asarray(view.observation["state"])[self._columns]
        distances = np.linalg.norm(self._path - here, axis=-1)
        nearest = int(distances.argmin())
        is_late = self._late is not None and view.step - nearest > self._late
        if distances[nearest] <= self._tolerance and not is_late:
            return None
        return Correction(self.level, tuple(self._shown(nearest)))

    def demonstrate(self, view: View) -> Action | None:
        return None

    @abc.abstractmethod
    def mistaken(self, wanted: Correction, random: np.random.Generator) -> Correction: ...
    @abc.abstractmethod
    def _shown(self, nearest: int) -> Sequence[Part]:
        """The prompt for a policy whose nearest state is that of a step of the demonstration."""


class GoalCorrector(_Shower):
    """Shows a state, or what the cameras see in it, that the demonstration comes to next.

    Args:
        ahead: how many of its steps later.
        state, images: which of the two are shown.
    """

    level = "goal"

    def __init__(
        self, *, ahead: int = 20, state: bool = True, images: bool = False, **usual: Any
    ) -> None:
        super().__init__(**usual)
        if not (state or images):
            raise ValueError("a goal needs a state, images or both, got neither")
        self._ahead, self._state, self._images = ahead, state, images

    def mistaken(self, wanted: Correction, random: np.random.Generator) -> Correction:
        """Any state of the demonstration."""
        step = int(random.integers(len(self._path)))
        return Correction(self.level, tuple(self._goal(step)))

    def _shown(self, nearest: int) -> Sequence[Part]:
        return self._goal(min(nearest + self._ahead, len(self._path) - 1))

    def _goal(self, step: int) -> list[Part]:
        images = {name: frames[step] for name, frames in self.demonstration.images.items()}
        state: list[Part] = [GoalState(self.demonstration.state[step])] if self._state else []
        return [*state, GoalImage(images)] if self._images else state


class SketchCorrector(_Shower):
    """Draws the demonstration's path from where the policy is on (RT-Trajectory,
    arXiv:2311.01977).

    Args:
        camera: in whose image.
        position: which numbers of the state are the hand's position, in m, in the frame of the
            camera's extrinsics; two leave the height at 0.
        size: (h, w) of the sketch; None: the camera's.
        matrices: of the camera, where the simulator does not know them.
        with_height: whether colours tell heights.
    """

    level = "sketch"

    def __init__(
        self,
        *,
        camera: str,
        position: Sequence[int] = (0, 1, 2),
        size: tuple[int, int] | None = None,
        matrices: Mapping[str, Any] | None = None,
        with_height: bool = True,
        **usual: Any,
    ) -> None:
        super().__init__(**usual)
        found = matrices or self.demonstration.cameras.get(camera)
        if found is None:
            raise ValueError(f"nobody knows the matrices of camera {camera!r}; give `matrices`")
        self._camera, self._size, self._with_height = Camera.of(found), size, with_height
        points = self.demonstration.state[:, list(position)].astype(np.float64)
        self._points = np.pad(points, ((0, 0), (0, 3 - points.shape[1])))

    def mistaken(self, wanted: Correction, random: np.random.Generator) -> Correction:
        """The path mirrored, left for right."""
        (part,) = wanted.parts
        assert isinstance(part, Sketch)
        return Correction(self.level, (Sketch(np.ascontiguousarray(part.image[:, ::-1])),))

    def _shown(self, nearest: int) -> Sequence[Part]:
        points = self._points[nearest:]
        pixels, _ = self._camera.project(points)
        trace = Trace(pixels, points[:, 2], self._camera.size)
        if self._size is not None:
            trace = trace.scaled((self._size[0], self._size[1]))
        return [Sketch(draw(trace, with_height=self._with_height))]
