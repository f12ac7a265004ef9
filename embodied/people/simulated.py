"""People in software: how soon they notice, how fast and how rightly they speak, how often.

What they want comes from a `Corrector`, which knows the task; everything here is the same for all.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from embodied.people.corrections import Action, Correction, View
from embodied.suites import Assignment, Suite

WORDS = ("motion", "subtask")


class Corrector(Protocol):
    """Knows, in one episode, what ought to be done."""

    def __call__(self, view: View) -> Correction | None:
        """What the policy needs to be told now; None where it does well. Called at every step."""
        ...

    def mistaken(self, wanted: Correction, random: np.random.Generator) -> Correction:
        """Something else than what is wanted, such as another phrase."""
        ...

    def demonstrate(self, view: View) -> Action | None:
        """What it would do itself (A,), after it was called with the view."""
        ...


@dataclass(frozen=True)
class Quota:
    """How often, and for how many steps, a person may correct an episode; None: as they like."""

    corrections: int | None = None
    steps: int | None = None

    def both(self, other: Quota) -> Quota:
        """What both allow."""
        return Quota(_least(self.corrections, other.corrections), _least(self.steps, other.steps))


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


@dataclass(frozen=True)
class Simulated:
    """People who correct a policy by what a corrector knows; `People`.

    All they do follows from `seed` and the assignment. A budget for all episodes is dealt out
    beforehand (`share`), since who is first to spend it would depend on who runs beside whom.

    Attributes:
        corrector: called with (suite=, assignment=) for each episode.
        steps: how long a correction lasts: a skill's length.
        patience: steps for which something must have been wrong, before the present one.
        delay: steps from then until it is said; what is said is what was right then.
        error_rate: probability that something else is said.
        replan: whether the policy is asked at once.
        max_corrections, max_corrected_steps: in each episode.
        corrections_in_all, corrected_steps_in_all: in all the episodes that `share` is given.
    """

    corrector: Callable[..., Corrector]
    suite: Suite
    steps: int = 20
    patience: int = 0
    delay: int = 0
    error_rate: float = 0.0
    replan: bool = True
    max_corrections: int | None = None
    max_corrected_steps: int | None = None
    corrections_in_all: int | None = None
    corrected_steps_in_all: int | None = None
    seed: int = 0
    name: str = "simulated"
    quotas: Mapping[Assignment, Quota] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = {"steps": 1, "patience": 0, "delay": 0, "max_corrections": 0}
        least |= dict.fromkeys(
            ("max_corrected_steps", "corrections_in_all", "corrected_steps_in_all"), 0
        )
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"{name} must be {bound} or more, got {value}")
        if not 0 <= self.error_rate <= 1:
            raise ValueError(f"error_rate must lie in [0, 1], got {self.error_rate}")

    @property
    def is_rationed(self) -> bool:
        """Whether there is a budget for all episodes."""
        return (self.corrections_in_all, self.corrected_steps_in_all) != (None, None)

    def share(self, assignments: Sequence[Assignment]) -> Simulated:
        """The same people with the budget for all episodes dealt out evenly, one more to the first
        ones where it does not divide. What an episode leaves of its part is not spent."""
        corrections = _dealt(self.corrections_in_all, len(assignments))
        steps = _dealt(self.corrected_steps_in_all, len(assignments))
        quotas = map(Quota, corrections, steps)
        return dataclasses.replace(self, quotas=dict(zip(assignments, quotas, strict=True)))

    def begin(self, assignment: Assignment) -> SimulatedPerson:
        if self.is_rationed and assignment not in self.quotas:
            raise ValueError(
                "a budget for all episodes must be dealt out before the first one: "
                "use people.share(assignments)"
            )
        quota = Quota(self.max_corrections, self.max_corrected_steps)
        quota = quota.both(self.quotas.get(assignment, Quota()))
        corrector = self.corrector(suite=self.suite, assignment=assignment)
        return SimulatedPerson(self, corrector, quota, _stream(self.seed, assignment))


def _dealt(total: int | None, count: int) -> list[int | None]:
    if total is None:
        return [None] * count
    return [total // count + (i < total % count) for i in range(count)]


def _stream(seed: int, assignment: Assignment) -> np.random.Generator:
    task = zlib.crc32(assignment.task.encode())
    # NumPy pads seeds with zeros; the closing one keeps streams of different lengths apart.
    own = [seed, task, assignment.goal, assignment.benchmark_seed, assignment.seed, 1]
    return np.random.default_rng(own)


class SimulatedPerson:
    """One of `Simulated`, in one episode; a `Person`."""

    def __init__(
        self, traits: Simulated, corrector: Corrector, quota: Quota, random: np.random.Generator
    ) -> None:
        self.name = traits.name
        self._traits, self._corrector = traits, corrector
        self._quota, self._random = quota, random
        self._wrong = 0  # steps for which the policy has been wrong, with the present one
        self._corrections = self._steps = 0
        self._about_to_say: tuple[int, Correction] | None = None  # and when
        self._level: Any = None  # of what was said last

    def __call__(self, view: View) -> Correction | None:
        self._steps += view.corrected
        wanted = self._wanted(view)
        self._wrong = self._wrong + 1 if wanted else 0
        if self._about_to_say is None and wanted and self._wrong > self._traits.patience:
            self._about_to_say = view.step + self._traits.delay, wanted
        if self._about_to_say is None or view.step < self._about_to_say[0]:
            return None
        (_, correction), self._about_to_say, self._wrong = self._about_to_say, None, 0
        return self._say(correction)

    def demonstrate(self, view: View) -> Action | None:
        return self._corrector.demonstrate(view)

    def _wanted(self, view: View) -> Correction | None:
        """What is wrong now, unless it has been said and is about to be done, or is being done."""
        wanted = self._corrector(view)
        under_way = view.waiting or (view.held and self._level not in WORDS)
        return None if under_way else wanted

    def _say(self, correction: Correction) -> Correction | None:
        most, left = self._quota.corrections, self._traits.steps
        if self._quota.steps is not None:
            left = min(left, self._quota.steps - self._steps)
        if left < 1 or (most is not None and self._corrections >= most):
            return None
        if self._random.random() < self._traits.error_rate:
            correction = self._corrector.mistaken(correction, self._random)
        self._corrections += 1
        self._level = correction.level
        return dataclasses.replace(correction, steps=left, replan=self._traits.replan)
