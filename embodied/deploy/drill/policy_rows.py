"""R1 to R5 and R15: what can go wrong with a policy, and with what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from embodied.deploy.chunks import TimedChunk
from embodied.deploy.clock import SECOND
from embodied.deploy.drill.bench import ARM_S, LATENCY_S, PERIOD_S, Bench
from embodied.deploy.drill.checks import motion_problems, state_problem
from embodied.deploy.drill.tap import Maker
from embodied.deploy.instructions import MAX_CHARACTERS, Desk, says_stop
from embodied.deploy.watchdog import Event, State

RUNNING_S = ARM_S + 2 * (PERIOD_S + LATENCY_S) + 0.1  # when it runs for certain


def stalls(make: Maker, trials: int) -> list[str]:
    """R1: the policy stops at random times, and goes on a second later."""
    random, problems = np.random.default_rng(1), []
    for _ in range(trials):
        stall_s = RUNNING_S + 0.3 * random.random()
        bench = Bench(make)
        bench.at(stall_s, bench.stall)
        bench.at(stall_s + 1.0, bench.go_on)
        bench.run(stall_s + 1.5)
        problems += state_problem(bench, stall_s - 0.01, State.RUN)
        problems += _hold_problems(bench, stall_s)
        problems += state_problem(bench, stall_s + 1.4, State.RUN)
        problems += motion_problems(bench)
    return problems


def _hold_problems(bench: Bench, since_s: float) -> list[str]:
    """Whether it did not hold within expiry + one tick + 2 ms, or went on moving."""
    held = bench.entered(State.HOLD, after=since_s)
    limit = bench.loop.guards.expiry_s + bench.loop.period / SECOND + 0.002
    if held is None or held - since_s > limit:
        return [f"no hold within {limit * 1e3:.0f} ms of {since_s:.3f} s (it held at {held})"]
    stopping = float((bench.limits.velocity / bench.limits.acceleration).max()) + 0.1
    after = [(bench.seconds(time) - since_s - limit, values) for time, values in bench.tap.sent]
    braking = [values for late, values in after if 0 < late < stopping]
    standing = [values for late, values in after if stopping < late < 1.0 - limit]
    if not braking:
        return ["it was let go where it had to brake"]
    if len(standing) > 1 and not np.allclose(standing[0], standing[-1], rtol=0, atol=1e-9):
        return ["it still moved when it should have stood"]
    return []


def dies(make: Maker, trials: int) -> list[str]:
    """R2: the policy is gone, and back after more than `rearm_s`: only the operator may go on."""
    bench = Bench(make)
    rearm_s = bench.loop.guards.rearm_s
    back = RUNNING_S + bench.loop.guards.expiry_s + rearm_s + 0.1
    bench.at(RUNNING_S, bench.stall)
    bench.at(back, bench.go_on)
    bench.at(back + 0.5, lambda: bench.mail.order(Event.ARM))
    bench.run(back + 1.0)
    still = [time for time, _ in bench.tap.sent if back < bench.seconds(time) < back + 0.45]
    return [
        *_hold_problems(bench, RUNNING_S),
        *state_problem(bench, back + 0.4, State.IDLE),
        *(["it was commanded before it was armed again"] if still else []),
        *state_problem(bench, back + 0.9, State.RUN),
        *motion_problems(bench),
    ]


def replies_late(make: Maker, trials: int) -> list[str]:
    """R3: single replies come after newer ones, or when their observation is old."""
    late: set[int] = set()

    def edit(chunk: TimedChunk) -> Iterator[tuple[float, TimedChunk]]:
        delay = {0: 0.12, 5: 0.4}.get(chunk.request_id % 10, 0.0)
        if delay:
            late.add(chunk.request_id)
        yield delay, chunk

    bench = Bench(make)
    bench.thinker.edit = edit
    bench.run(2.0)
    used = late & {tick.request_id for tick in bench.executed}
    return [
        *([f"late replies were executed: {sorted(used)}"] if used else []),
        *([] if late else ["no reply was late"]),
        *state_problem(bench, 1.9, State.RUN),
        *motion_problems(bench),
    ]


def arrives_in_disorder(make: Maker, trials: int) -> list[str]:
    """R4: chunks twice, in another order, from hours ago, from the future, and too short."""
    random = np.random.default_rng(4)

    def edit(chunk: TimedChunk) -> Iterator[tuple[float, TimedChunk]]:
        yield float(random.choice([0.0, 0.0, 0.06, 0.15])), chunk
        if random.random() < 0.3:
            yield float(random.choice([0.0, 0.05, 0.3])), chunk
        if random.random() < 0.2:
            yield 0.0, replace(chunk, obs_time=chunk.obs_time + SECOND, t0=chunk.t0 + SECOND)
        if random.random() < 0.2:  # out of time before it arrives
            yield 0.0, replace(chunk, actions=chunk.actions[:1])

    bench = Bench(make)
    bench.thinker.edit = edit
    bench.run(4.0)
    return [*_order_problems(bench), *motion_problems(bench)]


def _order_problems(bench: Bench) -> list[str]:
    ran = bench.executed
    ids = [tick.request_id for tick in ran]
    ages = [tick.age for tick in ran]
    expiry = bench.loop.queue.expiry_ns
    refused = bench.loop.queue.refused
    missing = [
        reason
        for reason in ("duplicate", "out of order", "from the future", "stale", "exhausted")
        if not refused[reason]
    ]
    return [
        *(["a plan was followed by an older one"] if ids != sorted(ids) else []),
        *([f"a plan was {max(ages) / 1e6:.0f} ms old"] if ran and max(ages) > expiry else []),
        *(["a plan was of the future"] if ran and min(ages) < 0 else []),
        *([f"nothing was refused as {', '.join(missing)}"] if missing else []),
        *([] if len(ran) > 50 else [f"only {len(ran)} ticks followed a plan"]),
    ]


def bad_chunks(limits_width: int) -> dict[str, dict[str, Any]]:
    """What a chunk may be spoilt with: name -> its fields, but for actions, a way to spoil them."""
    values = {"NaN": np.nan, "infinite": np.inf, "minus infinite": -np.inf}
    found: dict[str, dict[str, Any]] = {
        f"{name} in axis {axis}": {"value": value, "axis": axis}
        for name, value in values.items()
        for axis in range(limits_width)
    }
    found |= {f"{field}={value}": {field: value} for field, value in _BAD_FIELDS}
    found |= {"an axis more": {"width": 1}, "an axis less": {"width": -1}, "text": {"dtype": "U8"}}
    found |= {"empty": {"height": 0}, "objects": {"dtype": "O"}, "whole numbers": {"dtype": "i8"}}
    return found


_BAD_FIELDS = (
    *(("dt", 0), ("dt", -1), ("dt", 0.02), ("obs_time", float("nan")), ("obs_time", -1)),
    *(("t0", "now"), ("t0", 2**63), ("request_id", None), ("instruction_id", -1)),
)


def spoil(chunk: TimedChunk, how: dict[str, Any]) -> TimedChunk:
    """A chunk whose beginning is good and that must be refused whole."""
    actions = np.array(chunk.actions)
    if "value" in how:
        actions[-1, how["axis"]] = how["value"]
    elif "width" in how:
        actions = np.concatenate([actions, actions], axis=1)[:, : actions.shape[1] + how["width"]]
    elif "dtype" in how:
        actions = actions.astype(how["dtype"])
    elif "height" in how:
        actions = actions[: how["height"]]
    else:
        return replace(chunk, **how)
    return replace(chunk, actions=actions)


def plans_nonsense(make: Maker, trials: int) -> list[str]:
    """R5: every third chunk is bad in one way; then all are."""
    bench = Bench(make)
    ways = list(bad_chunks(len(bench.limits.names)).values())
    bad: list[TimedChunk] = []
    all_bad_s = RUNNING_S + 3 * PERIOD_S * len(ways)

    def edit(chunk: TimedChunk) -> Iterator[tuple[float, TimedChunk]]:
        ending = bench.seconds(bench.clock.now()) > all_bad_s
        if ending or chunk.request_id % 3 == 0:
            chunk = spoil(chunk, ways[len(bad) % len(ways)])
            bad.append(chunk)
        yield 0.0, chunk

    bench.thinker.edit = edit
    bench.run(all_bad_s + 1.0)
    arrived = sum(any(chunk is each for each in bad) for chunk in bench.thinker.sent)
    used = {chunk.request_id for chunk in bad} & {tick.request_id for tick in bench.executed}
    counted = bench.loop.counts["bad chunks"]
    return [
        *([f"bad chunks were executed: {used}"] if used else []),
        *([f"{counted} of {arrived} bad chunks were counted"] if counted != arrived else []),
        *state_problem(bench, all_bad_s - 0.01, State.RUN),
        *_hold_problems(bench, all_bad_s + LATENCY_S + PERIOD_S),
        *motion_problems(bench),
    ]


def is_talked_to(make: Maker, trials: int) -> list[str]:
    """R15: a thousand texts of all kinds during a run, and then the word that stops it."""
    bench, desk, random = Bench(make), Desk(), np.random.default_rng(15)
    said: list[tuple[int, int]] = []

    def say() -> None:
        kinds = [
            "",
            " \n\t",
            "\x00\x1b[2J",
            "x" * 100_000,
            "move arm left",
            "b" + chr(0x202E) + "d",
        ]
        desk.say(kinds[random.integers(len(kinds))])
        said.append((bench.clock.now(), desk.current.number))

    for i in range(1000):
        bench.at(RUNNING_S + 0.002 * i, say)
    stop_s = RUNNING_S + 2.2
    if says_stop(" Stop! "):
        bench.at(stop_s, lambda: bench.mail.order(Event.STOP))
    bench.thinker.instruction = lambda: desk.current.number
    bench.run(stop_s + 0.5)
    return [
        *_word_problems(bench, said),
        *([] if len(desk.current.text) <= MAX_CHARACTERS else ["a text was not cut"]),
        *([] if desk.current.text.isprintable() else ["a text has control characters"]),
        *state_problem(bench, stop_s - 0.01, State.RUN),
        *state_problem(bench, stop_s + bench.loop.period / SECOND + 0.001, State.STOPPED),
        *motion_problems(bench),
    ]


def _word_problems(bench: Bench, said: list[tuple[int, int]]) -> list[str]:
    """Whether chunks bear other instructions than those that held when they were planned."""
    labels = [tick.instruction_id for tick in bench.executed]
    last = max(number for _, number in said)
    return [
        *(
            ["an older instruction was obeyed after a newer one"]
            if labels != sorted(labels)
            else []
        ),
        *([] if labels and labels[-1] == last else ["the last instruction was never obeyed"]),
        *([] if len(set(labels)) > 10 else ["hardly any instruction was obeyed"]),
    ]
