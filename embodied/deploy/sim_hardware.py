"""Any environment as a robot: it moves on by itself as time passes, and can misbehave.

Unlike an environment, hardware does not wait for its controller. Whenever it is called, the
environment is first brought up to the present at its own rate, with the commands that had arrived
by then, so that results on a `VirtualClock` are exact and the same each time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from embodied.deploy.clock import SECOND, Clock, MonotonicClock, to_ns
from embodied.deploy.drives import Drive
from embodied.deploy.faults import Faults, happens, within
from embodied.deploy.limits import Array, Limits
from embodied.deploy.robot import TIME, Connected, Features
from embodied.deploy.senses import STATE

_KEPT = 256  # environment steps that delayed observations can be read from


class World(Protocol):
    """What makes an environment; every suite is one."""

    @property
    def rate_hz(self) -> float: ...
    def make_env(self) -> Any: ...


class SimulatedFailure(ConnectionError):
    """A call of the driver failed, as `Faults` asked."""


class SimHardware(Connected):
    """An environment behind the interface of a `Robot`.

    When the environment's episode ends, its world stands still (`ended`).

    Args:
        name: of the robot.
        world: makes the environment: Dict observations with a (S,) `state`, and images.
        limits: of what it is commanded.
        drive: how commands become the environment's actions.
        rate_hz: how often it is commanded; None for the environment's rate.
        options: of the environment's reset, such as the task.
        seed: of the reset.
        command_timeout_s: without a command for so long, it stops by itself; None for never.
        clock: its time.
        faults: how it misbehaves.

    Attributes:
        timeouts: how often it has stopped by itself.
        ended: whether the episode is over.
        success: whether its task was solved at any step, as far as the environment says.
        stopped: whether it was stopped, and not commanded since.
    """

    def __init__(
        self,
        *,
        name: str,
        world: World,
        limits: Limits,
        drive: Drive,
        rate_hz: float | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        command_timeout_s: float | None = 0.5,
        clock: Clock | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.name, self.limits, self.drive = name, limits, drive
        self.rate_hz = float(world.rate_hz if rate_hz is None else rate_hz)
        self.clock, self.faults = clock or MonotonicClock(), faults or Faults()
        self.command_timeout_s = command_timeout_s
        self.timeouts, self.ended, self.success, self.stopped = 0, False, False, True
        self._step_ns = round(SECOND / world.rate_hz)
        self._options, self._seed = dict(options or {}), seed
        self._env = world.make_env()
        self._random = np.random.default_rng(self.faults.seed)
        self.is_connected = False
        self._calls = 0
        self._last: dict[str, Any] | None = None
        self._pending: list[tuple[int, Array]] = []  # when a command takes effect, and it
        self._command = np.zeros(len(limits.names))
        self._reset()

    @property
    def observation_features(self) -> Features:
        """The axes as floats, the environment's arrays, and when they were sensed."""
        arrays = {name: np.shape(value) for name, value in self._now.items()}
        times = {f"{name}{TIME}": int for name in self._now}
        return {**{name: float for name in self.limits.names}, **arrays, **times}

    @property
    def action_features(self) -> Features:
        return {name: float for name in self.limits.names}

    def connect(self) -> None:
        """Begins the episode, now."""
        self._calls += 1
        self._fail("connect")
        self._reset()
        self.is_connected = True

    def get_observation(self) -> dict[str, Any]:
        """What is sensed now, as late and as wrong as the faults ask."""
        self._begin_call("get_observation")
        now = self.clock.now()
        repeat = self._last is not None and happens(self.faults.drop_observations, self._random)
        if not repeat:
            self._last = self._corrupted(*self._newest_by(now))
        assert self._last is not None
        return dict(self._last)

    def send_action(self, action: Mapping[str, Any]) -> dict[str, Any]:
        """Commands the axes; what arrives of it, and when, is up to the faults."""
        command = np.array([action[name] for name in self.limits.names], np.float64)
        try:
            self._begin_call("send_action")
        except SimulatedFailure:
            half = len(command) // 2
            mixed = np.concatenate([command[:half], self._command[half:]])
            self._pending.append((self.clock.now(), mixed))
            raise
        now = self.clock.now()
        self._commanded, self.stopped = now, False
        if not happens(self.faults.drop_actions, self._random):
            delay = self.faults.action_delay.draw(self._random)
            self._pending.append((now + delay, command))
            if happens(self.faults.duplicate_actions, self._random):
                self._pending.append((now + delay + round(1.5 * SECOND / self.rate_hz), command))
        return dict(action)

    def stop(self) -> None:
        """Stands still where it is, and forgets what was commanded."""
        self._advance(self.clock.now())
        self._halt()
        self.stopped = True

    def disconnect(self) -> None:
        self.is_connected = False

    def close(self) -> None:
        """Frees the environment."""
        self._env.close()

    def _reset(self) -> None:
        self._now, _ = self._env.reset(seed=self._seed, options=self._options)
        self._start = self._time = self._commanded = self.clock.now()
        self._action = self._resting_action()
        self._command = self.drive.pose(self._state, self._action).copy()
        self._play = self._command.copy()  # where the far side of the backlash is
        self._pending, self._last = [], None
        self._frozen: Any = None
        self._seen: deque[tuple[int, int, dict[str, Any]]] = deque(maxlen=_KEPT)
        self.ended = self.success = False
        self._sense()

    @property
    def _state(self) -> Array:
        return np.asarray(self._now[STATE], np.float64)

    def _resting_action(self) -> Array:
        rest = self.limits.standstill
        return np.where(np.isfinite(rest), rest, 0.0)

    def _begin_call(self, name: str) -> None:
        if not self.is_connected:
            raise ConnectionError(f"{self.name} is not connected: call connect first")
        self._calls += 1
        if within(self.faults.slow, self.clock.now() - self._start):
            self.clock.sleep_until(self.clock.now() + to_ns(self.faults.slow_s))
        self._advance(self.clock.now())
        self._fail(name)

    def _fail(self, name: str) -> None:
        if self.faults.fails(self._calls):
            raise SimulatedFailure(f"{self.name}: {name} failed at call {self._calls}, as asked")

    # The world

    def _advance(self, now: int) -> None:
        """Steps the environment until the present."""
        while self._time + self._step_ns <= now:
            self._time += self._step_ns
            self._take_commands()
            if self.command_timeout_s is not None and not self.stopped:
                self._watch(self.command_timeout_s)
            if not self.ended:
                self._step()

    def _take_commands(self) -> None:
        due = sorted((each for each in self._pending if each[0] <= self._time), key=lambda x: x[0])
        self._pending = [each for each in self._pending if each[0] > self._time]
        if due:
            self._command = due[-1][1]

    def _watch(self, timeout_s: float) -> None:
        if self._time - self._commanded > to_ns(timeout_s):
            self._halt()
            self.timeouts, self.stopped = self.timeouts + 1, True

    def _halt(self) -> None:
        pose, rest = self.drive.pose(self._state, self._action), self.limits.standstill
        self._pending = []
        self._command = np.where(np.isfinite(rest), rest, pose)

    def _step(self) -> None:
        half = self.faults.backlash / 2
        self._play = np.clip(self._play, self._command - half, self._command + half)
        self._action = self.drive.action(self._state, self._play)
        space = getattr(self._env, "action_space", None)
        if space is not None:
            self._action = np.clip(self._action, space.low, space.high)
        found = self._env.step(self._action.astype(np.float32))
        self._now, _, terminated, truncated, info = found
        self.ended = bool(terminated or truncated)
        self.success = self.success or bool(info.get("success", False))
        self._sense()

    # What is sensed of it

    def _sense(self) -> None:
        pose = self.drive.pose(self._state, self._action)
        sensed = {**dict(zip(self.limits.names, pose.tolist(), strict=True)), **self._now}
        known_at = self._time + self.faults.observation_delay.draw(self._random)
        if not within(self.faults.stuck, self._time - self._start):
            self._seen.append((self._time, known_at, sensed))

    def _newest_by(self, now: int) -> tuple[int, dict[str, Any]]:
        known = [(time, sensed) for time, known_at, sensed in self._seen if known_at <= now]
        first = self._seen[0]  # which a driver waits for while it connects
        return known[-1] if known else (first[0], first[2])

    def _corrupted(self, time: int, sensed: Mapping[str, Any]) -> dict[str, Any]:
        since, faults, names = self.clock.now() - self._start, self.faults, self.limits.names
        found = {**sensed, **{f"{name}{TIME}": time for name in self._now}}
        pose = np.array([found[name] for name in names])
        if faults.noise:
            pose = pose + self._random.normal(0.0, faults.noise, len(pose))
        if faults.quantisation:
            pose = np.round(pose / faults.quantisation) * faults.quantisation
        if within(faults.nan, since):
            pose[0] = np.nan
        found |= dict(zip(names, pose.tolist(), strict=True))
        self._film(found, frozen=within(faults.frozen, since))
        return found

    def _film(self, found: dict[str, Any], *, frozen: bool) -> None:
        """Cameras: noise on all, and the first one may be frozen."""
        cameras = [name for name, value in self._now.items() if np.ndim(value) == 3]
        for name in cameras if self.faults.camera_noise else ():
            noise = self._random.normal(0.0, self.faults.camera_noise, found[name].shape)
            found[name] = np.clip(found[name] + noise, 0, 255).astype(np.uint8)
        for name in cameras[:1]:
            self._frozen = found[name] if self._frozen is None or not frozen else self._frozen
            found[name] = self._frozen
