"""What is known of an episode while it is under way."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from embodied.data.transitions import Rows, Trajectory
from embodied.suites import Assignment


@dataclass(frozen=True)
class Step:
    """One environment step, as it is taken.

    Attributes:
        slot, episode: where it was taken, and in which of the run's episodes.
        state, next_state: (S,).
        action: (A,) as the policy chose it, before it was clipped to the bounds.
        reward: what is learned from.
        objectives: (K,) what the step earned in each of the interaction's objectives.
        terminated: whether it ended the episode for good.
    """

    slot: int
    episode: int
    state: Rows
    action: Rows
    reward: float
    next_state: Rows
    objectives: Rows
    terminated: bool


@dataclass
class UnderWay:
    """An episode in a slot, so far.

    Attributes:
        number: which of the run's episodes.
        totals: (K,) of each objective so far, after each step.
        packed: how many of its decisions have been recorded.
    """

    number: int
    assignment: Assignment
    states: list[Rows] = field(default_factory=list)
    actions: list[Rows] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    totals: list[Rows] = field(default_factory=list)
    earned: float = 0.0
    success: bool = False
    packed: int = 0

    def trajectory(self, told: int, *, start: int = 0, terminated: bool = False) -> Trajectory:
        """Its steps from `start` on."""
        return Trajectory(
            np.asarray(self.states[start:], np.float32),
            np.asarray(self.actions[start:], np.float32),
            np.asarray(self.rewards[start:], np.float32),
            terminated,
            told,
        )

    def last_step(self, slot: int, *, terminated: bool) -> Step:
        """What happened last."""
        before = self.totals[-2] if len(self.totals) > 1 else np.zeros_like(self.totals[-1])
        return Step(
            slot,
            self.number,
            self.states[-2],
            self.actions[-1],
            self.rewards[-1],
            self.states[-1],
            self.totals[-1] - before,
            terminated,
        )
