"""Short evaluations while a policy learns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from embodied.delayed import acting
from embodied.evaluation import Outcomes, Trial, play
from embodied.learning_curve import RETURN, SUCCESS
from embodied.policies.base import Policy
from embodied.protocols import Protocol
from embodied.simulators import open_envs
from embodied.structs import Metrics
from embodied.suites import Suite


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
        slots = self._envs.num_envs
        actor = acting(policy, slots, {**self.settings, "inference_batch": slots})
        outcomes: Outcomes = {}
        for ended in play(actor, self._envs, self.trials):
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
