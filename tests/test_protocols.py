"""Protocols: which episodes, each exactly once, with which words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pytest

from embodied.protocols import Protocol, other_task
from embodied.suites import Suite, Texts
from embodied_envs.metaworld import MetaWorld
from embodied_envs.perturbations import ActionDelay
from embodied_envs.perturbed import Perturbed
from embodied_envs.point import TASKS, PointSuite

SUITE = PointSuite()


@dataclass(frozen=True)
class ManyTasks(PointSuite):
    """As many tasks and goals as the largest benchmarks have."""

    tasks: tuple[str, ...] = tuple(f"task-{i}" for i in range(50))

    def __post_init__(self) -> None:
        pass

    def texts(self, task: str) -> Texts:
        return Texts(f"do {task}", (), ())


def test_each_task_and_goal_is_run_exactly_once() -> None:
    assignments = Protocol("p", goals_per_task=7).assignments(SUITE)
    counts = Counter((a.task, a.goal) for a in assignments)
    assert counts == {(task, goal): 1 for task in TASKS for goal in range(7)}


def test_neighbours_in_the_list_are_different_tasks() -> None:
    assignments = Protocol("p", goals_per_task=2).assignments(SUITE)
    assert [a.task for a in assignments] == [*TASKS, *TASKS]
    assert [a.goal for a in assignments] == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("suite", [SUITE, ManyTasks()])
def test_every_episode_has_a_seed_of_its_own(suite: Suite) -> None:
    seeds = [
        a.seed
        for benchmark_seed in (0, 1)
        for a in Protocol("p", benchmark_seed=benchmark_seed).assignments(suite)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_some_tasks_alone_have_the_same_episodes_and_another_name() -> None:
    some = Protocol("p", goals_per_task=3, tasks=TASKS[2:0:-1])
    found = some.assignments(SUITE)
    assert [a.task for a in found] == [*TASKS[2:0:-1]] * 3
    assert set(found) < set(Protocol("p", goals_per_task=3).assignments(SUITE))
    assert some.name_on(SUITE) == f"p@2-of-{len(TASKS)}"
    assert Protocol("p", tasks=TASKS).name_on(SUITE) == Protocol("p").name_on(SUITE) == "p"


@pytest.mark.parametrize("tasks", [(), ("reach-mauve",), (TASKS[0], TASKS[0])])
def test_tasks_that_are_none_of_the_suite_or_repeat_are_refused(tasks: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"protocol\.tasks must be some of"):
        Protocol("p", tasks=tasks).assignments(SUITE)


def test_an_episode_does_not_depend_on_how_many_there_are() -> None:
    few, many = (Protocol("p", goals_per_task=n).assignments(SUITE) for n in (3, 30))
    assert few == many[: len(few)]
    alone = Protocol("p", goals_per_task=3).assignments(PointSuite(tasks=("reach-blue",)))
    assert set(alone) <= set(few)


def test_the_benchmark_seed_reaches_the_assignments() -> None:
    assert {a.benchmark_seed for a in Protocol("p", benchmark_seed=4).assignments(SUITE)} == {4}


def test_canonical_wording_is_the_tasks_own() -> None:
    for a in Protocol("p").assignments(SUITE):
        assert a.instruction == SUITE.texts(a.task).canonical


def test_held_out_wording_was_never_trained_on_and_takes_turns() -> None:
    assignments = Protocol("p", goals_per_task=6, wording="held_out").assignments(SUITE)
    trained = {
        text for t in TASKS for text in (SUITE.texts(t).canonical, *SUITE.texts(t).paraphrases)
    }
    assert trained.isdisjoint(a.instruction for a in assignments)
    for task in TASKS:
        counts = Counter(a.instruction for a in assignments if a.task == task)
        assert counts == dict.fromkeys(SUITE.texts(task).held_out, 2)


def test_other_wording_never_names_the_own_task_and_covers_the_others() -> None:
    assignments = Protocol("p", wording="other").assignments(SUITE)
    told = Counter((a.task, a.instruction) for a in assignments)
    for task in TASKS:
        canonical = {SUITE.texts(other).canonical for other in TASKS if other != task}
        assert {text for own, text in told if own == task} == canonical
    for a in assignments:
        assert a.instruction == SUITE.texts(other_task(SUITE, a.task, a.goal)).canonical
    assert max(told.values()) < 30  # of 50, about 17 each


def test_the_wording_changes_nothing_but_the_instruction() -> None:
    plain, other = (
        Protocol("p", wording=w).assignments(SUITE)  # type: ignore[arg-type]
        for w in ("canonical", "other")
    )
    assert [replace(a, instruction="") for a in plain] == [
        replace(a, instruction="") for a in other
    ]


def test_one_task_has_no_other() -> None:
    with pytest.raises(ValueError, match="'other' needs at least two tasks, point has one"):
        Protocol("p", wording="other").assignments(PointSuite(tasks=("reach-red",)))


def test_a_task_without_held_out_texts_is_named() -> None:
    with pytest.raises(ValueError, match=r"wording 'held_out' .* task-0 has none"):
        Protocol("p", wording="held_out").assignments(ManyTasks())


@pytest.mark.parametrize("name", ["", "  "])
def test_a_protocol_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a protocol needs a name"):
        Protocol(name)


def test_wrong_settings_are_named_with_their_choices() -> None:
    with pytest.raises(ValueError, match="success must be 'any' or 'final', got 'last'"):
        Protocol("p", success="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"wording must be one of \('canonical', .* got 'new'"):
        Protocol("p", wording="new")  # type: ignore[arg-type]
    for count in (0, 51):
        with pytest.raises(ValueError, match=rf"goals_per_task must lie in \[1, 50\].*got {count}"):
            Protocol("p", goals_per_task=count).assignments(SUITE)


def test_the_name_tells_how_the_images_are_drawn_wherever_there_are_any() -> None:
    protocol = Protocol("mt-v3")
    assert protocol.name_on(MetaWorld()) == "mt-v3"
    assert protocol.name_on(MetaWorld(render_profile="fast")) == "mt-v3"
    seen = MetaWorld(observation="pixels", render_profile="fast")
    assert protocol.name_on(seen) == "mt-v3@fast"
    assert protocol.name_on(MetaWorld(observation="mixed")) == "mt-v3@faithful"
    assert protocol.name_on(Perturbed(seen, ActionDelay(steps=1))) == "mt-v3@fast"
    assert protocol.name_on(PointSuite(cameras=("top",))) == "mt-v3"  # drawn in one way only
