"""Whole runs that learn from rewards: they train, act, report, and resume to the last bit."""

from pathlib import Path

import pytest

from embodied.algorithms.actor_critic import ValueLearner
from embodied.checkpoint import latest
from embodied.experiment import train
from embodied.loggers import read_jsonl
from embodied.targets import ConfigError
from embodied.trainer import Trainer
from scripts.drill import differences

COMMON = ("eval.every=3", "eval.episodes=2", "eval.action_horizon=1")
RUNS = {
    "offline": ("algorithm=iql",),
    "offline_to_online": (
        "algorithm=famo2o_iql",
        "source=offline_to_online",
        "source.offline_steps=3",
        "source.warmup_steps=4",
        "source.num_envs=2",
        "source.mix.start=0.5",
    ),
    "online": (
        "algorithm=sac",
        "source=online",
        "source.warmup_steps=8",
        "source.random_steps=6",
        "source.capacity=9",
    ),
}


class Killed(BaseException):
    """Stands for a SIGKILL: nothing may catch it."""


@pytest.fixture
def kill_after(monkeypatch):
    """kill_after(step): the run ends without a word once that step is saved."""

    def arm(step):
        save = Trainer.save

        def save_and_die(self):
            save(self)
            if self.step == step:
                monkeypatch.setattr(Trainer, "save", save)
                raise Killed

        monkeypatch.setattr(Trainer, "save", save_and_die)

    return arm


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_goes_on_to_the_last_bit(name, compose_rewarded, kill_after, tmp_path):
    overrides = (*RUNS[name], *COMMON, "train.steps=8")
    train(compose_rewarded(tmp_path / "unbroken", *overrides))
    kill_after(4)
    config = compose_rewarded(tmp_path / "killed", *overrides)
    with pytest.raises(Killed):
        train(config)
    assert train(config) is not None
    assert differences(tmp_path / "unbroken", tmp_path / "killed") == []
    replays = [tmp_path / run / "replay.f32" for run in ("unbroken", "killed")]
    if name != "offline":
        assert replays[0].read_bytes() == replays[1].read_bytes()


CONSERVATIVE = (
    "algorithm=iql",
    "source=conservative",
    "source.offline_steps=2",
    "source.warmup_steps=14",
    "source.num_envs=2",
    "source.hand_over.threshold=0.5",
)


@pytest.fixture(scope="module")
def trusted(compose_rewarded, tmp_path_factory):
    """A run that was trained on recorded data."""
    run = tmp_path_factory.mktemp("trusted")
    train(compose_rewarded(run, *RUNS["offline"], "eval.action_horizon=1", "train.steps=2"))
    return run


def test_a_killed_hand_over_goes_on_to_the_last_bit(
    trusted, compose_rewarded, kill_after, tmp_path
):
    handed = (f"source.hand_over.trusted={trusted}", f"init_from={trusted}")
    overrides = (*CONSERVATIVE, *handed, "eval.action_horizon=1", "train.steps=14")
    train(compose_rewarded(tmp_path / "unbroken", *overrides))
    kill_after(8)
    config = compose_rewarded(tmp_path / "killed", *overrides)
    with pytest.raises(Killed):
        train(config)
    train(config)
    assert differences(tmp_path / "unbroken", tmp_path / "killed") == []
    rows = read_jsonl(tmp_path / "unbroken" / "metrics.jsonl")
    shares = [row["online/intervention"] for row in rows if "online/intervention" in row]
    assert shares
    assert all(0 <= x <= 1 for x in shares)
    assert {row["online/violation"] for row in rows if "online/violation" in row} <= {0.0, 0.5, 1.0}


@pytest.mark.parametrize(("shift", "share"), [(-1e3, 1.0), (1e3, 0.0)])
def test_whom_the_critics_value_acts(
    shift, share, trusted, compose_rewarded, tmp_path, monkeypatch
):
    """Values of the learning policy far below the trusted one's, and far above."""
    values = ValueLearner.values

    def shifted(self, state, action):
        return values(self, state, action) + (shift if self.optimizer.state else 0.0)

    monkeypatch.setattr(ValueLearner, "values", shifted)  # only who learns has an optimiser's state
    overrides = (*CONSERVATIVE, f"source.hand_over.trusted={trusted}", "eval.action_horizon=1")
    train(compose_rewarded(tmp_path, *overrides, "train.steps=14"))
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert {row["online/intervention"] for row in rows if "online/intervention" in row} == {share}


def test_a_run_from_recorded_to_new_shows_the_whole_curve(compose_rewarded, tmp_path):
    overrides = (*RUNS["offline_to_online"], *COMMON)
    train(compose_rewarded(tmp_path, *overrides))
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "eval/return" in row] == [0, 3, 6]
    acted = {row["step"]: row["online/steps"] for row in rows if "online/steps" in row}
    # Four steps to warm up and one for each update, in two environments at a time.
    assert acted == {4: 6.0, 5: 6.0, 6: 8.0}


def test_nothing_is_recorded_for_a_policy_that_learns_online(compose_rewarded, tmp_path):
    config = compose_rewarded(tmp_path / "run", *RUNS["online"], f"data_dir={tmp_path / 'none'}")
    train(config)
    assert not Path(config["data_dir"]).exists()
    checkpoint = latest(tmp_path / "run" / "checkpoints")
    assert checkpoint.documents["data"] == {"fingerprint": "none"}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("algorithm=iql", "source.reward.of=joy"), "reward.of.*'joy'"),
        (("algorithm=iql", "source.recorded=false"), r"source\.offline_steps=0"),
        (("algorithm=iql", "source.mix.start=2"), r"source\.mix\.start.*2"),
        (("algorithm=iql", "source.discount=1.5"), r"discount.*1\.5"),
        (("algorithm=iql", "algorithm.expectile=1"), r"algorithm\.expectile.*1"),
        (("algorithm=rlpd", "algorithm.subset=11"), r"algorithm\.subset.*\[1, 10\].*11"),
        (("algorithm=famo2o_iql", "policy.coefficient_range=[5,1]"), r"must rise.*\(5, 1\)"),
    ],
)
def test_a_mistake_is_named_with_its_value(overrides, named, compose_rewarded, tmp_path):
    with pytest.raises((ConfigError, ValueError), match=named):
        train(compose_rewarded(tmp_path, *overrides, "eval.action_horizon=1"))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("eval.action_horizon=2",), r"eval\.action_horizon=1.*2"),
        (("source.hand_over.alpha=2",), "alpha.*2"),
    ],
)
def test_a_mistake_in_a_hand_over_is_named_before_it_trains(
    overrides, named, trusted, compose_rewarded, tmp_path
):
    handed = (f"source.hand_over.trusted={trusted}", "eval.action_horizon=1")
    with pytest.raises((ConfigError, ValueError), match=named):
        train(compose_rewarded(tmp_path, *CONSERVATIVE, *handed, *overrides))
