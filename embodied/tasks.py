"""What a run is about: where its data come from, and how its policy is judged.

Two kinds so far: a task with a suite is judged by acting in it (`embodied.suite_task`), one of
recorded data alone by predicting episodes that were held out (`embodied.dataset_task`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from embodied.build import instantiate
from embodied.data.goals import Goals
from embodied.distributed import World
from embodied.learning_curve import CurvePoint
from embodied.policies.base import Policy
from embodied.sources import Source
from embodied.stopwatch import Stopwatch
from embodied.structs import Spec

Config = Mapping[str, Any]


class TrainingData(Protocol):
    """What a policy learns from.

    Attributes:
        spec: what the policy is built for.
        fingerprint: of all data, those held out included.
    """

    @property
    def spec(self) -> Spec: ...
    @property
    def fingerprint(self) -> str: ...

    def fit(self, policy: Policy, world: World) -> None:
        """Gives a new policy the data's statistics."""
        ...

    def extend(self, policy: Policy) -> None:
        """Gives a policy that was trained before what is new in these data."""
        ...

    def source(self, policy: Policy, world: World) -> Source:
        """Batches for the policy: each process's share."""
        ...

    def describe(self) -> str:
        """The first lines of a run's log."""
        ...


class Task(Protocol):
    """Takes part in a run in this order."""

    def check(self) -> None:
        """Raises ConfigError, or another error, for what can be found wrong before any work."""
        ...

    def load(self, world: World) -> TrainingData:
        """The training data; every process of a distributed run calls it."""
        ...

    def check_policy(self, policy: Policy) -> None:
        """Raises ValueError unless the policy can be judged."""
        ...

    def curve(self) -> CurvePoint:
        """What measures the policy while it learns; raises ConfigError where nothing can."""
        ...

    def assess(self, policy: Policy, fingerprint: str, clock: Stopwatch) -> Path:
        """Judges the trained policy and writes results and report; the path of the results."""
        ...


def make_goals(node: Mapping[str, Any] | None) -> Goals | None:
    """The goals that a config asks for; None where it asks for none."""
    if node is None:
        return None
    found: Goals = instantiate({"_target_": "embodied.data.goals.Goals", **node})
    return found
