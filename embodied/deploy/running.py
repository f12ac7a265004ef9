"""What `scripts/run_robot.py`, `record.py` and `teleop.py` do: sessions of a robot, one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from embodied.build import instantiate, resolve
from embodied.deploy.casting import (
    Player,
    cast_of,
    demonstrator,
    keeping_of,
    plant_of,
    policy_player,
    server_player,
)
from embodied.deploy.clock import MonotonicClock, VirtualClock
from embodied.deploy.control import Ready
from embodied.deploy.crew import Crew
from embodied.deploy.episodes import Tape
from embodied.deploy.keyboard import Keyboard, listen, single_keys
from embodied.deploy.operator import Speech
from embodied.deploy.recorder import End, Kept, keep, opened
from embodied.deploy.session import Ear, Went, run_session, run_virtually
from embodied.deploy.watchdog import Guards
from embodied.people.terminal import Phrasebook
from embodied.targets import ConfigError

Config = Mapping[str, Any]
Choose = Callable[[Config, Ready], Player]


def run_robot(config: Any) -> list[Went]:
    """A policy on a robot, with a person beside it: `episodes` sessions."""
    plain = resolve(config)
    if (plain["checkpoint"] is None) is (plain["server"] is None):
        raise ConfigError(
            "E_CONFIG_VALUE: either checkpoint or server must be given: add checkpoint=RUN, or "
            "server=ws://HOST:PORT"
        )
    player = policy_player(plain) if plain["server"] is None else server_player(plain)

    def choose(config: Config, ready: Ready) -> Player:
        player.mind.reset(config["seed"])  # type: ignore[attr-defined]  # both kinds can
        return player

    return sessions(plain, choose)


def record(config: Any) -> list[Went]:
    """Demonstrations: of the keyboard, or of a simulated world's expert."""
    plain = resolve(config)
    if plain["by"] not in ("keyboard", "expert"):
        raise ConfigError(f"E_CONFIG_VALUE: by must be keyboard or expert, got {plain['by']!r}")
    return sessions(plain, _expert if plain["by"] == "expert" else _keys)


def teleop(config: Any) -> list[Went]:
    """The keyboard, and nothing is kept."""
    return sessions(resolve(config), _keys)


def _expert(config: Config, ready: Ready) -> Player:
    return demonstrator(config)


def _keys(config: Config, ready: Ready) -> Player:
    rate_hz = ready.rate_hz
    hands = Keyboard(ready.limits, MonotonicClock(), dt_s=1 / rate_hz, speed=config["teleop_speed"])
    print(*hands.lines(), sep="\n", flush=True)
    return Player(hands, Speech(Phrasebook((), is_open=False)), rate_hz)


def sessions(config: Config, choose: Choose) -> list[Went]:
    """The sessions that a config asks for, until one fails or is interrupted.

    Args:
        choose: who plans, once the robot is known.
    """
    found = []
    for number in range(config["episodes"]):
        now = {**config, "seed": config["seed"] + number}
        if "seed" in now["robot"]:
            now["robot"] = {**now["robot"], "seed": now["robot"]["seed"] + number}
        found.append(_virtual(now, choose) if config["virtual"] else _real(now, choose))
        print(summary(found[-1]), flush=True)
        if found[-1].report.error or found[-1].report.why in ("SIGINT", "SIGTERM"):
            break
    return found


def _real(config: Config, choose: Choose) -> Went:
    with Crew(plant_of(config)) as crew, ExitStack() as stack:
        player = choose(config, crew.ready)
        keeping = keeping_of(config, player, crew.ready)
        if keeping is not None:
            crew.keep(keeping)
        cast = cast_of(config, player, crew.ready, MonotonicClock())
        keys = player.mind if isinstance(player.mind, Keyboard) else cast.hands
        stream = _stream(config, stack)
        ear: Ear | None = None
        if stream is not None and isinstance(keys, Keyboard):
            stack.enter_context(single_keys(stream))
            press = keys.press

            def ear(hear: Callable[[str], None]) -> None:
                listen(stream, press, hear)

        elif stream is not None:

            def ear(hear: Callable[[str], None]) -> None:
                _read(stream, hear)

        return run_session(crew, cast, ear=ear)


def _virtual(config: Config, choose: Choose) -> Went:
    clock, tape = VirtualClock(), Tape()
    robot = instantiate(config["robot"], extra_targets=config.get("allow_targets", ()), clock=clock)
    ready = Ready(robot.name, robot.observation_features, robot.limits, robot.rate_hz)
    player = choose(config, ready)
    keeping = keeping_of(config, player, ready)

    def end(end: End) -> Kept:
        if keeping is None:
            return Kept()
        with opened(keeping) as writer:
            return keep(tape, keeping, end, writer)

    return run_virtually(
        robot,
        clock,
        cast_of(config, player, ready, clock),
        tape,
        guards=Guards(**config["guards"]),
        mode=config["mode"],
        latency_s=config["latency_s"],
        end=end,
    )


def _stream(config: Config, stack: ExitStack) -> TextIO | None:
    """What the operator types: a file or pipe, or the keyboard where there is one."""
    if config["input"] is not None:
        return stack.enter_context(Path(config["input"]).open(encoding="utf-8"))
    return sys.stdin if sys.stdin is not None and not sys.stdin.closed else None


def _read(stream: TextIO, hear: Callable[[str], None]) -> None:
    for line in stream:
        hear(line)


def summary(went: Went) -> str:
    """What to know of a session, in a few lines."""
    report, kept = went.report, went.kept
    success = {True: "done", False: "not done", None: "nobody says whether it is done"}
    counts = ", ".join(f"{name} {count}" for name, count in report.counts.items() if count)
    lines = [
        f"{success[went.success]}; ended: {report.why}",
        f"{report.ticks} ticks, {report.lost} not recorded; {went.inferences} inferences, "
        f"{went.errors} failed; delay p95 {went.delay_s * 1e3:.0f} ms",
        f"counted: {counts or 'nothing'}",
        *(f"  {change}" for change in report.changes),
    ]
    if kept.key:
        lines.append(
            f"kept as {kept.key}: {kept.steps} steps, {kept.interventions} corrections"
            f"{f', film {kept.film}' if kept.film else ''}"
        )
    return "\n".join([*lines, *([kept.error] if kept.error else [])])
