"""What an evaluation asks: protocol, probes, their chance levels, arms of robustness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from embodied import robustness
from embodied.build import instantiate
from embodied.evaluation import Trial
from embodied.people.live import SUFFIX
from embodied.people.simulated import Simulated
from embodied.protocols import SPOKEN, Protocol
from embodied.suites import Suite, has_experts
from embodied.targets import ConfigError

Config = Mapping[str, Any]
MAIN = "evaluate"
CORRECTED = "corrected"


@dataclass(frozen=True)
class Part:
    """One protocol's episodes of a suite.

    Attributes:
        name: what progress and results call it.
        obeys: the other task's scripted expert acts, which does as it is told, not the policy.
        perturbation: label of what makes the episodes harder; empty for none.
        people: who speaks while the policy acts; None for nobody.
    """

    name: str
    suite: Suite
    protocol: Protocol
    obeys: bool = False
    perturbation: str = ""
    people: Simulated | None = None

    def trials(self) -> tuple[Trial, ...]:
        """Its episodes in the protocol's order."""
        rules = self.protocol.max_steps, self.protocol.success
        return tuple(Trial(each, *rules) for each in self.protocol.assignments(self.suite))


def asked(config: Config, suite: Suite) -> tuple[Part, ...]:
    """The protocol under the name `MAIN`, its probes, their chance levels and, where `person` is
    given, the protocol's episodes again with people, under the name `CORRECTED`. Where a protocol
    is told in motions (`SPOKEN`), people say them in its own episodes.

    Raises:
        ConfigError: the main protocol has a suite of its own, or nobody is there to say motions.
    """
    extra = config.get("allow_targets", ())
    nodes = {MAIN: config["protocol"], **config.get("probes", {})}
    protocols = {name: instantiate(node, extra_targets=extra) for name, node in nodes.items()}
    if protocols[MAIN].suite is not None:
        raise ConfigError(
            "E_CONFIG_VALUE: protocol.suite is for probes; name the suite of the main protocol as "
            "task.suite in training, and as suite in evaluation"
        )
    parts = [_part(config, name, each.suite or suite, each) for name, each in protocols.items()]
    told_another = [part for part in parts[1:] if part.protocol.wording == "other"]
    experts = [_obeying(part) for part in told_another if has_experts(part.suite)]
    return (*parts, *experts, *_watched(config, parts[0]))


def _part(config: Config, name: str, suite: Suite, protocol: Protocol, **more: Any) -> Part:
    return Part(name, suite, protocol, people=speakers(config, suite, protocol), **more)


def speakers(config: Config, suite: Suite, protocol: Protocol) -> Simulated | None:
    """Who says the motions that a protocol tells; None where it tells none.

    Raises:
        ConfigError: it tells motions, and the config has no `person`.
    """
    if SPOKEN not in protocol.modalities:
        return None
    if not config.get("person"):
        raise ConfigError(
            f"E_CONFIG_VALUE: {protocol.name} is told in motions, one after the other, and nobody "
            "is there to say them: name a person, such as person=motions"
        )
    return _people(config, suite, protocol)


def _watched(config: Config, part: Part) -> tuple[Part, ...]:
    if not config.get("person") or part.people is not None:
        return ()
    protocol = replace(part.protocol, name=part.protocol.name + SUFFIX)
    people = _people(config, part.suite, part.protocol)
    return (replace(part, name=CORRECTED, protocol=protocol, people=people),)


def _people(config: Config, suite: Suite, protocol: Protocol) -> Simulated:
    extra = config.get("allow_targets", ())
    people: Simulated = instantiate(config["person"], suite=suite, extra_targets=extra)
    return people.share(protocol.assignments(suite))


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
        _part(
            config,
            name,
            perturbation.perturb(suite),
            robustness.perturb(protocol, perturbation),
            perturbation=perturbation.label,
        )
        for name, perturbation in robustness.arms(config).items()
    )
