"""Episodes with people beside the policy, kept as data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from embodied.build import instantiate
from embodied.evaluation import Film, Outcomes, Trial, play
from embodied.people.actor import Corrected, Session
from embodied.people.corrections import People
from embodied.people.recorder import Recorder, Tape
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
    film: Film | None = None,
    film_every: int = 4,
) -> Iterator[Outcomes]:
    """As `play` with people beside the controller, and writes every valid episode, with what was
    said, as soon as it ends.

    Args:
        write: called with (number of the trial, episode).
        spec: of the episodes.
        level: "motion" or "subtask": what the policy's phrases are.
    """
    recorder = Recorder(envs)
    actor = _Kept(controller, people, recorder)
    for ended in play(actor, recorder, trials, film=film, film_every=film_every):
        for trial, outcome in ended.items():
            session, tape = actor.ended.pop(trial)
            if outcome.valid and tape is not None:
                write(trial, tape.episode(session, outcome, spec, level=level))
        yield ended


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
        return super().measure(slot)
