"""Training that starts from another run: its weights and statistics, and what it adds to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import embodied
from embodied import checkpoint
from embodied.checkpoint_files import CheckpointError

Compose = Callable[..., dict[str, Any]]


def saved(run: Path) -> dict[str, torch.Tensor]:
    found = checkpoint.latest(run / "checkpoints")
    assert found is not None
    return dict(found.tensors["policy"])


@pytest.fixture(scope="module")
def base(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("base") / "run"
    embodied.train(compose(run, "seed=3"))
    return run


def test_a_run_of_no_steps_from_another_is_that_one(
    base: Path, compose: Compose, tmp_path: Path
) -> None:
    embodied.train(compose(tmp_path, f"init_from={base}", "train.steps=0"))
    before, after = saved(base), saved(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(x, after[name]) for name, x in before.items())


def test_only_what_is_to_be_trained_changes(base: Path, compose: Compose, tmp_path: Path) -> None:
    """Statistics stay those of the first run, whatever the new data are."""
    embodied.train(
        compose(tmp_path, f"init_from={base}", "algorithm.train_only=[head.trunk.out.*]")
    )
    before, after = saved(base), saved(tmp_path)
    changed = {name for name, x in before.items() if not torch.equal(x, after[name])}
    assert changed == {"head.trunk.out.weight", "head.trunk.out.bias"}


def test_another_policy_is_refused_with_all_differences(
    base: Path, compose: Compose, tmp_path: Path
) -> None:
    config = compose(tmp_path, f"init_from={base}", "policy.dim=8")
    with pytest.raises(CheckpointError, match=r"saved tensors do not fit(.|\n)*wrong shape"):
        embodied.train(config)


def test_a_missing_run_is_named(compose: Compose, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"E_CKPT_MISSING: .*nowhere"):
        embodied.train(compose(tmp_path / "run", f"init_from={tmp_path / 'nowhere'}"))
