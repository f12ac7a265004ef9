"""An interrupted run goes on as if nothing had happened, and faults cost no checkpoint."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import embodied
from embodied import checkpoint
from embodied.algorithms.bc import BC
from embodied.checkpoint_files import load
from embodied.locks import RunLock, RunLocked
from embodied.trainer import Diverged, Interrupted
from scripts.drill import differences, drill

Compose = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def unbroken(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    embodied.train(compose(run))
    return run


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """interrupt_at(step): sends this process a signal in the middle of that step."""
    update = BC.update

    def arm(step: int, number: int = signal.SIGTERM) -> None:
        def interrupted(self: BC, batch: Any, now: int) -> Any:
            if now == step:
                os.kill(os.getpid(), number)
            return update(self, batch, now)

        monkeypatch.setattr(BC, "update", interrupted)

    yield arm
    monkeypatch.undo()


@pytest.fixture
def interrupted(
    compose: Compose, tmp_path: Path, interrupt_at: Callable[..., None], monkeypatch: Any
) -> Path:
    """A run that was stopped after three of its six steps."""
    interrupt_at(2)
    with pytest.raises(Interrupted) as caught:
        embodied.train(compose(tmp_path / "run"))
    assert caught.value.code == 128 + signal.SIGTERM
    monkeypatch.undo()
    return tmp_path / "run"


def steps(run: Path) -> list[int]:
    found = (run / "checkpoints").glob("step-*")
    return sorted(int(path.name.removeprefix("step-")) for path in found)


def test_a_run_stopped_between_saves_and_log_lines_goes_on_bit_by_bit(
    compose: Compose, interrupted: Path, unbroken: Path
) -> None:
    assert steps(interrupted) == [2, 3]
    embodied.train(compose(interrupted))
    assert differences(unbroken, interrupted) == []


def test_averages_of_metrics_survive_an_interruption_between_log_lines(
    compose: Compose, tmp_path: Path, interrupt_at: Callable[..., None], monkeypatch: Any
) -> None:
    embodied.train(compose(tmp_path / "a", "train.log_every=4"))
    interrupt_at(1, signal.SIGUSR1)
    with pytest.raises(Interrupted):
        embodied.train(compose(tmp_path / "b", "train.log_every=4"))
    monkeypatch.undo()
    embodied.train(compose(tmp_path / "b", "train.log_every=4"))
    assert differences(tmp_path / "a", tmp_path / "b") == []


def test_a_finished_run_is_only_evaluated_again(compose: Compose, unbroken: Path) -> None:
    before = (unbroken / "metrics.jsonl").read_bytes()
    embodied.train(compose(unbroken))
    assert (unbroken / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow  # whole processes
def test_the_second_signal_ends_the_process_at_once(tiny: tuple[str, ...], tmp_path: Path) -> None:
    # The first signal is remembered until the step is done; this step never ends.
    code = (
        "import os, runpy, signal, time\n"
        "from embodied.algorithms.bc import BC\n"
        "def update(self, batch, step):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(100)\n"
        "BC.update = update\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, *tiny, f"run_dir={tmp_path / 'run'}"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert process.returncode == -signal.SIGTERM


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    compose: Compose, interrupted: Path, unbroken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = checkpoint.step_path(interrupted / "checkpoints", 3) / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    embodied.train(compose(interrupted))
    assert "E_CKPT_CORRUPT" in caplog.text
    assert (interrupted / "checkpoints" / "corrupt-step-00000003-1").is_dir()
    assert differences(unbroken, interrupted) == []


def test_two_runs_in_one_directory_are_refused(compose: Compose, tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(RunLocked, match=rf"process {os.getpid()} on \S+ since"):
        embodied.train(compose(tmp_path))


def test_another_config_is_refused_and_harmless_changes_are_not(
    compose: Compose, interrupted: Path
) -> None:
    with pytest.raises(checkpoint.ConfigMismatch) as caught:
        embodied.train(compose(interrupted, "train.batch_size=32", "policy.dim=8"))
    assert "train.batch_size: 16 -> 32" in str(caught.value)
    assert "policy.dim: 16 -> 8" in str(caught.value)
    embodied.train(compose(interrupted, "train.log_every=2", "env.num_envs=2"))


def test_other_data_are_refused(
    compose: Compose, interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embodied_datasets.lerobot import LeRobotDataset

    monkeypatch.setattr(LeRobotDataset, "fingerprint", "other")
    with pytest.raises(checkpoint.ConfigMismatch, match="E_DATA_CHANGED"):
        embodied.train(compose(interrupted))


@pytest.mark.slow
def test_a_full_disk_while_saving_costs_no_checkpoint(
    tiny: tuple[str, ...], compose: Compose, interrupted: Path, unbroken: Path, command: Any
) -> None:
    policy = checkpoint.step_path(interrupted / "checkpoints", 3) / "policy.safetensors"
    limit = policy.stat().st_size // 2  # no file may grow beyond it

    def fill_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = command("train.py", *tiny, f"run_dir={interrupted}", preexec_fn=fill_disk)
    assert process.returncode == 1
    assert "error: E_DISK_FULL" in process.stderr
    assert "Traceback" not in process.stderr
    assert steps(interrupted) == [2, 3]
    embodied.train(compose(interrupted))
    assert differences(unbroken, interrupted) == []


def test_a_diverging_loss_ends_the_run_and_is_never_saved(compose: Compose, tmp_path: Path) -> None:
    config = compose(tmp_path, "algorithm.learning_rate=1e38", "train.log_every=100")
    with pytest.raises(Diverged, match=r"E_DIVERGED: .*loss.* Lower algorithm\.learning_rate"):
        embodied.train(config)
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert found is None or all(x.isfinite().all() for x in found.tensors["policy"].values())


def test_the_global_generators_are_restored(compose: Compose, interrupted: Path) -> None:
    found = checkpoint.latest(interrupted / "checkpoints")
    assert found is not None
    torch.manual_seed(123)
    embodied.train(compose(interrupted, "train.keep=9"))
    after = load(checkpoint.step_path(interrupted / "checkpoints", 4))
    assert torch.equal(found.tensors["random"]["torch"], after.tensors["random"]["torch"])


@pytest.mark.slow
def test_killed_runs_lose_nothing(tmp_path: Path) -> None:
    card = drill(tmp_path, kills=1, steps=8)
    assert card.kills == 1
    assert not card.differences


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    card = drill(tmp_path, kills=20, steps=100)
    assert card.kills == 20
    assert card.inside_a_save >= 3
    assert not card.differences
