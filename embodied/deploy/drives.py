"""How an environment's actions move what a robot is commanded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from embodied.deploy.limits import Array


class Drive(Protocol):
    """Between commands (A,) of a robot and the actions of an environment."""

    def pose(self, state: Array, action: Array) -> Array:
        """(A,) where the commanded axes are, by the environment's state and last action."""
        ...

    def action(self, state: Array, command: Array) -> Array:
        """The environment's action; what is out of its bounds is clipped later."""
        ...


class Servo:
    """A proportional-derivative controller, for robots that are commanded positions.

    Args:
        position: which numbers of the state are the positions of the axes.
        gain: action for an error of 1, for each axis; negative where actions point the other way.
        velocity: which numbers are their velocities; None where damping is not needed.
        damping: action against a velocity of 1, for each axis.
    """

    def __init__(
        self,
        position: Sequence[int],
        gain: Sequence[float],
        *,
        velocity: Sequence[int] | None = None,
        damping: Sequence[float] | None = None,
    ) -> None:
        if (velocity is None) != (damping is None):
            raise ValueError("E_ROBOT_CONFIG: a servo needs velocity and damping, or neither")
        self.position, self.gain = list(position), np.asarray(gain, np.float64)
        self.velocity = None if velocity is None else list(velocity)
        self.damping = None if damping is None else np.asarray(damping, np.float64)

    def pose(self, state: Array, action: Array) -> Array:
        return state[self.position]

    def action(self, state: Array, command: Array) -> Array:
        wanted: Array = self.gain * (command - state[self.position])
        if self.velocity is not None and self.damping is not None:
            wanted = wanted - self.damping * state[self.velocity]
        return wanted


class Direct:
    """For robots that are commanded the environment's own actions, such as velocities.

    Args:
        position: which numbers of the state are the commanded axes; None where the last action is
            all that is known of them.
    """

    def __init__(self, position: Sequence[int] | None = None) -> None:
        self.position = None if position is None else list(position)

    def pose(self, state: Array, action: Array) -> Array:
        return action if self.position is None else state[self.position]

    def action(self, state: Array, command: Array) -> Array:
        return command
