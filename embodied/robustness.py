"""Robustness: a protocol's own episodes again, each time with one thing about them made harder.

Every arm runs the episodes of the unperturbed one, with the same goals and seeds, so that the
difference between the two is that of pairs: `Evaluation.difference_from`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embodied.build import instantiate
from embodied.protocols import Protocol
from embodied.suites import Assignment, Perturbation, Suite
from embodied.targets import ConfigError


@dataclass(frozen=True)
class PerturbedProtocol(Protocol):
    """A protocol whose policy is told its tasks as a perturbation tells them."""

    perturbation: Perturbation | None = None

    def assignments(self, suite: Suite) -> tuple[Assignment, ...]:
        """The protocol's episodes, goal by goal; only their instructions may differ."""
        plain = super().assignments(suite)
        if self.perturbation is None:
            return plain
        return tuple(self.perturbation.assign(each, suite.texts(each.task)) for each in plain)


def perturb(protocol: Protocol, perturbation: Perturbation) -> PerturbedProtocol:
    """The protocol with the perturbation, and its strength, in its name: figures do not mix."""
    name = f"{protocol.name}+{perturbation.label}"
    return PerturbedProtocol(**{**vars(protocol), "name": name}, perturbation=perturbation)


def arms(config: Mapping[str, Any]) -> dict[str, Perturbation]:
    """Name -> perturbation of each arm that the config's `robustness` asks for.

    Raises:
        ConfigError: an arm is no perturbation, or a probe has its name.
    """
    probes, extra = config.get("probes") or {}, config.get("allow_targets", ())
    found: dict[str, Perturbation] = {}
    for name, node in (config.get("robustness") or {}).items():
        if name in probes:
            raise ConfigError(
                f"E_CONFIG_VALUE: robustness.{name} has the name of a probe; rename one of the two"
            )
        arm = instantiate(node, extra_targets=extra) if isinstance(node, Mapping) else node
        if not isinstance(arm, Perturbation):
            raise ConfigError(
                f"E_CONFIG_VALUE: robustness.{name} must be a perturbation, such as "
                "{_target_: embodied_envs.perturbations.ActionDelay, steps: 2}, got " + repr(arm)
            )
        found[name] = arm
    return found


def check_arms(config: Mapping[str, Any], suite: Suite, protocol: Protocol) -> None:
    """Raises ValueError for an arm that the suite cannot run; opens an environment of each."""
    for perturbation in arms(config).values():
        perturb(protocol, perturbation).assignments(suite)
        perturbation.perturb(suite).make_env().close()
