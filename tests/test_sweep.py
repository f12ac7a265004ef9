"""A sweep runs every job in a directory of its own, and tells the sweeper its success rate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_two_seeds_are_trained_in_two_processes_and_two_directories(
    tiny: tuple[str, ...], tmp_path: Path, command: Any
) -> None:
    run = tmp_path / "sweep"
    arguments = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1")
    process = command("train.py", *arguments, *tiny, f"run_dir={run}", "train.steps=2")
    assert process.returncode == 0, process.stderr
    results = [json.loads((run / job / "results.json").read_text()) for job in ("0", "1")]
    assert [result["config"]["seed"] for result in results] == [0, 1]
    assert [result["config"]["run_dir"] for result in results] == [str(run / "0"), str(run / "1")]
    assert not (run / "results.json").exists()


@pytest.mark.slow
def test_optuna_maximises_the_success_rate(
    tiny: tuple[str, ...], tmp_path: Path, command: Any
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    process = command(
        "train.py",
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.direction=maximize",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=1",
        "algorithm.learning_rate=interval(1e-4,1e-2)",
        *tiny,
        f"run_dir={tmp_path}",
        "train.steps=2",
    )
    assert process.returncode == 0, process.stderr
    best = (tmp_path / "optimization_results.yaml").read_text()
    assert "best_value: 0" in best
