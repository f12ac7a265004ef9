"""What an evaluation asks: protocol, probes, their chance levels, arms of robustness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from embodied import robustness
from embodied.build import instantiate
from embodied.evaluation import Trial
from embodied.protocols import Protocol
from embodied.suites import Suite, has_experts

Config = Mapping[str, Any]
MAIN = "evaluate"


@dataclass(frozen=True)
class Part:
    """One protocol's episodes of a suite.

    Attributes:
        name: what progress and results call it.
        obeys: the other task's scripted expert acts, which does as it is told, not the policy.
        perturbation: label of what makes the episodes harder; empty for none.
    """

    name: str
    suite: Suite
    protocol: Protocol
    obeys: bool = False
    perturbation: str = ""

    def trials(self) -> tuple[Trial, ...]:
        """Its episodes in the protocol's order."""
        rules = self.protocol.max_steps, self.protocol.success
        return tuple(Trial(each, *rules) for each in self.protocol.assignments(self.suite))


def asked(config: Config, suite: Suite) -> tuple[Part, ...]:
    """The protocol under the name `MAIN`, its probes, and their chance levels."""
    nodes = {MAIN: config["protocol"], **config.get("probes", {})}
    parts = [Part(name, suite, instantiate(node)) for name, node in nodes.items()]
    told_another = [part for part in parts[1:] if part.protocol.wording == "other"]
    experts = [_obeying(part) for part in told_another if has_experts(suite)]
    return (*parts, *experts)


def _obeying(part: Part) -> Part:
    """What the other task's expert gets in the same scenes: the chance level of obedience.

    Some tasks solve one another (who pushes a puck to a goal has also reached it), so the rate of
    a policy that does as it is told is not zero when it is told another task. Where the suite has
    no experts the chance level stays unknown.
    """
    protocol = replace(part.protocol, name=f"{part.protocol.name}-expert")
    return replace(part, name=f"{part.name}_expert", protocol=protocol, obeys=True)


def perturbed(config: Config, suite: Suite) -> tuple[Part, ...]:
    """The protocol's episodes again in each arm of `robustness`."""
    protocol: Protocol = instantiate(config["protocol"])
    return tuple(
        Part(
            name,
            perturbation.perturb(suite),
            robustness.perturb(protocol, perturbation),
            perturbation=perturbation.label,
        )
        for name, perturbation in robustness.arms(config).items()
    )
