"""Whole runs that learn rewards from comparisons of what they do, on schedule, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embodied.experiment import train
from embodied.loggers import read_jsonl
from embodied.targets import ConfigError
from embodied.trainer import Trainer
from scripts.drill import differences
from tests.conftest import SERIAL, compose_config

SMALL = (
    "task=reach",
    *SERIAL,
    "train.steps=13",
    "train.batch_size=8",
    "train.save_every=2",
    "train.log_every=1",
    "protocol.max_steps=6",
    "policy.hidden=[8]",
    "algorithm.critic_hidden=[8]",
    "reward_learning.hidden=[8]",
    "reward_learning.epochs=2",
    "source.num_envs=2",
    "source.warmup_steps=12",
    "source.random_steps=12",
    "source.labels=5",
    "source.per_session=2",
    "source.first=3",
    "source.every=3",
    "source.pause=2",
    "source.segment_length=4",
    "source.held_out=3",
)
PSEUDO = (
    "+reward_learning.pseudo_labels.threshold=0.6",
    "reward_learning.crop=[2,3]",
    "source.unlabelled=2",
)
RUNS = {
    "pebble": ("algorithm=pebble",),
    "surf": ("algorithm=surf", "reward_learning.crop=[2,3]", "source.segment_length=4"),
    "mrn": ("algorithm=mrn", "reward_learning.upper.every=2", "teacher@source.teacher=mistake"),
    "parl": ("algorithm=parl", *PSEUDO),
    "implicit": (
        "algorithm=parl",
        "reward_learning=parl_implicit",
        "reward_learning.upper.every=2",
    ),
}
FAST = ("mrn", "parl")  # which between them have all that there is to resume


class Killed(BaseException):
    """Stands for a SIGKILL: nothing may catch it."""


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """kill_after(step): the run ends without a word once that step is saved."""

    def arm(step: int) -> None:
        save = Trainer.save

        def save_and_die(self: Trainer) -> None:
            save(self)
            if self.step == step:
                monkeypatch.setattr(Trainer, "save", save)
                raise Killed

        monkeypatch.setattr(Trainer, "save", save_and_die)

    return arm


def composed(run_dir: Path, *overrides: str) -> dict[str, Any]:
    return compose_config(*SMALL, f"run_dir={run_dir}", *overrides)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in RUNS]
)
def test_a_killed_run_goes_on_to_the_last_bit(
    name: str, kill_after: Callable[[int], None], tmp_path: Path
) -> None:
    overrides = RUNS[name]
    train(composed(tmp_path / "unbroken", *overrides))
    config = composed(tmp_path / "killed", *overrides)
    for step in (2, 8):  # while novelty is the reward, and between two sessions
        kill_after(step)
        with pytest.raises(Killed):
            train(config)
    assert train(config) is not None
    assert differences(tmp_path / "unbroken", tmp_path / "killed") == []
    replays = [tmp_path / run / "replay.f32" for run in ("unbroken", "killed")]
    assert replays[0].read_bytes() == replays[1].read_bytes()


def test_questions_come_by_the_schedule_and_nobody_acts_in_the_pause(tmp_path: Path) -> None:
    train(composed(tmp_path, "algorithm=pebble"))
    rows = {r["step"]: r for r in read_jsonl(tmp_path / "metrics.jsonl") if "queries/asked" in r}
    asked = [rows[step]["queries/asked"] for step in range(1, 14)]
    # Batch 3 is the fourth; the next sessions are 3 batches after the pause, and each 3 later.
    assert asked == [0, 0, 0, 2, 2, 2, 2, 2, 4, 4, 4, 5, 5]
    steps = [rows[step]["online/steps"] for step in range(1, 14)]
    assert steps == [14, 14, 16, 16, 16, 16, 18, 18, 20, 20, 22, 22, 24]
    assert "held_out/agreement" not in rows[3]
    assert 0 <= rows[4]["held_out/agreement"] <= 1


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("algorithm=pebble", "source.choose=best"), "source.choose.*'best'"),
        (("algorithm=pebble", "source.every=0"), "source.every.*0"),
        (("algorithm=pebble", "source.recorded=true"), "source.recorded=false"),
        (("algorithm=pebble", "source.segment_length=41"), "length.*41"),
        (("algorithm=pebble", "reward_learning.pseudo_labels={}"), "source.unlabelled"),
        (("algorithm=surf", "reward_learning.crop=[2,9]"), "source.segment_length"),
        (("algorithm=pebble", "~reward_learning"), r"\+reward_learning=pebble"),
    ],
)
def test_a_mistake_is_named_with_its_value(
    overrides: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    kept = [x for x in SMALL if not ("~reward_learning" in overrides and "reward_learning" in x)]
    config = compose_config(*kept, f"run_dir={tmp_path}", *overrides)
    with pytest.raises((ConfigError, ValueError), match=named):
        train(config)


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["iql", "awac", "td3_bc", "rlpd"])
def test_any_learner_with_critics_can_be_told_by_a_teacher(learner: str, tmp_path: Path) -> None:
    overrides = (f"algorithm={learner}", "source=queries", "+reward_learning=pebble")
    config = composed(tmp_path, *overrides, "train.steps=6", "eval.action_horizon=1")
    assert train(config) is not None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_few_answers_make_a_policy_do_what_was_meant(tmp_path: Path) -> None:
    shorter = ("train.steps=4000", "eval.every=null", "device=cpu", "protocol.goals_per_task=1")
    train(compose_config("experiment=pebble", f"run_dir={tmp_path}", "seed=11", *shorter))
    rows = [r for r in read_jsonl(tmp_path / "metrics.jsonl") if "online/return" in r]
    assert rows[-1]["online/return"] > rows[0]["online/return"] + 8  # of -55, about
    assert rows[-1]["queries/asked"] == 80
    assert rows[-1]["held_out/agreement"] > 0.75
