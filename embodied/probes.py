"""Probes: protocols beside the main one, in the run's suite or each in a suite of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from embodied.build import ConfigError, instantiate
from embodied.protocols import Protocol
from embodied.simulators import open_envs
from embodied.suites import Suite

Config = Mapping[str, Any]


def probes(config: Config) -> dict[str, Protocol]:
    """Name -> protocol of each probe that the config asks for."""
    extra = config.get("allow_targets", ())
    nodes = config.get("probes") or {}
    return {name: instantiate(node, extra_targets=extra) for name, node in nodes.items()}


def check_protocols(config: Config, suite: Suite) -> None:
    """Draws the episodes of the protocol and of every probe; raises where they have none."""
    protocol: Protocol = instantiate(config["protocol"])
    if protocol.suite is not None:
        raise ConfigError(
            "E_CONFIG_VALUE: protocol.suite is for probes; name the suite of the main protocol as "
            "task.suite in training, and as suite in evaluation"
        )
    protocol.assignments(suite)
    for probe in probes(config).values():
        probe.assignments(probe.suite or suite)


@contextmanager
def opened(
    protocol: Protocol, suite: Suite, envs: Any, settings: Config
) -> Iterator[tuple[Suite, Any]]:
    """The protocol's suite and environments over it: the run's, or its own for as long as needed.

    Args:
        suite: the run's.
        envs: vector environments over `suite`.
    """
    if protocol.suite is None:
        yield suite, envs
    else:
        with open_envs(protocol.suite, settings) as own:
            yield protocol.suite, own
