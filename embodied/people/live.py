"""Episodes with people beside the policy, kept as data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from embodied.build import instantiate
from embodied.evaluation import Outcomes, Trial, play
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


def play_and_keep(
    controller: Controller,
    people: People,
    envs: Any,
    trials: Sequence[Trial],
    write: Write,
    *,
    spec: Spec,
    level: str = "subtask",
    keep_unfinished: bool = False,
) -> Iterator[Outcomes]:
    """As `play` with people beside the controller, and writes every valid episode, with what was
    said, as soon as it ends.

    Args:
        write: called with (number of the trial, episode).
        spec: of the episodes.
        level: "motion" or "subtask": what the policy's phrases are.
        keep_unfinished: whether also those are written that an exception cuts short.
    """
    recorder = Recorder(envs)
    actor = _Kept(controller, people, recorder)
    try:
        for ended in play(actor, recorder, trials):
            for trial, outcome in ended.items():
                session, tape = actor.ended.pop(trial)
                if outcome.valid and tape is not None:
                    write(trial, tape.episode(session, outcome, spec, level=level))
            yield ended
    except BaseException:
        if keep_unfinished:
            for trial, session, tape in actor.unfinished():
                write(trial, tape.episode(session, _cut_short(session, tape), spec, level=level))
        raise


def _cut_short(session: Session, tape: Tape) -> Outcome:
    return Outcome(session.assignment, False, len(tape.actions), sum(tape.rewards))


class _Kept(Corrected):
    """Knows which trial runs in which slot: `play` begins the trials in their order.

    Attributes:
        ended: trial -> what happened in it, and the tape; None if it never began.
    """

    def __init__(self, controller: Controller, people: People, recorder: Recorder) -> None:
        super().__init__(controller, people)
        self.ended: dict[int, tuple[Session, Tape | None]] = {}
        self._recorder, self._begun = recorder, 0
        self._trials = [-1] * controller.num_slots

    def reset(self, slot: int, assignment: Assignment) -> None:
        super().reset(slot, assignment)
        self._recorder.tapes[slot] = None
        self._trials[slot], self._begun = self._begun, self._begun + 1

    def measure(self, slot: int) -> dict[str, float]:
        self.ended[self._trials[slot]] = self._session(slot), self._recorder.tapes[slot]
        self._trials[slot] = -1
        return super().measure(slot)

    def unfinished(self) -> Iterator[tuple[int, Session, Tape]]:
        """The trials that are under way and have a step at least."""
        for slot, trial in enumerate(self._trials):
            tape = self._recorder.tapes[slot]
            if trial >= 0 and tape is not None and tape.actions:
                yield trial, self._session(slot), tape
