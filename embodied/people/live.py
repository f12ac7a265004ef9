"""Episodes with people beside the policy: counted in an evaluation, or kept as data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from embodied.build import instantiate
from embodied.evaluation import Film, Outcomes, Trial, play
from embodied.people.actor import Corrected, Session
from embodied.people.corrections import People
from embodied.people.recorder import Recorder, Tape
from embodied.results import Outcome
from embodied.rollout import Controller
from embodied.structs import Episode, Spec
from embodied.suites import Assignment, Suite

SUFFIX = "+corrected"
"""Of a protocol whose episodes people corrected: such figures are of another thing."""

Write = Callable[[int, Episode], None]


def watched(suite: Suite) -> Suite:
    """The suite in which people see what an expert sees."""
    found: Suite = instantiate({"_target_": "embodied_envs.watched.Watched"}, suite=suite)
    return found


def play_corrected(
    controller: Controller,
    people: People,
    envs: Any,
    trials: Sequence[Trial],
    *,
    film: Film | None = None,
    film_every: int = 4,
) -> Iterator[Outcomes]:
    """As `play`, with people; outcomes have the metrics "corrections", their number, and
    "corrected_share", the share of steps that were executed under one."""
    actor = _Followed(controller, people)
    for ended in play(actor, envs, trials, film=film, film_every=film_every):
        yield {i: _measured(outcome, actor.by_trial[i]) for i, outcome in ended.items()}


def play_and_keep(
    controller: Controller,
    people: People,
    envs: Any,
    trials: Sequence[Trial],
    write: Write,
    *,
    spec: Spec,
    level: str = "subtask",
    film: Film | None = None,
    film_every: int = 4,
) -> Iterator[Outcomes]:
    """As `play_corrected`; every valid episode is written as soon as it ends, with what was said.

    Args:
        write: called with (number of the trial, episode).
        spec: of the episodes: the policy's, or that of the suite.
        level: "motion" or "subtask": what the policy's phrases are.
    """
    recorder = Recorder(envs)
    actor = _Followed(controller, people, recorder)
    for ended in play(actor, recorder, trials, film=film, film_every=film_every):
        found = {i: _measured(outcome, actor.by_trial[i]) for i, outcome in ended.items()}
        for i, outcome in found.items():
            if outcome.valid:
                session = actor.by_trial[i]
                write(i, actor.tapes[i].episode(session, outcome, spec, level=level))
            actor.forget(i)
        yield found


def _measured(outcome: Outcome, session: Session) -> Outcome:
    return replace(outcome, metrics={**outcome.metrics, **session.metrics()})


class _Followed(Corrected):
    """Knows which trial runs in which slot: `play` resets slots in the order of the trials.

    Attributes:
        by_trial: of each trial that has begun, what happened.
        tapes: of each trial that has been observed, what the recorder keeps of it.
    """

    def __init__(
        self, controller: Controller, people: People, recorder: Recorder | None = None
    ) -> None:
        super().__init__(controller, people)
        self.by_trial: dict[int, Session] = {}
        self.tapes: dict[int, Tape] = {}
        self._recorder, self._trials, self._begun = recorder, [-1] * controller.num_slots, 0

    def reset(self, slot: int, assignment: Assignment) -> None:
        super().reset(slot, assignment)
        session = self.sessions[slot]
        assert session is not None
        self.by_trial[self._begun] = session
        self._trials[slot], self._begun = self._begun, self._begun + 1

    def observe(self, observation: Mapping[str, Any], slots: Any) -> None:
        super().observe(observation, slots)
        for slot in range(self.controller.num_slots):
            tape = None if self._recorder is None else self._recorder.tapes[slot]
            if slots[slot] and tape is not None:
                self.tapes[self._trials[slot]] = tape

    def forget(self, trial: int) -> None:
        """Frees what a trial that has ended holds."""
        self.by_trial.pop(trial), self.tapes.pop(trial, None)
