"""Two policies on the same episodes: what differs, and whether it can be told from luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from embodied.results import Evaluation, Outcome
from embodied.statistics import (
    Estimate,
    mcnemar,
    paired_bootstrap,
    required_episodes,
    split,
    success_rate,
)
from embodied.suites import Assignment


@dataclass(frozen=True)
class Verdict:
    """What can be said about two policies after the same episodes.

    Attributes:
        a, b: success rates, means over tasks.
        difference: of b minus a.
        confidence: of all intervals.
        p_value: of the exact McNemar test.
        only_a, only_b: episodes that only one of the two solved.
        better: None where no difference was seen.
        resolution: the difference that `more_episodes` is for.
        more_episodes: matched episodes still missing to see a difference of `resolution` with
            80 % power; 0 where those at hand suffice.
    """

    a: Estimate
    b: Estimate
    difference: Estimate
    confidence: float
    p_value: float
    only_a: int
    only_b: int
    better: Literal["a", "b"] | None
    resolution: float
    more_episodes: int

    def text(self, a: str = "A", b: str = "B") -> str:
        """The verdict in one sentence, with the policies' names; positive favours the winner."""
        d = self.difference
        if self.better == "a":
            return f"{a} is better: {_points(-d.mean, -d.high, -d.low)}, p={self.p_value:.2g}"
        points = f"{_points(d.mean, d.low, d.high)}, p={self.p_value:.2g}"
        if self.better == "b":
            return f"{b} is better: {points}"
        size = f"a difference of {100 * self.resolution:g} points"
        if self.more_episodes:
            need = f"{self.more_episodes} more episodes needed to see {size}"
        else:
            need = f"the {d.episodes} episodes suffice to see {size}"
        return f"no difference seen: {b} minus {a} is {points}; {need}"


def compare(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: Sequence[Any] | None = None,
    resolution: float = 0.05,
    alpha: float = 0.05,
    seed: int = 0,
) -> Verdict:
    """Compares two policies on matched outcomes.

    Args:
        a, b: (n,) outcomes, 0 or 1; a[i] and b[i] belong to the same episode.
        groups: n task names; rates and difference are then means over tasks.
        resolution: the smallest difference worth seeing, in (0, 1].

    A difference is claimed only if the exact test *and* the interval agree on it: the test alone
    weighs all episodes alike, the interval alone is a little optimistic for few episodes.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    names = groups if groups is not None else [0] * len(first)
    confidence = 1 - alpha
    difference = paired_bootstrap(first, second, groups=names, confidence=confidence, seed=seed)
    p_value = mcnemar(first, second)
    only_a, only_b = int(np.sum(first > second)), int(np.sum(second > first))
    seen = p_value < alpha and not difference.low <= 0 <= difference.high
    # One pseudo-episode of each kind: without a discordant pair some must still be expected.
    discordance = max(resolution, (only_a + only_b + 1) / (len(first) + 2))
    needed = required_episodes(resolution, discordance=discordance, alpha=alpha)
    return Verdict(
        a=success_rate(split(first, names), confidence=confidence, seed=seed),
        b=success_rate(split(second, names), confidence=confidence, seed=seed),
        difference=difference,
        confidence=confidence,
        p_value=p_value,
        only_a=only_a,
        only_b=only_b,
        better=("b" if difference.mean > 0 else "a") if seen else None,
        resolution=resolution,
        more_episodes=max(0, needed - len(first)),
    )


@dataclass(frozen=True)
class Pairing:
    """The episodes that two evaluations share, and what became of the others.

    Two episodes match if their whole assignments do: task, goal, benchmark seed, seed and
    instruction.

    Attributes:
        matched: outcomes of a and of b for the same assignment, both valid.
        only_a, only_b: assignments that the other evaluation does not hold.
        invalid: assignments of both, with an invalid episode in at least one.
    """

    matched: tuple[tuple[Outcome, Outcome], ...]
    only_a: tuple[Assignment, ...]
    only_b: tuple[Assignment, ...]
    invalid: tuple[Assignment, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks with matched episodes, in order of appearance."""
        return tuple(dict.fromkeys(a.assignment.task for a, _ in self.matched))

    def verdict(
        self, *, tasks: Sequence[str] = (), resolution: float = 0.05, alpha: float = 0.05
    ) -> Verdict:
        """`compare` over the matched episodes, of the named tasks only where some are named."""
        pairs = [pair for pair in self.matched if not tasks or pair[0].assignment.task in tasks]
        return compare(
            [a.success for a, _ in pairs],
            [b.success for _, b in pairs],
            groups=[a.assignment.task for a, _ in pairs],
            resolution=resolution,
            alpha=alpha,
        )


def pair(a: Evaluation, b: Evaluation) -> Pairing:
    """Matches the episodes of two evaluations.

    Raises:
        ValueError: the protocols differ, an evaluation holds an assignment twice, or no episode
            is valid in both.
    """
    if a.protocol != b.protocol:
        raise ValueError(
            f"protocol must be the same in both results, got {a.protocol!r} and {b.protocol!r}; "
            "evaluate both policies under one protocol"
        )
    first, second = _by_assignment(a), _by_assignment(b)
    shared = [key for key in first if key in second]
    matched = [(first[k], second[k]) for k in shared if first[k].valid and second[k].valid]
    if not matched:
        raise ValueError(
            f"no episode is valid in both results: of {len(first)} and {len(second)} episodes, "
            f"{len(shared)} have the same task, goal, benchmark_seed, seed and instruction; "
            "evaluate both policies with the same seed"
        )
    return Pairing(
        matched=tuple(matched),
        only_a=tuple(key for key in first if key not in second),
        only_b=tuple(key for key in second if key not in first),
        invalid=tuple(k for k in shared if not (first[k].valid and second[k].valid)),
    )


@dataclass(frozen=True)
class Comparison:
    """Two named evaluations, compared over all tasks and task by task.

    Attributes:
        a, b: names of the two.
        tasks: a verdict per task; with many tasks some differ by chance alone.
    """

    a: str
    b: str
    pairing: Pairing
    verdict: Verdict
    tasks: Mapping[str, Verdict]


def compare_all(
    evaluations: Mapping[str, Evaluation], *, resolution: float = 0.05, alpha: float = 0.05
) -> list[Comparison]:
    """Compares each further evaluation with the first.

    `alpha` is shared out among the comparisons (Bonferroni), so that it bounds the chance of
    claiming any difference that is not there; the intervals widen with it.
    """
    (a, first), *others = evaluations.items()
    share = alpha / max(1, len(others))
    return [_comparison(a, first, b, other, resolution, share) for b, other in others]


def _comparison(
    a: str, first: Evaluation, b: str, second: Evaluation, resolution: float, alpha: float
) -> Comparison:
    pairing = pair(first, second)
    verdict = partial(pairing.verdict, resolution=resolution, alpha=alpha)
    return Comparison(a, b, pairing, verdict(), {t: verdict(tasks=[t]) for t in pairing.tasks})


def _by_assignment(evaluation: Evaluation) -> dict[Assignment, Outcome]:
    outcomes = {outcome.assignment: outcome for outcome in evaluation.outcomes}
    if len(outcomes) < len(evaluation.outcomes):
        twice = len(evaluation.outcomes) - len(outcomes)
        raise ValueError(
            f"episodes must have distinct assignments, but {twice} of {len(evaluation.outcomes)} "
            "repeat an earlier one; a repeated episode would count twice in the test"
        )
    return outcomes


def _points(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:+.1f} points [{100 * low:.1f}, {100 * high:.1f}]"
