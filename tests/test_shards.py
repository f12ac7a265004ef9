"""Shards: the same outcomes in any number of them and wherever they run, whoever dies."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.test_evaluation import FaultySuite

if TYPE_CHECKING:  # worker processes import this file, and would wait for torch
    from embodied.evaluation import Outcomes, Trial
    from embodied.launchers import Task
    from embodied.policies.base import Policy
    from embodied.results import Evaluation, Outcome
    from embodied.shards import Queue, Shard

Compose = Callable[..., dict[str, Any]]
MAX_STEPS = 12
SUITE = FaultySuite(max_steps=MAX_STEPS)
SETTINGS = {
    "num_envs": 4,
    "workers": 0,
    "timeout_s": 60.0,
    "action_horizon": 2,
    "inference_batch": 4,
    "threads": 1,
    "backend": "python",
}


@pytest.fixture(scope="module")
def run(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained tiny policy, which reads no instruction."""
    import embodied

    run = tmp_path_factory.mktemp("runs") / "run"
    embodied.train(compose(run, "train.steps=1"))
    return run


@pytest.fixture(scope="module")
def policy(run: Path) -> Policy:
    from embodied.loading import load_policy

    return load_policy(run, "cpu")[0]


def trials(faults: dict[int, str] | None = None, count: int = 12) -> dict[int, Trial]:
    """Numbered from 100; the instruction of a trial is its fault."""
    from embodied.evaluation import Trial
    from embodied.protocols import Protocol

    assignments = Protocol("p", goals_per_task=-(-count // 4)).assignments(SUITE)[:count]
    told = [(faults or {}).get(i, "go") for i in range(count)]
    pairs = enumerate(zip(assignments, told, strict=True), 100)
    return {i: Trial(replace(a, instruction=text), MAX_STEPS) for i, (a, text) in pairs}


def queue(faults: dict[int, str] | None = None, count: int = 12) -> Queue:
    from embodied.shards import Queue

    return Queue(SUITE, obeys=False, trials=trials(faults, count))


def make_shard(policy: Policy, run: Path, *queues: Queue) -> Shard:
    from embodied import checkpoint
    from embodied.loading import PackedPolicy
    from embodied.shards import Shard

    found = checkpoint.latest(run / "checkpoints")
    assert found is not None
    packed = PackedPolicy.pack(policy, found.documents["config"])
    return Shard(packed, queues, SETTINGS, "cpu")


def merged(parts: Iterator[Outcomes]) -> Outcomes:
    found: Outcomes = {}
    for part in parts:
        assert found.keys().isdisjoint(part), "an episode was told twice"
        found |= part
    return found


@pytest.fixture(scope="module")
def undisturbed(policy: Policy) -> Outcomes:
    from embodied.shards import play_queues

    return merged(play_queues(policy, [queue()], SETTINGS))


# Shares


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_every_trial_is_in_one_share_and_tasks_are_dealt_out_evenly(count: int) -> None:
    from embodied.shards import split

    shares = split([queue(), queue(count=7).only({100, 103})], count)
    first = [share[0].trials for share in shares]
    assert len(shares) == count
    assert sorted(itertools.chain(*first)) == list(trials())
    assert all(list(numbers) == sorted(numbers) for numbers in first)  # in the queue's order
    tasks = [Counter(t.assignment.task for t in share.values()) for share in first]
    for task in SUITE.tasks:
        counts = [found[task] for found in tasks]
        assert max(counts) - min(counts) <= 1
    assert shares == split([queue(), queue(count=7).only({100, 103})], count)


def test_parts_of_one_suite_run_in_one_queue_and_keep_their_own_rules(policy: Policy) -> None:
    from embodied.judging import judge
    from embodied.parts import Part
    from embodied.protocols import Protocol

    short = Protocol("short", goals_per_task=2, max_steps=5, success="final")
    long = Protocol("long", goals_per_task=3, max_steps=MAX_STEPS)
    told = Protocol("told", goals_per_task=1, max_steps=40, wording="other")
    parts = [Part(p.name, replace(SUITE, max_steps=60), p) for p in (short, long, told)]
    expert = replace(parts[2], name="expert", obeys=True)
    config = {
        "env": SETTINGS,
        "eval": SETTINGS,
        "threads": 1,
        "shards": 1,
        "device": "cpu",
        "launcher": {"_target_": "embodied.launchers.Processes"},
    }
    together = judge(config, policy, [*parts, expert])
    assert list(together) == ["short", "long", "told", "expert"]
    assert {outcome.steps for outcome in together["short"].outcomes} == {5}
    for part in (*parts, expert):
        alone: Evaluation = judge(config, policy, [part])[part.name]
        assert alone.outcomes == together[part.name].outcomes
        assert alone.protocol == part.protocol.name
    wins = Counter(outcome.success for outcome in together["expert"].outcomes)
    assert wins[False] >= 3  # it obeys, and the scene asks for something else


# Gathering, in one process


class Here:
    """Runs shards in this process; `fate(name, attempt)` is what becomes of each."""

    def __init__(self, fate: Callable[[str, int], Exception | int | None]) -> None:
        self.fate, self.started, self.killed = fate, Counter[str](), 0

    def open(self) -> int:
        return 2

    def close(self) -> None:
        pass

    def start(self, shard: Shard, name: str) -> Task:
        self.started[name] += 1
        # Without processes for the simulators, which a second start would ask for.
        shard = replace(shard, settings=SETTINGS)
        return HereTask(self, shard, self.fate(name, self.started[name]), self.started[name])

    def wait(self, tasks: Sequence[Any], timeout_s: float) -> Sequence[Task]:
        return [task for task in tasks if task.fate != 0]


class HereTask:
    """Fates: an exception after the first outcomes, or at once at the second start; silence (0)."""

    has_begun = True

    def __init__(
        self, launcher: Here, shard: Shard, fate: Exception | int | None, attempt: int
    ) -> None:
        self.launcher, self.fate, self.messages = launcher, fate, shard.run()
        self.is_due = attempt > 1

    def receive(self) -> Outcomes | None:
        if self.is_due and isinstance(self.fate, Exception):
            raise self.fate
        outcomes = next(self.messages, None)
        self.is_due |= bool(outcomes)
        return outcomes

    def kill(self) -> None:
        self.launcher.killed += 1


Gather = Callable[[Callable[[str, int], Any]], tuple["Outcomes", Here]]


@pytest.fixture
def gathered(policy: Policy, run: Path) -> Gather:
    from embodied.gathering import gather
    from embodied.shards import split

    def found(fate: Callable[[str, int], Any]) -> tuple[Outcomes, Here]:
        launcher = Here(fate)
        shards = [make_shard(policy, run, *share) for share in split([queue()], 2)]
        return merged(gather(shards, launcher)), launcher

    return found


def died(*where: tuple[str, int]) -> Callable[[str, int], Any]:
    from embodied.launchers import ShardDied

    return lambda name, attempt: ShardDied("bus error") if (name, attempt) in where else None


def test_shards_together_give_what_one_gives(gathered: Gather, undisturbed: Outcomes) -> None:
    found, launcher = gathered(died())
    assert found == undisturbed
    assert launcher.started == {"shard 0": 1, "shard 1": 1}
    assert launcher.killed == 2


def test_a_shard_that_dies_runs_once_more_what_it_still_owes(
    gathered: Gather, undisturbed: Outcomes
) -> None:
    found, launcher = gathered(died(("shard 1", 1)))
    assert found == undisturbed
    assert launcher.started == {"shard 0": 1, "shard 1": 2}


def test_episodes_of_a_shard_that_dies_twice_are_invalid_and_named(
    gathered: Gather, undisturbed: Outcomes, caplog: pytest.LogCaptureFixture
) -> None:
    found, launcher = gathered(died(("shard 0", 1), ("shard 0", 2)))
    lost = {i for i, outcome in found.items() if not outcome.valid}
    assert launcher.started["shard 0"] == 2
    assert found.keys() == undisturbed.keys()
    assert 0 < len(lost) < 6
    for i, outcome in found.items():
        if i in lost:
            assert outcome.reason == "bus error; then bus error"
            assert outcome.assignment == undisturbed[i].assignment
            assert math.isnan(outcome.reward)
        else:
            assert outcome == undisturbed[i]
    assert f"its {len(lost)} episodes are lost" in caplog.text


def test_a_silent_shard_is_killed_and_started_again(
    gathered: Gather, undisturbed: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=10.0)
    monkeypatch.setattr("embodied.gathering.time.monotonic", lambda: next(clock))
    found, launcher = gathered(
        lambda name, attempt: 0 if (name, attempt) == ("shard 1", 1) else None
    )
    assert found == undisturbed
    assert launcher.started["shard 1"] == 2


def test_an_exception_in_a_shard_is_not_taken_for_a_death(gathered: Gather) -> None:
    from embodied.launchers import ShardFailed

    with pytest.raises(ShardFailed, match="a bug"):
        gathered(lambda *_: ShardFailed("a bug"))


# Other processes


LAUNCHERS = [
    pytest.param("embodied.launchers.Processes", r"\(pid \d+\) died with exit code -9", id="here"),
    pytest.param("embodied.ray_launcher.Ray", "died: ", id="ray", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "death"), LAUNCHERS)
def test_a_simulator_that_kills_its_process_costs_the_episodes_beside_it(
    policy: Policy,
    run: Path,
    undisturbed: Outcomes,
    caplog: pytest.LogCaptureFixture,
    launcher: str,
    death: str,
) -> None:
    from embodied.build import instantiate
    from embodied.gathering import gather

    if launcher.endswith("Ray"):
        pytest.importorskip("ray")
    poisoned, where = queue({5: "kill at 3"}), instantiate({"_target_": launcher})
    where.open()
    try:
        found = merged(gather([make_shard(policy, run, poisoned)], where))
    finally:
        where.close()
    assert re.search(rf"shard 0 {death}.*; it starts again for \d+", caplog.text)
    lost = {i: outcome for i, outcome in found.items() if not outcome.valid}
    assert 105 in lost
    assert len(lost) <= 4  # the slots of the simulators' process
    assert all("env worker 0" in outcome.reason for outcome in lost.values())
    for i in undisturbed.keys() - lost.keys():
        assert plain(found[i]) == plain(undisturbed[i])


def plain(outcome: Outcome) -> Outcome:
    return replace(outcome, assignment=replace(outcome.assignment, instruction=""))


@pytest.mark.slow  # whole processes
def test_what_a_shard_raises_is_told(policy: Policy, run: Path) -> None:
    from embodied.gathering import gather
    from embodied.launchers import Processes, ShardFailed

    shard = make_shard(policy, run, queue())
    wrong = replace(shard, settings={**SETTINGS, "action_horizon": 99})
    with pytest.raises(ShardFailed, match=r"shard 0 failed:(.|\n)*action_horizon must lie in"):
        merged(gather([wrong], Processes()))


def evaluated(run: Path, output: Path, *more: str) -> Evaluation:
    """What `scripts/evaluate.py` writes."""
    import embodied
    from embodied.results import read_results
    from tests.conftest import compose_config

    config = compose_config(
        f"checkpoint={run}",
        f"output={output}",
        "protocol=point",
        "protocol.goals_per_task=2",
        "protocol.max_steps=12",
        "device=cpu",
        "env.num_envs=3",
        "eval.inference_batch=4",
        *more,
        name="evaluate",
    )
    return read_results(embodied.evaluate(config))


@pytest.fixture(scope="module")
def alone(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, ...]:
    folder = tmp_path_factory.mktemp("alone")
    return evaluated(run, folder, "shards=1", "env.workers=0").outcomes


@pytest.mark.slow  # whole processes
def test_an_evaluation_in_two_processes_is_that_of_one(
    run: Path, tmp_path: Path, alone: tuple[Outcome, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluated(run, tmp_path, "shards=2").outcomes == alone
    assert "8/8" in capsys.readouterr().err  # one bar for both


@pytest.mark.slow
def test_an_evaluation_of_two_ray_workers_is_that_of_one_process(
    run: Path, tmp_path: Path, alone: tuple[Outcome, ...]
) -> None:
    pytest.importorskip("ray")
    assert evaluated(run, tmp_path, "launcher=ray", "shards=2").outcomes == alone


# What may be asked


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("shards=0", "shards must be a whole number >= 1, or null, got 0"),
        ("shards=many", "shards must be a whole number >= 1, or null, got 'many'"),
        ("env.timeout_s=0", "env.timeout_s must be a number of seconds > 0, got 0"),
        ("+probes.evaluate=null", "probes.evaluate has the name of the main protocol; rename it"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_runs(override: str, message: str) -> None:
    from embodied.preflight import check_config
    from embodied.targets import ConfigError
    from tests.conftest import compose_config

    config = compose_config("task=point", "run_dir=unused", override)
    with pytest.raises(ConfigError, match=message):
        check_config(config, SUITE)


@pytest.mark.parametrize(
    ("settings", "here", "elsewhere"),
    [
        ({"trials": 255, "cores": 16}, (1, 16), (1, 0)),  # 32 slots, four rounds of each
        ({"trials": 256, "cores": 16}, (2, 8), (2, 0)),
        ({"trials": 999, "cores": 2}, (1, 2), (2, 0)),
        ({"trials": 999, "cores": 4}, (2, 2), (4, 0)),
        ({"trials": 999, "cores": 1}, (1, 1), (1, 0)),
        ({"shards": 16, "trials": 1, "cores": 4}, (16, 0), (16, 0)),
        ({"shards": 1, "trials": 999, "cores": 64}, (1, 32), (1, 0)),  # no more than slots
        ({"shards": 2, "trials": 999, "cores": 64, "workers": 3}, (2, 3), (2, 3)),
    ],
)
def test_shards_and_simulators_share_the_cores(
    policy: Policy, settings: dict[str, Any], here: tuple[int, int], elsewhere: tuple[int, int]
) -> None:
    from embodied.judging import crew

    config = {
        "shards": settings.get("shards"),
        "env": {"num_envs": 32, "workers": settings.get("workers")},
    }
    sizes = settings["trials"], settings["cores"]
    assert crew(config, policy, *sizes, is_here=True) == here
    assert crew(config, policy, *sizes, is_here=False) == elsewhere
