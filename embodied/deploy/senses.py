"""Whether an observation can be trusted: complete, finite, new, and its cameras alive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.deploy.clock import to_ns
from embodied.deploy.limits import Array
from embodied.deploy.mail import Seen
from embodied.deploy.robot import TIME, Features
from embodied.deploy.watchdog import Guards

STATE = "state"
"""The source that all floats of an observation belong to."""

Observation = Mapping[str, Any]


class Senses:
    """Judges the observations of one robot, in their order.

    Args:
        features: of the robot's observations.
    """

    def __init__(self, features: Features, guards: Guards) -> None:
        self.features = {name: kind for name, kind in features.items() if kind is not int}
        self.guards = guards
        self._frames: dict[str, Any] = {}
        self._alike: dict[str, int] = {}
        self._times: dict[str, int | None] = {}

    def problem(self, observation: Observation, now: int, *, moving: bool) -> str | None:
        """Why an observation cannot be trusted; None where it can.

        Args:
            moving: whether the robot was commanded to move since the last one.
        """
        found = (
            self.form_problem(observation)
            or self.finite_problem(observation)
            or self.age_problem(observation, now)
            or self.frozen_problem(observation, moving=moving)
        )
        return None if found is None else f"E_ROBOT_OBSERVATION: {found}"

    def forget(self) -> None:
        """What was seen before says nothing about what comes now."""
        self._frames, self._alike, self._times = {}, {}, {}

    def form_problem(self, observation: Observation) -> str | None:
        """Whether all features are there, in their shapes."""
        for name, kind in self.features.items():
            if name not in observation:
                return f"{name} is missing"
            shape = np.shape(observation[name])
            if shape != (kind if isinstance(kind, tuple) else ()):
                return f"{name} has shape {shape}, not {kind}"
        return None

    def finite_problem(self, observation: Observation) -> str | None:
        """Whether all numbers are finite."""
        for name in self.features:
            value = np.asarray(observation[name])
            if value.dtype.kind not in "fiub":
                return f"{name} is of type {value.dtype}, not numbers"
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                return f"{name} is not finite"
        return None

    def age_problem(self, observation: Observation, now: int) -> str | None:
        """Whether all sources were sensed lately."""
        for name, time in observation.items():
            limit = self.guards.observation_age_s
            if name.endswith(TIME) and not 0 <= now - time <= to_ns(limit):
                age = (now - time) / 1e6
                return (
                    f"{name.removesuffix(TIME)} is {age:.0f} ms old, and may be {limit * 1e3:.0f}"
                )
        return None

    def frozen_problem(self, observation: Observation, *, moving: bool) -> str | None:
        """Whether a camera shows the same picture again and again while the robot moves."""
        for name, kind in self.features.items():
            if not isinstance(kind, tuple) or len(kind) != 3:
                continue
            frame, last = observation[name], self._frames.get(name)
            time = observation.get(name + TIME)
            if time is not None and time == self._times.get(name):
                continue  # the camera is slower than the control loop
            self._times[name] = time
            if last is None or not np.array_equal(frame, last):
                self._alike[name] = 0
            elif moving:
                self._alike[name] += 1
            self._frames[name] = np.array(frame)
            if 0 < self.guards.frozen_frames <= self._alike[name]:
                return f"camera {name} has shown one picture {self._alike[name] + 1} times"
        return None


def sensed_at(observation: Observation, now: int) -> int:
    """When the floats of an observation were sensed, in ns; now, where the driver does not say."""
    return int(observation.get(STATE + TIME, now))


def pose_of(observation: Observation, names: Sequence[str]) -> Array:
    """(A,) where the commanded axes are."""
    return np.array([observation[name] for name in names], np.float64)


def policy_view(seen: Seen, features: Features) -> dict[str, Any]:
    """An observation as policies are given it: "state" (S,), and each camera's (h, w, 3) uint8.

    The state is the robot's own array of that name where it has one, else all its floats, in the
    order of its features, as LeRobot's recordings have them. "previous_action" is what the robot
    was commanded last, and "time_ns" when this was sensed.
    """
    values = seen.values
    state = values[STATE] if STATE in features else [values[name] for name in floats(features)]
    cameras = {name: values[name] for name in camera_sizes(features)}
    return {
        STATE: np.asarray(state, np.float32),
        **cameras,
        "previous_action": seen.command.astype(np.float32),
        "time_ns": np.int64(seen.time),
    }


def floats(features: Features) -> list[str]:
    """The names of the plain numbers among a robot's features."""
    return [name for name, kind in features.items() if kind is float]


def camera_sizes(features: Features) -> dict[str, tuple[int, int]]:
    """Camera -> (h, w)."""
    return {
        name: (kind[0], kind[1])
        for name, kind in features.items()
        if isinstance(kind, tuple) and len(kind) == 3
    }
