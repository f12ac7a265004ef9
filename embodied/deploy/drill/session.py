"""What `scripts/drill_robot.py` does: all rows on one robot, and their card."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from embodied.build import instantiate, resolve
from embodied.deploy.clock import Clock
from embodied.deploy.drill.card import Result, Row, card, run_row
from embodied.deploy.drill.rows import ROWS
from embodied.deploy.drill.tap import Maker
from embodied.deploy.faults import Faults
from embodied.deploy.sim_hardware import SimHardware, World
from embodied.targets import ConfigError


class _Kept:
    """A world whose environment is made once; sessions reset it."""

    def __init__(self, world: World) -> None:
        self.rate_hz, self._env = world.rate_hz, world.make_env()

    def make_env(self) -> Any:
        return self._env


def maker(node: Mapping[str, Any]) -> Maker:
    """What makes the robot of a config, as new, again and again."""
    node = dict(node)
    if node.get("_target_") != "embodied.deploy.sim_hardware.SimHardware":
        raise ConfigError(
            f"E_CONFIG_VALUE: robot._target_ is {node.get('_target_')!r}: a robot is drilled in "
            "simulation. Write its limits into a copy of conf/robot/kinematic.yaml"
        )
    world = _Kept(instantiate(node.pop("world")))

    def make(clock: Clock, faults: Faults) -> SimHardware:
        robot: SimHardware = instantiate(node, world=world, clock=clock, faults=faults)
        return robot

    return make


def run_rows(
    make: Maker,
    trials: int,
    names: Sequence[str] | None = None,
) -> list[Result]:
    """The rows of these names, or all."""
    return [run_row(row, make, trials) for row in _rows(names)]


def _rows(names: Sequence[str] | None) -> Sequence[Row]:
    known = {row.name: row for row in ROWS}
    if unknown := [name for name in names or () if name not in known]:
        raise ConfigError(f"E_CONFIG_VALUE: rows {unknown} are none of {', '.join(known)}")
    return ROWS if names is None else [known[name] for name in names]


@contextmanager
def _silence() -> Iterator[None]:
    """No messages about faults that are on purpose."""
    logger = logging.getLogger("embodied.deploy")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def drill(config: Any) -> int:
    """Runs the rows that a config asks for and prints the card; 0 if all were survived."""
    plain = resolve(config)
    if type(plain["trials"]) is not int or plain["trials"] < 1:
        raise ConfigError(f"E_CONFIG_VALUE: trials must be 1 or more, got {plain['trials']!r}")
    with _silence():
        results = run_rows(maker(plain["robot"]), plain["trials"], plain["rows"])
    print(f"robot {plain['robot']['name']}, simulated, in virtual time\n{card(results)}")
    return int(any(result.problems for result in results))
