"""Two processes train like one: the same curve, interchangeable checkpoints, one voice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import embodied
from embodied.loggers import read_jsonl
from scripts.drill import differences

Compose = Callable[..., dict[str, Any]]
ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(900)
RUNS = {
    "ddp": ("algorithm.strategy=ddp", "algorithm.accumulate=2"),
    "fsdp": ("algorithm.strategy=fsdp", "algorithm.accumulate=2"),
    "fsdp-from-one": ("algorithm.strategy=fsdp",),
}
STAGES = (  # not all of its parameters take part in all steps; words find goals, then it acts
    "policy=grif",
    "policy.align_steps=3",
    "source.told.start=true",
    "source.goals={p_trajgoal: 0.0, p_finalgoal: 1.0}",
)
# Starting torch twice for each run would take most of the time, so one launch trains them all. The
# group is joined once: torchrun's store would hand the second group the addresses of the first.
DRIVER = """
import json, pathlib, runpy, sys
import torch.distributed
torch.distributed.destroy_process_group = lambda: None
script, runs = sys.argv[1], json.loads(pathlib.Path(sys.argv[2]).read_text())
for arguments in runs:
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
"""


@dataclass
class Launch:
    root: Path
    process: subprocess.CompletedProcess[str]


def rewind(run: Path) -> None:
    """Takes a finished run back to the checkpoint before its last."""
    shutil.rmtree(max((run / "checkpoints").glob("step-*")))
    (run / "results.json").unlink()


def run_group(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command, and ends its children too if it does not end by itself."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            stdout, stderr = process.communicate(timeout=800)
        except BaseException:
            process.terminate()  # torchrun then ends its children, which no signal of ours reaches
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def launch(
    tiny: tuple[str, ...], compose: Compose, tmp_path_factory: pytest.TempPathFactory
) -> Launch:
    root = tmp_path_factory.mktemp("distributed")
    embodied.train(compose(root / "one"))
    shutil.copytree(root / "one", root / "fsdp-from-one")
    rewind(root / "fsdp-from-one")
    runs = [[*tiny, f"run_dir={root / name}", *more] for name, more in RUNS.items()]
    talking = [each for each in tiny if not each.startswith("~policy")]
    runs.append([*talking, f"run_dir={root / 'stages'}", *STAGES])
    (root / "runs.json").write_text(json.dumps(runs))
    (root / "driver.py").write_text(DRIVER)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    files = [root / "driver.py", ROOT / "train.py", root / "runs.json"]
    return Launch(root, run_group([*torchrun, *map(str, files)]))


def assert_same_curve(run: Path, one: Path) -> None:
    rows, expected = read_jsonl(run / "metrics.jsonl"), read_jsonl(one / "metrics.jsonl")
    assert len(rows) == len(expected) == 6
    for row, reference in zip(rows, expected, strict=True):
        assert row == pytest.approx(reference, rel=1e-5)


def test_torchrun_succeeds_and_only_the_first_process_speaks(launch: Launch) -> None:
    assert launch.process.returncode == 0, launch.process.stderr
    assert launch.process.stdout.count("results: ") == len(RUNS) + 1
    assert launch.process.stderr.count("torch 2.") <= len(RUNS) + 1


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_the_curve_of_one(launch: Launch, name: str) -> None:
    assert_same_curve(launch.root / name, launch.root / "one")
    assert (launch.root / name / "results.json").exists()


def test_two_processes_go_through_the_stages_of_a_policy(launch: Launch) -> None:
    rows = read_jsonl(launch.root / "stages" / "metrics.jsonl")
    assert ["align/language-goal_state" in row for row in rows] == [True] * 3 + [False] * 3


def test_accumulating_gives_the_same_curve(
    launch: Launch, compose: Compose, tmp_path: Path
) -> None:
    embodied.train(compose(tmp_path / "run", "algorithm.accumulate=4"))
    assert_same_curve(tmp_path / "run", launch.root / "one")


def test_one_process_goes_on_from_a_sharded_checkpoint(
    launch: Launch, compose: Compose, tmp_path: Path
) -> None:
    shutil.copytree(launch.root / "fsdp", tmp_path / "run")
    rewind(tmp_path / "run")
    embodied.train(compose(tmp_path / "run", "algorithm.accumulate=2"))
    assert_same_curve(tmp_path / "run", launch.root / "one")


def test_checkpoints_of_one_and_many_hold_the_same_names(launch: Launch) -> None:
    found = differences(launch.root / "ddp", launch.root / "fsdp")
    assert not [item for item in found if item in ("step", "state")]
