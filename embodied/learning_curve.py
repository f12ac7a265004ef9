"""Short evaluations while a policy learns, and what a curve of them says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from embodied.evaluation import Outcomes, Trial, play
from embodied.execution import execution_of
from embodied.policies.base import Policy
from embodied.protocols import Protocol
from embodied.rollout import Controller
from embodied.simulators import open_envs
from embodied.structs import Metrics
from embodied.suites import Suite

SUCCESS, RETURN = "eval/success", "eval/return"


class CurvePoint:
    """Runs the same few episodes at every call: the first of a protocol's.

    Args:
        settings: of `open_envs`, of `execution_of`, and `action_horizon`.
    """

    def __init__(
        self, suite: Suite, protocol: Protocol, episodes: int, settings: Mapping[str, Any]
    ) -> None:
        rules = protocol.max_steps, protocol.success
        chosen = protocol.assignments(suite)[:episodes]
        self.trials = [Trial(each, *rules) for each in chosen]
        self.settings = {**settings, "num_envs": min(settings["num_envs"], len(chosen))}
        self._stack = ExitStack()
        self._suite = suite
        self._envs: Any = None

    def __call__(self, policy: Policy) -> Metrics:
        if self._envs is None:  # kept open: some simulators take seconds to load
            self._envs = self._stack.enter_context(open_envs(self._suite, self.settings))
        controller = Controller(
            policy,
            self._envs.num_envs,
            action_horizon=self.settings["action_horizon"],
            inference_batch=self._envs.num_envs,
            execution=execution_of(self.settings),
        )
        outcomes: Outcomes = {}
        for ended in play(controller, self._envs, self.trials):
            outcomes |= ended
        valid = [each for _, each in sorted(outcomes.items()) if each.valid]
        if not valid:
            return {}
        return {
            SUCCESS: float(np.mean([each.success for each in valid])),
            RETURN: float(np.mean([each.reward for each in valid])),
        }

    def close(self) -> None:
        """Closes the simulators."""
        self._stack.close()


def summarise(
    rows: Sequence[Mapping[str, float]], name: str, offline_steps: int | None
) -> dict[str, float]:
    """What a curve says: last, best and, where the policy began to act, what that did.

    "offline" is the last value before the policy acts, "dip" how far the curve falls below it
    afterwards, "regret" the mean of 1 - value from then on, of successes.

    Args:
        rows: of metrics.jsonl.
        name: of the measure.
        offline_steps: the step at which the policy began to act; None if it never did.
    """
    points = [(int(row["step"]), row[name]) for row in rows if name in row]
    if not points:
        return {}
    values = [value for _, value in points]
    found = {"last": values[-1], "best": max(values)}
    before = [v for step, v in points if offline_steps is not None and step <= offline_steps]
    after = [v for step, v in points if offline_steps is not None and step > offline_steps]
    if before and after:
        found |= {"offline": before[-1], "dip": max(0.0, before[-1] - min(after))}
    if after and name == SUCCESS:
        found["regret"] = float(np.mean([1 - value for value in after]))
    return found
