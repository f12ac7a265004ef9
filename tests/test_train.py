"""Whole runs: what they leave behind, that evaluation repeats, and that a task is solved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import embodied
from embodied.dataset_task import DatasetTask
from embodied.experiment import make_task
from embodied.loggers import read_jsonl
from embodied.results import read_results
from embodied.suite_task import SuiteTask
from embodied.targets import ConfigError
from tests.conftest import compose_config

Compose = Callable[..., dict[str, Any]]
SCORED = ("protocol.goals_per_task=3", "protocol.max_steps=30")


@pytest.fixture(scope="module")
def run(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    assert embodied.train(compose(run, *SCORED)) == run / "results.json"
    return run


def test_a_run_leaves_metrics_checkpoints_results_and_a_report(run: Path) -> None:
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert "<svg" in (run / "report.html").read_text() or (run / "report.html").stat().st_size > 999
    assert set(json.loads((run / "wall_clock.json").read_text())) >= {"data", "train", "evaluate"}
    results = read_results(run)
    assert results.protocol == "point"
    assert len(results.valid) == 12
    assert results.config["policy"]["dim"] == 16
    assert results.fingerprint
    assert {"python", "torch", "mujoco", "embodied-policies"} <= results.versions.keys()


def test_evaluating_the_checkpoint_gives_the_same_episodes(run: Path, tmp_path: Path) -> None:
    arguments = (f"checkpoint={run}", f"output={tmp_path}", "protocol=point", "device=cpu")
    more = ("threads=1", "env.num_envs=3", "env.workers=0", "eval.inference_batch=4")
    config = compose_config(*arguments, *SCORED, *more, name="evaluate")
    assert embodied.evaluate(config) == tmp_path / "results.json"
    again, before = read_results(tmp_path), read_results(run)
    assert again.outcomes == before.outcomes
    assert again.config["seed"] == before.config["seed"]


def test_the_same_seed_gives_the_same_run_and_another_does_not(
    run: Path, compose: Compose, tmp_path: Path
) -> None:
    metrics = (run / "metrics.jsonl").read_bytes()
    for name, seed in {"same": 0, "other": 1}.items():
        embodied.train(compose(tmp_path / name, *SCORED, f"seed={seed}"))
        assert ((tmp_path / name / "metrics.jsonl").read_bytes() == metrics) is (name == "same")


def test_probes_are_reported_beside_the_protocol(compose: Compose, tmp_path: Path) -> None:
    probe = {"_target_": "embodied.protocols.Protocol", "name": "told-another", "max_steps": 10}
    config = compose(tmp_path, "train.steps=1")
    config["probes"] = {"other_instruction": {**probe, "goals_per_task": 1, "wording": "other"}}
    embodied.train(config)
    probes = read_results(tmp_path).probes
    assert set(probes) == {"other_instruction", "other_instruction_expert"}


@pytest.mark.slow  # two whole runs
def test_wandb_offline_needs_no_network_and_the_local_metrics_are_the_same(
    run: Path, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    embodied.train(compose(tmp_path, *SCORED, "logger=wandb"))
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_the_default_policy_reads_instructions_in_the_point_world(tmp_path: Path) -> None:
    config = compose_config(
        "task=point",
        "device=cpu",
        "threads=1",
        f"run_dir={tmp_path / 'run'}",
        f"data_dir={tmp_path / 'data'}",
        "+task.collect.workers=1",
        "+task.collect.progress=false",
        "task.collect.episodes_per_task=60",
        "algorithm.precision=fp32",
        "train.steps=1000",  # half of the recipe's
        "env.workers=0",
        "protocol.goals_per_task=10",
        "video.per_task=0",
        "~probes.held_out_paraphrases",
    )
    embodied.train(config)
    results = read_results(tmp_path / "run")
    told_another = results.probes["other_instruction"].success()
    assert results.success().low > 2 * told_another.high


def test_what_a_source_is_of_decides_the_task(compose: Compose, tmp_path: Path) -> None:
    acting = compose(tmp_path)
    recorded = compose_config("task=dataset", f"run_dir={tmp_path}", "data.path=somewhere")
    assert type(make_task(acting)) is SuiteTask
    assert type(make_task(recorded)) is DatasetTask
    rewards = {"source": {**recorded["source"], "kind": "rewards"}}
    with pytest.raises(ConfigError, match="a source of rewards acts in a simulator"):
        make_task({**recorded, **rewards})
    wrong = {"source": {**acting["source"], "kind": "reward"}}
    with pytest.raises(
        ConfigError, match=r"source\.kind must be one of .*'rewards'.*, got 'reward'"
    ):
        make_task({**acting, **wrong})
