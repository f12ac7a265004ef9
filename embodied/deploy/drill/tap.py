"""A simulated robot that writes down what it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from embodied.deploy.clock import Clock, VirtualClock
from embodied.deploy.faults import Faults
from embodied.deploy.limits import Array
from embodied.deploy.sim_hardware import SimHardware


class Maker(Protocol):
    """Makes the robot that is drilled, as new."""

    def __call__(self, clock: Clock, faults: Faults) -> SimHardware: ...


class Killed(BaseException):
    """The control process was killed, and cleans nothing up."""


class Tap:
    """A robot that passes everything on and writes it down.

    Attributes:
        calls: names of all calls.
        sent: (time in ns, (A,)) of all commands.
        camera: the picture that a drilled camera shows at a time; None for none.
        killed: whether whoever calls is dead.
    """

    def __init__(self, robot: SimHardware, clock: VirtualClock) -> None:
        self.robot, self._clock = robot, clock
        self.calls: list[str] = []
        self.sent: list[tuple[int, Array]] = []
        self.camera: Callable[[int], Any] | None = None
        self.killed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.robot, name)

    @property
    def observation_features(self) -> Any:
        camera = {} if self.camera is None else {"drilled": np.shape(self.camera(0))}
        return {**self.robot.observation_features, **camera}

    def connect(self) -> None:
        self._call("connect")
        self.robot.connect()

    def get_observation(self) -> dict[str, Any]:
        self._call("get_observation")
        camera = {} if self.camera is None else {"drilled": self.camera(self._clock.now())}
        return {**self.robot.get_observation(), **camera}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        self._call("send_action")
        values = np.array([action[name] for name in self.robot.limits.names])
        self.sent.append((self._clock.now(), values))
        return self.robot.send_action(action)

    def stop(self) -> None:
        self._call("stop")
        self.robot.stop()

    def disconnect(self) -> None:
        self._call("disconnect")
        self.robot.disconnect()

    def _call(self, name: str) -> None:
        if self.killed:
            raise Killed
        self.calls.append(name)
