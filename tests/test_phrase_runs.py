"""Two-level policies from end to end: trained by one command, corrected, examined."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import embodied
from embodied.build import instantiate
from embodied.loading import load_policy
from embodied.loggers import read_jsonl
from embodied.policies.hierarchical import HierarchicalPolicy
from embodied.structs import Annotation
from embodied_datasets.lerobot_writer import LeRobotWriter

Compose = Callable[..., dict[str, Any]]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

TWO_LEVELS = (
    "policy=hierarchical",
    "policy.phrase_level.codes._target_=embodied.policies.codes.OneHotCodes",
    "+policy.phrase_level.codes.size=16",
    "policy.phrase_level.head.num_layers=1",
    "policy.phrase_level.head.num_heads=2",
)
MOTIONS = {
    "_target_": "embodied_datasets.labellers.Motions",
    "columns": [0, 1],
    "horizon": 3,
    "axes": [
        {"positive": "go right", "negative": "go left", "threshold": 0.02},
        {"positive": "go up", "negative": "go down", "threshold": 0.02},
    ],
}


@pytest.fixture(scope="module")
def config(compose: Compose) -> Callable[..., dict[str, Any]]:
    """config(run_dir, *overrides): a tiny run on the point world with motions as phrases."""

    def composed(run_dir: Path, *overrides: str) -> dict[str, Any]:
        found = compose(
            run_dir,
            "policy.pipelined=true",
            "source=mixture",
            "train.save_every=1000",
            "source.told={phrases: motion, ahead: 2}",
            *overrides,
        )
        recorded = found["task"]["episodes"]
        found["task"]["episodes"] = {
            "_target_": "embodied_datasets.relabelled.Relabelled",
            "episodes": recorded,
            "labellers": [MOTIONS],
        }
        return found

    return composed


@pytest.fixture(scope="module")
def base(config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("phrases") / "run"
    embodied.train(config(run, *TWO_LEVELS, "train.steps=30"))
    return run


def policy_of(run: Path) -> HierarchicalPolicy:
    policy = load_policy(run, "cpu")[0]
    assert isinstance(policy, HierarchicalPolicy)
    return policy


def test_a_run_knows_the_phrases_of_its_data(base: Path) -> None:
    rows = read_jsonl(base / "metrics.jsonl")
    assert {"action_loss", "phrase_loss", "motion_accuracy"} <= rows[-1].keys()
    assert rows[-1]["phrase_loss"] < rows[0]["phrase_loss"]
    candidates = policy_of(base).candidates
    assert {"go right", "go left"} <= set(candidates)


def test_corrections_join_the_candidates_and_leave_the_action_level(
    base: Path, config: Callable[..., Any], tmp_path: Path
) -> None:
    settings = config(
        tmp_path / "run", *TWO_LEVELS, f"init_from={base}", "algorithm.train_only=[phrase_level.*]"
    )
    episodes = instantiate(settings["task"]["episodes"])
    said = (Annotation("motion", "", 0), Annotation("motion", "go on", 2, role="user"))
    with LeRobotWriter(tmp_path / "corrections", spec=episodes.spec) as writer:
        for i in range(2):
            writer.add(str(i), replace(episodes[i], annotations=said))
        writer.finalize()
    settings["source"]["sets"] = {
        "corrections": {
            "times": 50,
            "label": "action",
            "episodes": {
                "_target_": "embodied_datasets.relabelled.Relabelled",
                "labellers": [
                    {"_target_": "embodied_datasets.labellers.Spoken", "style": "motion"}
                ],
                "episodes": {
                    "_target_": "embodied_datasets.lerobot.LeRobotDataset",
                    "root": str(tmp_path / "corrections"),
                    "only_success": False,
                },
            },
        }
    }
    embodied.train(settings)
    before, after = policy_of(base), policy_of(tmp_path / "run")
    assert after.candidates == (*before.candidates, "go on")
    new = after.state_dict()
    changed = [name for name, x in before.state_dict().items() if not torch.equal(x, new[name])]
    assert "phrase_level.head.token" in changed
    assert all(name.startswith("phrase_level.") for name in changed)


@pytest.mark.slow
def test_runs_are_examined_on_the_same_episodes(
    base: Path, config: Callable[..., Any], tmp_path: Path, command: Run, compose: Compose
) -> None:
    settings = config(tmp_path / "flat", "policy=hierarchical_flat", "train.steps=5")
    embodied.train(settings)
    episodes = settings["task"]["episodes"]
    done = command(
        "scripts/phrases.py",
        f"runs={{two: {base}, flat: {tmp_path / 'flat'}}}",
        "flat=flat",
        "device=cpu",
        "frames=5",
        f"output={tmp_path / 'found.json'}",
        "task.collect=null",
        "~task.episodes",
        f"+task.episodes={_hydra(episodes)}",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert json.loads(done.stdout) == found
    assert 0 <= found["two"]["motion_accuracy"]["mean"] <= 1
    assert found["flat"]["motion_accuracy"] is None
    assert found["two"]["mse_own_phrases"]["episodes"] == len(instantiate(episodes))
    difference = found["against flat"]["two"]["mse_own_phrases"]["mean"]
    errors = [found[name]["mse_own_phrases"]["mean"] for name in ("two", "flat")]
    assert difference == pytest.approx(errors[0] - errors[1])


def _hydra(node: Any) -> str:
    """A plain container as Hydra's command line takes it."""
    if isinstance(node, dict):
        return "{" + ",".join(f"{key}:{_hydra(value)}" for key, value in node.items()) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(_hydra, node)) + "]"
    return json.dumps(node)
