"""What a robot is, to a controller: sensing, commands, and the limits that these must keep.

Method names are those of LeRobot's `Robot` (lerobot/robots/robot.py), so that its drivers fit once
they are given limits (`Limited`), and none of it is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from embodied.deploy.limits import Limits

Features = Mapping[str, type | tuple[int, ...]]
"""Name -> `float`, or the shape of an array; `int` for the time at which something was sensed."""

TIME = ".time_ns"
"""`<source>.time_ns` of an observation: when the source was sensed, on the monotonic clock."""


@runtime_checkable
class Robot(Protocol):
    """Something that senses and moves.

    An observation is a flat dict: a float for each of `limits.names`, where those axes are now;
    arrays such as (h, w, 3) uint8 for cameras; and, where the driver knows it, the capture time of
    each source as `<source>.time_ns`, those of all floats together as `state.time_ns`. Where a time
    is missing, the moment of the call stands for it.

    Drivers may raise any exception from any method; `stop` and `disconnect` are called all the
    same, in this order, however a run ends.
    """

    @property
    def name(self) -> str: ...
    @property
    def observation_features(self) -> Features: ...
    @property
    def action_features(self) -> Features: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def rate_hz(self) -> float:
        """How often it is commanded."""
        ...

    @property
    def is_connected(self) -> bool: ...
    def connect(self) -> None: ...
    def get_observation(self) -> dict[str, Any]: ...
    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Commands each of `limits.names`, in its unit; returns what was really sent."""
        ...

    def stop(self) -> None:
        """Stands still as fast as the driver can, without being commanded further."""
        ...

    def disconnect(self) -> None: ...


class Connected:
    """A robot that is connected while a `with` block runs; stopped and disconnected after it."""

    def __enter__(self: Any) -> Any:
        self.connect()
        return self

    def __exit__(
        self: Any,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            self.disconnect()


class Driver(Protocol):
    """What LeRobot's robots offer."""

    name: str

    @property
    def observation_features(self) -> dict[str, Any]: ...
    @property
    def action_features(self) -> dict[str, Any]: ...
    @property
    def is_connected(self) -> bool: ...
    def connect(self) -> None: ...
    def get_observation(self) -> dict[str, Any]: ...
    def send_action(self, action: dict[str, Any]) -> dict[str, Any]: ...
    def disconnect(self) -> None: ...


class Limited(Connected):
    """A LeRobot robot, or a driver like it, made a `Robot`.

    Args:
        limits: in the driver's units (LeRobot's arms: degrees or percent, as they are configured).
        stop: what stops it. By default it is commanded to where it was sensed last, which such
            arms hold by themselves; use the driver's own brake where there is one.
    """

    def __init__(
        self,
        driver: Driver,
        limits: Limits,
        rate_hz: float,
        *,
        stop: Callable[[], None] | None = None,
    ) -> None:
        _check_names(limits.names, driver)
        self.driver, self.limits, self.rate_hz = driver, limits, rate_hz
        self._stop = stop or self._stay
        self._pose: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self.driver.name

    @property
    def observation_features(self) -> Features:
        return self.driver.observation_features

    @property
    def action_features(self) -> Features:
        return self.driver.action_features

    @property
    def is_connected(self) -> bool:
        return self.driver.is_connected

    def connect(self) -> None:
        self.driver.connect()

    def get_observation(self) -> dict[str, Any]:
        observation = self.driver.get_observation()
        self._pose = {name: observation[name] for name in self.limits.names}
        return observation

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        return self.driver.send_action(action)

    def stop(self) -> None:
        self._stop()

    def disconnect(self) -> None:
        self.driver.disconnect()

    def _stay(self) -> None:
        if self._pose:
            self.driver.send_action(self._pose)


def _check_names(names: Sequence[str], driver: Driver) -> None:
    for kind in ("action", "observation"):
        known = getattr(driver, f"{kind}_features")
        if missing := [name for name in names if name not in known]:
            raise ValueError(
                f"E_ROBOT_CONFIG: limits name {', '.join(missing)}, which {driver.name!r} lacks "
                f"among its {kind}_features ({', '.join(known)}); give limits the driver's names"
            )
