"""Calls of a robot's driver, repeated a few times where they raise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from embodied.deploy.limits import Array
from embodied.deploy.robot import Robot
from embodied.deploy.senses import pose_of

T = TypeVar("T")


class DriverError(RuntimeError):
    """A driver failed as often as it was asked, or reports what cannot be."""


class Driver:
    """A robot whose calls may fail now and then.

    Args:
        retries: how often a call is repeated at once.
        counts: "driver errors" is counted up there.
    """

    def __init__(self, robot: Robot, retries: int, counts: Counter[str]) -> None:
        self.robot, self.retries, self.counts = robot, retries, counts

    def call(self, method: Callable[[], T]) -> T:
        """What the method returns; raises DriverError (E_ROBOT_DRIVER) where it does not."""
        for attempt in range(self.retries + 1):
            try:
                return method()
            except Exception as error:
                self.counts["driver errors"] += 1
                if attempt == self.retries:
                    raise DriverError(
                        f"E_ROBOT_DRIVER: {self.robot.name} failed {attempt + 1} times in a row: "
                        f"{error or type(error).__name__}; it is stopped and disconnected. Look at "
                        "its power, cables and limits before starting again"
                    ) from error
        raise AssertionError("the last attempt returns or raises")

    def send(self, position: Array) -> Array:
        """Commands (A,), and returns what the driver says that it sent."""
        names = self.robot.limits.names
        action = dict(zip(names, position.tolist(), strict=True))
        return self.call(lambda: self._sent(self.robot.send_action(dict(action))))

    def _sent(self, report: dict[str, float]) -> Array:
        sent = pose_of(report, self.robot.limits.names)
        if not np.isfinite(sent).all():
            raise DriverError(f"it reports to have sent {sent.tolist()}")
        return sent
