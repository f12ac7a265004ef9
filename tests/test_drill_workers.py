"""The drill of workers tells a good evaluation from every kind of bad one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from embodied.progress import Progress
from embodied.results import Evaluation, Outcome
from embodied.suites import Assignment
from scripts.drill_workers import Card, Faults, drill

PLAIN = tuple(
    Outcome(Assignment("reach", goal, 0, goal, "go"), goal % 3 == 0, 9, 1.0) for goal in range(9)
)
KILLED = "env worker 0 (pid 7, slots [0, 1]) died with exit code -9"


def lost(outcome: Outcome, reason: str = KILLED) -> Outcome:
    return replace(outcome, success=False, reward=math.nan, valid=False, reason=reason)


def card(outcomes: Sequence[Outcome], wanted: int = 2) -> Card:
    plain, found = (
        Evaluation("p", None, tuple(each), wall_s=1.0, seed=0) for each in (PLAIN, outcomes)
    )
    return Card(Faults(killed={7}, stopped={8}), wanted, plain, found, wall_s=1.0)


def test_success_is_that_of_the_valid_episodes() -> None:
    found = card([lost(PLAIN[0]), *PLAIN[1:]])
    assert found.problems == []
    assert found.success == found.expected_success == 2 / 8
    assert "INVALID, not counted  1, by 1 of the faults" in str(found)


SPOILT: dict[str, tuple[Callable[[], Card], str]] = {
    "too few faults": (lambda: card([lost(PLAIN[0]), *PLAIN[1:]], wanted=3), "only 2 faults"),
    "an episode less": (lambda: card([lost(PLAIN[0]), *PLAIN[1:8]]), "episodes are missing"),
    "another order": (lambda: card([lost(PLAIN[0]), *PLAIN[:0:-1]]), "not those asked"),
    "nothing lost": (lambda: card(PLAIN), "no fault cost an episode"),
    "lost for no fault": (
        lambda: card([lost(PLAIN[0], "env worker 0 (pid 9) died"), *PLAIN[1:]]),
        "lost for no fault: ['env worker 0 (pid 9) died']",
    ),
    "another reward": (
        lambda: card([lost(PLAIN[0]), replace(PLAIN[1], reward=1.5), *PLAIN[2:]]),
        "1 valid episodes changed",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_should_not_have_happened_is_told(name: str) -> None:
    make, message = SPOILT[name]
    assert any(message in problem for problem in make().problems)
    assert "NO: " in str(make())


def test_progress_rates_the_episodes_that_count() -> None:
    with Progress({"a": 4, "b": 2}) as progress:
        progress.add("a", [PLAIN[0], PLAIN[1], lost(PLAIN[2])])
        assert str(progress) == "a 3/4: 0.500, 1 INVALID"
        progress.add("b", [lost(PLAIN[3])])
        assert str(progress) == "a 3/4: 0.500, b 1/2: nan, 2 INVALID"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_few_faults_cost_their_episodes_and_nothing_else(tmp_path: Path) -> None:
    found = drill(tmp_path, faults=5, timeout_s=60.0)
    assert found.problems == []
    assert len(found.faults.pids) == 5
