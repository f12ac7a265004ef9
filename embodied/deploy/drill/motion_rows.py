"""R6, R7 and R9: what a policy may ask that the robot must not do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from embodied.deploy.approach import Approach
from embodied.deploy.chunks import TimedChunk
from embodied.deploy.clock import SECOND, to_ns
from embodied.deploy.drill.bench import PERIOD_S, Bench
from embodied.deploy.drill.card import NotApplicable
from embodied.deploy.drill.checks import limit_problems, motion_problems, state_problem
from embodied.deploy.drill.policy_rows import RUNNING_S
from embodied.deploy.drill.tap import Maker
from embodied.deploy.limiter import Motion, brake, follow
from embodied.deploy.limits import Array, Limits
from embodied.deploy.mail import Seen
from embodied.deploy.watchdog import Guards, State

_EVER = Guards(max_clipped=10**6)  # a robot that is always clipped, to see only the limits


def goes_wild(make: Maker, trials: int) -> list[str]:
    """R6: random targets, one out of reach, and many walks of the limiter alone."""
    random = np.random.default_rng(6)
    bench = Bench(make)
    limits = bench.limits
    bench.at(RUNNING_S, lambda: _replace_target(bench, lambda t: _anywhere(limits, random)))
    bench.run(2.0)
    return [
        *([] if bench.loop.safety.counts.total() else ["nothing was clipped"]),
        *([] if bench.entered(State.IDLE, after=RUNNING_S) else ["the episode went on"]),
        *motion_problems(bench),
        *_corner_problems(make),
        *random_walks(limits, bench.loop.period / SECOND, rows=trials, ticks=200),
    ]


def _corner_problems(make: Maker) -> list[str]:
    """Whether it breaks a limit on its way to a corner beyond all of them; without its box, which
    would keep it away from there."""
    bench = Bench(make, guards=_EVER)
    free = replace(bench.limits, box=None)
    bench.loop.safety.limits = free
    goal = bench.limits.high + (bench.limits.high - bench.limits.low)
    bench.at(RUNNING_S, lambda: _replace_target(bench, lambda t: goal))
    bench.run(5.5)
    sent = np.stack([values for _, values in bench.tap.sent])
    return limit_problems(sent, free, bench.loop.period / SECOND)


def random_walks(limits: Limits, dt: float, *, rows: int, ticks: int, seed: int = 0) -> list[str]:
    """Commands at random targets, held for random times and braked now and then; what breaks."""
    random, width = np.random.default_rng(seed), len(limits.names)
    size = limits.high - limits.low
    start = limits.low + size * random.random((rows, width))
    motion, commands = Motion.still(start), [start]
    target = start
    for _ in range(ticks):
        fresh = random.random((rows, 1)) < 0.2
        wild = limits.low + size * random.normal(0.5, 1.0, (rows, width))
        target = np.where(fresh, wild, target)
        if random.random() < 0.1:
            motion = brake(motion, limits, dt)
        else:
            motion, _ = follow(motion, target, limits, dt)
        commands.append(motion.position)
    free = replace(limits, box=None)  # whose part is `SafetySupervisor`'s
    walks = np.stack(commands, axis=1)
    return sorted({each for walk in walks for each in limit_problems(walk, free, dt)})


def stays_in_the_box(make: Maker, trials: int) -> list[str]:
    """R7: targets all over space; no commanded pose may be outside, nor beyond the limits."""
    problems, random = [], np.random.default_rng(7)
    if Bench(make).limits.box is None:
        raise NotApplicable("the robot has no box")
    for _ in range(max(1, trials // 10)):
        bench = Bench(make, guards=_EVER)
        goal = _anywhere(bench.limits, random)
        bench.at(RUNNING_S, partial(_replace_target, bench, partial(_constant, goal)))
        bench.run(2.5)
        problems += motion_problems(bench)
    return problems


def starts_far_away(make: Maker, trials: int) -> list[str]:
    """R9: the first command is far from where the robot is; then it approaches slowly."""
    bench = Bench(make)
    limits, seen = bench.limits, Bench(make).run(0.08).mail.newest
    assert seen is not None
    pose = seen.command
    far = _far(limits, pose)
    if (np.abs(far - pose) <= limits.start_jump).all():
        raise NotApplicable("start_jump allows every first command")
    approach = Approach(pose, far, limits, time=bench.start + SECOND)
    bench.thinker.target = lambda seconds: far
    bench.at(1.0, lambda: _approach(bench, approach))
    bench.run(1.5 + approach.duration_s)
    sent = [values for _, values in bench.tap.sent]
    early = [time for time, _ in bench.tap.sent if bench.seconds(time) < 1.0]
    speeds = np.diff(sent, axis=0) * SECOND / bench.loop.period
    return [
        *(["it moved although its first command was far away"] if early else []),
        *([] if bench.loop.counts["refused starts"] else ["no start was refused"]),
        *([] if sent and approach.has_arrived(sent[-1]) else ["it did not arrive"]),
        *(["it approached fast"] if (np.abs(speeds) > 0.5 * limits.velocity).any() else []),
        *state_problem(bench, 0.95, State.ARMED),
        *motion_problems(bench),
    ]


def _far(limits: Limits, pose: Array) -> Array:
    """Where a motion may not begin: beyond `start_jump` on the axis with the most room for it."""
    up, down = limits.high - pose, pose - limits.low
    axis = int((np.maximum(up, down) / limits.start_jump).argmax())
    far = pose.copy()
    far[axis] += (1 if up[axis] >= down[axis] else -1) * min(
        1.5 * limits.start_jump[axis], max(up[axis], down[axis])
    )
    return far


def _approach(bench: Bench, approach: Approach) -> None:
    def plans(seen: Seen, request_id: int) -> TimedChunk:
        dt = to_ns(PERIOD_S / 2)
        return approach.plan(seen.time, dt=dt, horizon=20, request_id=request_id)

    bench.thinker.plans = plans


def _anywhere(limits: Limits, random: np.random.Generator) -> Array:
    size = limits.high - limits.low
    return limits.low + size * random.normal(0.5, 2.0, len(limits.names))


def _replace_target(bench: Bench, target: Callable[[float], Array]) -> None:
    bench.thinker.target = target


def _constant(goal: Array, seconds: float) -> Array:
    return goal
