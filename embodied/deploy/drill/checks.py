"""What must hold in every session of a drill, whatever goes wrong in it."""

from __future__ import annotations

import numpy as np

from embodied.deploy.clock import SECOND
from embodied.deploy.drill.bench import Bench
from embodied.deploy.limits import Array, Limits
from embodied.deploy.watchdog import State

_SLACK = 1e-6  # of a limit; the driver's numbers are rounded


def motion_problems(bench: Bench) -> list[str]:
    """Commands that break a limit, are not finite, or come too soon after one another."""
    found = []
    for times, commands in _segments(bench):
        found += limit_problems(commands, bench.limits, bench.loop.period / SECOND)
        gaps = np.diff(times)
        if len(gaps) and gaps.min() < 0.5 * bench.loop.period:
            found.append(f"two commands within {gaps.min() / 1e6:.1f} ms: a burst")
    return found


def limit_problems(commands: Array, limits: Limits, dt: float) -> list[str]:
    """Which limits commands (n, A), dt apart, break."""
    if not np.isfinite(commands).all():
        return ["a command is not finite"]
    velocity = np.diff(commands, axis=0) / dt
    acceleration = np.diff(velocity, axis=0) / dt
    worst = {
        "position": np.maximum(limits.low - commands, commands - limits.high)
        / (limits.high - limits.low),
        "velocity": np.abs(velocity) / limits.velocity - 1,
        "acceleration": np.abs(acceleration) / limits.acceleration - 1,
    }
    found = [
        f"a command is {over.max():.2g} of the limit beyond its {name}"
        for name, over in worst.items()
        if over.size and over.max() > _SLACK
    ]
    if limits.box is not None and not limits.box.contains(commands):
        found.append("a commanded pose is outside the box")
    return found


def _segments(bench: Bench) -> list[tuple[Array, Array]]:
    """Commands between one arming and the next: each motion begins where the robot is."""
    armed = [x.time for x in bench.loop.watchdog.changes if x.after is State.ARMED]
    found = []
    for begin, end in zip(armed, [*armed[1:], 2**62], strict=True):
        rows = [(time, values) for time, values in bench.tap.sent if begin <= time < end]
        if rows:
            times = np.array([row[0] for row in rows])
            found.append((times, np.stack([row[1] for row in rows])))
    return found


def state_problem(bench: Bench, seconds: float, *wanted: State) -> list[str]:
    """Whether another state than the wanted ones reigned at a time."""
    found = bench.state_at(seconds)
    names = " or ".join(wanted)
    return [] if found in wanted else [f"at {seconds:.2f} s it was {found}, not {names}"]
