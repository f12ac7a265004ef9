"""Whole runs that learn from groups of attempts: they begin alike, improve, report and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from embodied.attempts import Drawn
from embodied.distributed import World
from embodied.experiment import make_task, make_trainer, train
from embodied.groups import Groups, as_batch, check_alike
from embodied.loading import build_policy
from embodied.loggers import read_jsonl
from embodied.results import Outcome
from embodied.structs import Batch, Condition, Observation
from embodied.suites import Assignment
from embodied.targets import ConfigError
from scripts.drill import differences
from tests.conftest import NARROW, compose_config
from tests.test_rewarded_runs import Killed, kill_after

__all__ = ["kill_after"]
WORLD = World(0, 1, torch.device("cpu"))
GROUPS = (
    "algorithm=group_relative",
    "head=gaussian",
    "source.num_starts=3",
    "source.num_attempts=4",
    "source.max_steps=8",
    "source.num_envs=5",
    "source.temperature=2.0",
    "eval.action_horizon=2",
    "algorithm.epochs=2",
    "algorithm.num_minibatches=2",
    "train.save_every=1",
    "train.log_every=1",
)


@pytest.fixture(scope="module")
def base(compose, tmp_path_factory) -> Path:
    """A run that imitates, for others to start from."""
    run: Path = tmp_path_factory.mktemp("base")
    train(compose(run, "head=gaussian", "eval.action_horizon=2"))
    return run


@pytest.fixture
def grouped(small, base, tmp_path):
    """grouped(name, *overrides): the config of a run that learns from groups."""
    common = (*NARROW, "~policy.encoder.parts.language", *small, *GROUPS, f"init_from={base}")

    def composed(name: str, *overrides: str) -> dict[str, Any]:
        return compose_config(*common, f"run_dir={tmp_path / name}", *overrides)

    return composed


@pytest.fixture
def batches(grouped):
    """batches(*overrides): (what makes them, the learner) of a run that is not started."""

    def made(*overrides: str) -> tuple[Groups, Any]:
        config = grouped("a", *overrides)
        task = make_task(config)
        task.check()
        data = task.load(WORLD)
        trainer = make_trainer(config, build_policy(config, data.spec), data, WORLD)
        assert isinstance(trainer.source, Groups)
        return trainer.source, trainer.algorithm

    return made


@pytest.mark.parametrize("head", ["gaussian", "bins", "edm", "ddpm"])
def test_what_acting_recorded_is_what_the_policy_says(head, batches, compose, tmp_path):
    base = tmp_path / "base"
    train(compose(base, f"head={head}", "eval.action_horizon=2", "train.steps=2"))
    source, learner = batches(f"head={head}", f"init_from={base}")
    batch = next(source)
    x, metrics = learner.examine(batch)
    rollouts = learner.rollouts(batch, x)
    assert float(metrics["acting/log_prob_error"]) < 1e-4
    ratio = (rollouts.log_prob - rollouts.old)[rollouts.mask].exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-4, rtol=0)
    source.close()


def test_groups_begin_in_one_state_and_go_different_ways(batches):
    source, _ = batches()
    batch = next(source)
    attempts = batch.attempts
    own = ~attempts.demonstrated
    assert attempts.group[own].tolist() == [g for g in range(3) for _ in range(4)]
    first = attempts.position == 0
    for group in range(3):
        rows = first & (attempts.group[attempts.episode] == group) & own[attempts.episode]
        states, actions = batch.observation.state[rows], batch.action[rows]
        assert bool((states == states[0]).all())
        assert len(actions.unique(dim=0)) == len(actions) == 4
    assert len(batch.observation.state[first][:12].unique(dim=0)) == 3
    assert not torch.equal(next(source).observation.state[:1], batch.observation.state[:1])
    source.close()


def test_a_demonstration_of_each_task_is_shown_beside(batches):
    source, learner = batches("objective=hpt")
    batch = next(source)
    attempts = batch.attempts
    assert attempts.demonstrated.tolist() == [False] * 12 + [True] * 3
    assert attempts.group[12:].tolist() == [0, 1, 2]
    metrics = learner.update(batch, 0)
    assert float(metrics["objective/imitated"]) == 1.0  # nobody has reached a pad in 8 steps
    assert float(metrics["grad_norm"]) > 0
    source.close()


@pytest.mark.parametrize("objective", ["grpo", "hpt"])
def test_a_killed_run_goes_on_to_the_last_bit(objective, grouped, kill_after, tmp_path):
    overrides = (f"objective={objective}", "train.steps=3", "source.max_steps=20")
    train(grouped("unbroken", *overrides))
    kill_after(2)
    with pytest.raises(Killed):
        train(grouped("killed", *overrides))
    assert train(grouped("killed", *overrides)) is not None
    assert differences(tmp_path / "unbroken", tmp_path / "killed") == []
    rows = read_jsonl(tmp_path / "killed" / "metrics.jsonl")
    assert [row["step"] for row in rows if "attempts/success" in row] == [1, 2, 3]


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("init_from=null",), "init_from"),
        (("source.num_attempts=1",), r"num_attempts.*>= 2, got 1"),
        (("algorithm.discount=2",), r"discount.*\[0, 1\], got 2"),
        (("source.temperature=0",), r"temperature must be above 0.*got 0"),
    ],
)
def test_a_mistake_is_named_with_its_value(overrides, named, grouped):
    with pytest.raises((ConfigError, ValueError), match=named):
        train(grouped("a", *overrides, "train.steps=1"))


HERE = Assignment("reach", 0, 0, 0, "go")


def drawn(trials: list[int], states: list[float]) -> Drawn:
    """Decisions of chunks of three steps, each with log-probability -1."""
    rows = len(trials)
    return Drawn(
        torch.tensor(trials),
        Observation(torch.tensor(states)[:, None, None]),
        Condition(language=("go",) * rows),
        torch.zeros(rows, 3, 1),
        torch.full((rows, 3), -1.0),
    )


def ended(steps: int, success: bool, valid: bool = True) -> Outcome:
    return Outcome(HERE, success, steps, 0.0, valid=valid)


def test_only_what_was_executed_of_a_chunk_counts():
    outcomes = {0: ended(5, True), 1: ended(2, False)}
    batch: Batch = as_batch(drawn([0, 1, 0, 0], [0.0] * 4), outcomes, 2, action_horizon=2)
    assert batch.mask.sum(1).tolist() == [2, 2, 2, 1]
    assert batch.attempts is not None
    assert batch.attempts.log_prob.tolist() == [-2, -2, -2, -1]
    assert batch.attempts.position.tolist() == [0, 0, 1, 2]
    assert batch.attempts.reward.tolist() == [1, 0]


def test_episodes_whose_simulator_failed_are_left_out():
    outcomes = {0: ended(2, False, valid=False), 1: ended(2, True), 2: ended(2, True)}
    batch = as_batch(drawn([0, 1, 2], [0.0] * 3), outcomes, 2, action_horizon=2)
    assert batch.attempts is not None
    assert batch.attempts.episode.tolist() == [0, 1]
    assert batch.attempts.group.tolist() == [0, 1]
    with pytest.raises(RuntimeError, match=r"no attempt was completed.*evaluate\.py"):
        as_batch(drawn([0], [0.0]), {0: ended(0, False, valid=False)}, 2, action_horizon=2)


def test_a_simulator_that_begins_differently_is_found_out():
    check_alike(drawn([0, 1, 0], [1.0, 1.0, 5.0]), [HERE, HERE], 2)
    check_alike(drawn([0, 2], [1.0, 3.0]), [HERE] * 4, 2)
    with pytest.raises(RuntimeError, match=r"reach, goal 0, began in different states, up to 2 "):
        check_alike(drawn([0, 1, 0], [1.0, 3.0, 5.0]), [HERE, HERE], 2)
