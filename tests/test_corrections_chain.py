"""The whole chain, from demonstrations to a policy that learned from corrections, in miniature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import embodied
from embodied import stages
from embodied.loading import load_policy
from embodied.people import session
from embodied.people.interventions import read_interventions
from embodied.people.narration import held
from embodied.structs import Episode
from embodied_datasets.lerobot import LeRobotDataset
from scripts import corrections as script
from tests.conftest import compose_config

SMALL = (
    "task.collect.episodes_per_task=2",
    "task.collect.noise=[0.0]",
    "+task.collect.workers=1",
    "+task.collect.progress=false",
    "policy.dim=16",
    "policy.head.num_layers=1",
    "policy.head.num_heads=2",
    "algorithm.precision=fp32",
    "algorithm.warmup_steps=1",
    "train.steps=3",
    "train.batch_size=16",
    "train.save_every=3",
    "train.log_every=1",
    "video.per_task=0",
    "protocol.goals_per_task=1",
    "env.num_envs=2",
    "env.workers=0",
    "device=cpu",
)
TWO_LEVELS = ("policy.phrase_level.head.num_layers=1", "policy.phrase_level.head.num_heads=2")
WORLDS = {
    "rth": (
        "task.suite.benchmark=MT1",
        "+task.suite.task=push-v3",
        "task.episodes.episodes.tasks=[push-v3]",
        "protocol.tasks=[push-v3]",
        "task.collect.cross_instruction_fraction=0.0",
        "protocol.max_steps=10",
        "person.max_corrections=2",
        "person.steps=3",
    ),
    "yay": (
        "task.suite.tasks=[scene-task4]",
        "task.episodes.tasks=[scene-task4]",
        "protocol.tasks=[scene-task4]",
        "protocol.max_steps=50",
        "person.max_corrections=2",
        "person.steps=12",
    ),
}


pytestmark = pytest.mark.slow


@pytest.fixture
def chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_language: None
) -> Callable[[str], Path]:
    """chain(recipe): runs its stages in this process; the folder that they leave."""
    mains: dict[str, Any] = {
        "train.py": (embodied.train, "config"),
        "correct.py": (session.correct, "correct"),
    }

    def run(command: Sequence[str], check: bool, stdin: int) -> SimpleNamespace:
        main, name = mains[Path(command[1]).name]
        flat = any("flat" in each or "iwr" in each for each in command)
        trains = name == "config" and not flat
        main(compose_config(*command[2:], *(TWO_LEVELS if trains else ()), name=name))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(stages.subprocess, "run", run)

    def chained(recipe: str) -> Path:
        options = ("--root", str(tmp_path), "--seed", "3", "--episodes", "2")
        overrides = (*SMALL, *WORLDS[recipe], f"data_dir={tmp_path / 'data'}")
        assert script.main([recipe, *options, *overrides]) == 0
        return tmp_path / recipe / "seed3"

    return chained


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_policy(run, "cpu")[0].state_dict()


def changed(before: Path, after: Path) -> set[str]:
    """The parts of a policy that differ; a list of phrases may have grown."""
    old, new = weights(before), weights(after)
    assert old.keys() == new.keys()
    names = {name for name in old if not torch.equal(old[name], new[name])}
    return {name.split(".")[0] for name in names}


def corrected_by(root: Path) -> list[Episode]:
    """The corrected episodes, each of which somebody has corrected."""
    episodes = list(LeRobotDataset(root / "corrections", only_success=False))
    assert len(episodes) == 2
    for episode in episodes:
        assert 0 < len(read_interventions(episode)) <= 2
        assert episode.expert_action is not None
    return episodes


def test_motions_are_learned_and_corrected_from_end_to_end(
    chain: Callable[[str], Path],
) -> None:
    root = chain("rth")
    for name in ("base", "flat", "corrected", "iwr"):
        assert (root / name / "results.json").exists(), name
    for episode in corrected_by(root):
        phrases = held(episode, "motion")
        assert all(words for words, _ in phrases)
        assert {role for _, role in phrases} == {"assistant", "user"}
    assert changed(root / "base", root / "corrected") == {"phrase_level"}
    assert changed(root / "flat", root / "iwr") == {"encoder", "head"}


def test_subtasks_are_learned_and_corrected_from_end_to_end(
    chain: Callable[[str], Path],
) -> None:
    root = chain("yay")
    for name in ("base", "flat", "corrected", "skills"):
        assert (root / name / "results.json").exists(), name
    known = load_policy(root / "base", "cpu")[0].as_planner()
    assert known is not None
    assert {"unlock the drawer", "open the drawer", "close the drawer"} < set(known.candidates)
    for episode in corrected_by(root):
        assert {each.words for each in read_interventions(episode)} <= set(known.candidates)
    assert changed(root / "base", root / "corrected") == {"phrase_level"}
    low = {"encoder", "head", "read_phrase"}
    assert changed(root / "corrected", root / "skills") == low
