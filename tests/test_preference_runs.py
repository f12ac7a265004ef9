"""Whole runs that learn from comparisons: they train, are judged twice, and resume to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embodied import checkpoint
from embodied.build import instantiate
from embodied.data.preferences import Preferences, Segments
from embodied.experiment import train
from embodied.loading import load_policy
from embodied.loggers import read_jsonl
from embodied.networks.ensemble import EnsembleMLP
from embodied.oracle import load_oracle
from embodied.policies.actor import ActorPolicy
from embodied.preference_task import agreement
from embodied.structs import Observation
from embodied.targets import ConfigError
from embodied.trainer import Trainer
from embodied_datasets.compared import save_preferences
from scripts.drill import differences
from tests.conftest import SERIAL, compose_config

SMALL = (
    *SERIAL,
    "task.collect.episodes_per_task=12",
    "train.batch_size=16",
    "train.save_every=2",
    "train.log_every=1",
    "train.steps=6",
    "protocol.max_steps=5",
    "eval.every=2",
    "eval.episodes=2",
    "policy.hidden=[8,8]",
    "source.num_pairs=2",
    "comparisons.length=5",
    "comparisons.num_pairs=20",
    "comparisons.of=return",
)
STOP = "train.early_stop={measure: eval/return, patience: 9, after: 2, benchmark_seed: 1}"
REWARDS = ("source.rewards.hidden=[8]", "source.rewards.epochs=2", "algorithm.critic_hidden=[8]")
RUNS = {
    "cpl": ("algorithm.imitation_steps=3",),
    "p_iql": REWARDS,
    "oppo": (),
}
Composed = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Composed:
    """composed(run_dir, "algorithm=...", ...): a tiny run on episodes that are recorded once."""
    data = f"data_dir={tmp_path_factory.mktemp('data')}"

    def compose(run_dir: Path, *overrides: str, stops: bool = True) -> dict[str, Any]:
        chosen = (*SMALL, STOP) if stops else SMALL
        return compose_config("task=reach", *chosen, data, f"run_dir={run_dir}", *overrides)

    return compose


class Killed(BaseException):
    """Stands for a SIGKILL: nothing may catch it."""


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_goes_on_to_the_last_bit(
    name: str, composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (f"algorithm={name}", *RUNS[name])
    results = train(composed(tmp_path / "unbroken", *overrides))
    assert results is not None
    found = json.loads(results.read_text())
    assert "success" in found
    held_out = agreement(tmp_path / "unbroken")
    assert 0 <= held_out.low <= held_out.mean <= held_out.high <= 1
    assert held_out.episodes == 4  # a fifth of twenty

    save = Trainer.save

    def save_and_die(self: Trainer) -> None:
        save(self)
        if self.step == 4:
            monkeypatch.setattr(Trainer, "save", save)
            raise Killed

    monkeypatch.setattr(Trainer, "save", save_and_die)
    config = composed(tmp_path / "killed", *overrides)
    with pytest.raises(Killed):
        train(config)
    assert train(config) is not None
    assert differences(tmp_path / "unbroken", tmp_path / "killed") == []


def test_what_is_evaluated_is_the_best_and_not_the_last(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exam is made to like step 4 most; the result must be of its weights."""
    from embodied import suite_task

    seen: dict[int, dict[str, Any]] = {}
    scores = iter([9.0, 0.1, 0.8, 0.3])

    class Exam:
        def __init__(self, *args: Any) -> None: ...

        def __call__(self, policy: Any) -> dict[str, float]:
            state = {name: x.clone() for name, x in policy.state_dict().items()}
            seen[2 * len(seen)] = state
            return {"eval/return": next(scores)}

        def close(self) -> None: ...

    monkeypatch.setattr(suite_task, "CurvePoint", Exam)
    judged: list[dict[str, Any]] = []
    monkeypatch.setattr(
        suite_task, "assess", lambda config, policy, *a, **k: judged.append(policy.state_dict())
    )
    train(composed(tmp_path, "algorithm=cpl", "algorithm.imitation_steps=3"))
    assert sorted(seen) == [0, 2, 4, 6]
    assert all(x.equal(judged[0][name]) for name, x in seen[4].items())
    assert not all(x.equal(judged[0][name]) for name, x in seen[6].items())
    last = read_jsonl(tmp_path / "metrics.jsonl")[-1]
    assert (last["best/step"], last["best/value"]) == (4, 0.8)


def test_training_ends_when_success_no_longer_rises(composed: Composed, tmp_path: Path) -> None:
    config = composed(tmp_path, "algorithm=oppo", "train.steps=40", "train.early_stop.patience=1")
    train(config)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    returns = {row["step"]: row["eval/return"] for row in rows if "eval/return" in row}
    counted = [value for step, value in sorted(returns.items()) if step >= 2]
    assert max(returns) < 40
    assert counted[-1] <= max(counted[:-1])


def test_labels_of_a_person_are_trained_on_with_one_command(
    composed: Composed, tmp_path: Path
) -> None:
    base = composed(tmp_path, "algorithm=cpl", "algorithm.imitation_steps=3", stops=False)
    instantiate(base["task"]["collect"])(instantiate(base["task"]["suite"]))
    root = base["task"]["episodes"]["root"]
    pairs = 10
    first, second = (
        Segments(np.arange(pairs) % 6 + 6 * side, np.arange(pairs), 5) for side in (0, 1)
    )
    label = np.tile([0.0, 1.0], pairs // 2).astype(np.float32)
    said = Preferences(first, second, label, ("ann",) * pairs)
    save_preferences(Path(root), "mine", said, instantiate(base["task"]["episodes"]))
    saved = compose_config("task=reach", "comparisons=saved", f"data_dir={base['data_dir']}")
    assert saved["comparisons"]["path"] == root
    again = {**base, "comparisons": saved["comparisons"]}
    assert train(again) is not None
    assert agreement(tmp_path).episodes == 2


def recorded_pairs(path: Path) -> Path:
    """Segments in the published format: the action is preferred where it is higher."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (2, 30, 6, 1)).astype(np.float32)
    state = rng.normal(size=(2, 30, 6, 3)).astype(np.float32)
    label = (action[1].sum((1, 2)) > action[0].sum((1, 2))).astype(np.float32)
    label[:3] = 0.5
    np.savez(
        path,
        obs_1=state[0],
        obs_2=state[1],
        action_1=action[0],
        action_2=action[1],
        label_human=label,
        label_script=label,
    )
    return path


@pytest.mark.parametrize("name", ["cpl", "p_iql"])
def test_recorded_labels_need_no_world(name: str, tmp_path: Path) -> None:
    extra = REWARDS if name == "p_iql" else ("algorithm.imitation_steps=2",)
    config = compose_config(
        "task=compared",
        f"algorithm={name}",
        f"data.path={recorded_pairs(tmp_path / 'pairs.npz')}",
        f"run_dir={tmp_path / 'run'}",
        "train.steps=4",
        "train.batch_size=8",
        "train.log_every=1",
        "policy.hidden=[8]",
        "device=cpu",
        *extra,
    )
    results = train(config)
    assert results is not None
    found = json.loads(results.read_text())
    held_out = agreement(tmp_path / "run")
    assert found["protocol"] == "held-out-pairs"
    assert found["error"]["mean"] == pytest.approx(1 - held_out.mean)
    assert found["error"]["low"] == pytest.approx(1 - held_out.high)
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["held_out/pairs"] == held_out.episodes <= 6


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("algorithm=cpl", "comparisons=null"), "comparisons=scripted, saved or recorded"),
        (("algorithm=cpl", "source.offline_steps=3"), "source.offline_steps=null, got 3"),
        (("algorithm=cpl", "source.fold=7"), r"fold in \[0, 1 / held_out\), got 0\.2 and 7"),
        (("algorithm=cpl", "comparisons.of=regret"), "source.critic"),
    ],
)
def test_a_mistake_is_named_with_its_value(
    overrides: tuple[str, ...], named: str, composed: Composed, tmp_path: Path
) -> None:
    if "comparisons=null" in overrides:
        config = {**composed(tmp_path, "algorithm=cpl"), "comparisons": None}
    else:
        config = composed(tmp_path, *overrides)
    with pytest.raises((ConfigError, ValueError), match=named):
        train(config)


def test_stopping_early_needs_an_exam(composed: Composed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.early_stop.*set eval\.every"):
        train(composed(tmp_path, "algorithm=cpl", "algorithm.imitation_steps=3", "eval.every=null"))


def test_comparisons_of_several_tasks_are_refused(tmp_path: Path) -> None:
    config = compose_config("task=point", "algorithm=oppo", f"run_dir={tmp_path}", "device=cpu")
    with pytest.raises(ConfigError, match=r"comparisons are of one task.*task\.suite\.tasks"):
        train(config)


@pytest.mark.slow  # a training
def test_an_oracle_is_a_run_whose_values_are_in_the_rewards_own_units(
    composed: Composed, tmp_path: Path
) -> None:
    """V is learned of rewards times 0.1, and must come back times 10."""
    small = [each for each in SMALL if not each.startswith(("comparisons", "source."))]
    data = composed(tmp_path, "algorithm=cpl")["data_dir"]
    overrides = (*small, f"data_dir={data}", "algorithm.critic_hidden=[8]")
    scaled = ("source.reward.scale=0.1", "source.discount=0.9")
    run = tmp_path / "oracle"
    train(compose_config("task=reach", "algorithm=iql", *overrides, *scaled, f"run_dir={run}"))
    oracle = load_oracle(run)
    found = checkpoint.latest(run / "checkpoints")
    assert found is not None
    policy, _ = load_policy(run, "cpu")
    assert isinstance(policy, ActorPolicy)
    value = EnsembleMLP(1, policy.feature_dim, [8], 1)
    parts = found.tensors["parts"]
    value.load_state_dict({k[6:]: x for k, x in parts.items() if k.startswith("value.")})
    states = np.random.default_rng(0).normal(size=(5, policy.spec.state_dim)).astype(np.float32)
    with torch.no_grad():
        features = policy.features(Observation(torch.tensor(states)[:, None]))
        expected = 10 * value(features)[0, :, 0].numpy()
    np.testing.assert_allclose(oracle.values(states), expected, rtol=1e-5)
    assert oracle.discount == 0.9
    config = composed(
        tmp_path / "run",
        "algorithm=cpl",
        "algorithm.imitation_steps=3",
        "comparisons.of=regret",
        f"source.critic={run}",
    )
    assert train(config) is not None
    with pytest.raises(ValueError, match="an oracle is a run of algorithm=iql"):
        load_oracle(tmp_path / "run")
