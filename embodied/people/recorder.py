"""Writes down what the slots of a vector environment do, as episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.people.actor import Session
from embodied.people.interventions import KEY, to_json
from embodied.people.narration import narrate
from embodied.results import Outcome
from embodied.structs import Episode, Spec
from embodied.suites import SlotError

FLAG = "is_intervention"
"""The extra (L,) that says which steps were executed under a correction."""

Row = dict[str, NDArray[Any]]


@dataclass
class Tape:
    """What one slot has done since its reset; one more observation than actions."""

    observations: list[Row]
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False

    def episode(self, session: Session, outcome: Outcome, spec: Spec, *, level: str) -> Episode:
        """The episode, with its corrections.

        `expert_action` is what the person would have done where they know, else what was executed.

        Args:
            level: "motion" or "subtask": what the policy's phrases are.
        """
        rows, last, assignment = self.observations[:-1], self.observations[-1], outcome.assignment
        session = session.until(len(self.actions))  # the last step may have been cut short
        pairs = zip(session.expert, self.actions, strict=True)
        expert = [done if wanted is None else wanted for wanted, done in pairs]
        return Episode(
            state=np.stack([row["state"] for row in rows]).astype(np.float32),
            action=np.stack(self.actions),
            instruction=assignment.instruction,
            reward=np.array(self.rewards, np.float32),
            images={name: np.stack([row[name] for row in rows]) for name in spec.cameras},
            expert_action=np.stack(expert).astype(np.float32),
            success=outcome.success,
            terminated=self.terminated,
            truncated=not self.terminated,
            info={
                "task": assignment.task,
                "goal": assignment.goal,
                "benchmark_seed": assignment.benchmark_seed,
                "seed": assignment.seed,
                "person": session.person.name,
                KEY: to_json(session.interventions),
            },
            extras={FLAG: np.array(session.corrected) >= 0},
            final={
                "state": last["state"].astype(np.float32),
                **{f"images.{name}": last[name] for name in spec.cameras},
            },
            annotations=narrate(session.said, session.interventions, level=level),
        )


class Recorder:
    """A vector environment that passes everything on and keeps a tape of each slot.

    Attributes:
        tapes: of each slot, its latest episode.
    """

    def __init__(self, envs: Any) -> None:
        self.envs, self.num_envs = envs, envs.num_envs
        self.single_action_space = envs.single_action_space
        self.tapes: list[Tape | None] = [None] * self.num_envs

    def reset(self, *, options: dict[str, Any]) -> Any:
        try:
            result = self.envs.reset(options=options)
        except SlotError as error:
            self._begin(error.result[0], options["reset_mask"])
            raise
        self._begin(result[0], options["reset_mask"])
        return result

    def step(self, actions: NDArray[np.float32]) -> Any:
        active = self.envs.active
        try:
            result = self.envs.step(actions)
        except SlotError as error:
            self._note(actions, error.result, active)
            raise
        self._note(actions, result, active)
        return result

    def halt(self, mask: NDArray[np.bool_]) -> None:
        self.envs.halt(mask)

    def render(self) -> Any:
        return self.envs.render()

    def _begin(self, observation: Row, mask: NDArray[np.bool_]) -> None:
        for slot in np.flatnonzero(mask).tolist():
            self.tapes[slot] = Tape([_row(observation, slot)])

    def _note(self, actions: NDArray[np.float32], result: Any, active: NDArray[np.bool_]) -> None:
        observation, reward, terminated = result[:3]
        for slot in np.flatnonzero(active).tolist():
            tape = self.tapes[slot]
            assert tape is not None
            tape.actions.append(np.array(actions[slot], np.float32))
            tape.rewards.append(float(reward[slot]))
            tape.terminated = bool(terminated[slot])
            tape.observations.append(_row(observation, slot))


def _row(observation: Row, slot: int) -> Row:
    return {name: np.array(x[slot]) for name, x in observation.items()}
