"""What the commands say when something is wrong: field, value, remedy, and no traceback."""

from __future__ import annotations

import errno
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import embodied
from embodied import checkpoint
from embodied.cli import clear_errors
from embodied.preflight import check_spaces
from embodied.structs import Spec
from embodied.targets import ConfigError

Compose = Callable[..., dict[str, Any]]
Call = Callable[..., str]
ROOT = Path(__file__).parents[1]
METAWORLD = "suite={_target_: embodied_envs.metaworld.MetaWorld, benchmark: MT10}"


@pytest.fixture(scope="module")
def trained(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "trained"
    embodied.train(compose(run, "train.steps=1"))
    return run


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """fails("train.py", *arguments): what a command that must fail prints on stderr."""

    def call(script: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        said = capfd.readouterr().err
        assert ended.value.code == 1, said
        assert "Traceback" not in said
        return said

    return call


TRAIN = {
    "an unknown task": ("task=nope", ("Could not find 'task/nope'", "metaworld", "point")),
    "a misspelt key": (
        "train.stepz=5",
        ("not in struct", "error: there is no train.stepz; did you mean train.steps?"),
    ),
    "a key without its group": (
        "learning_rate=3",
        ("error: there is no learning_rate; did you mean algorithm.learning_rate?",),
    ),
    "a misspelt key to be left out": (
        "~train.earlystop",
        ("error: there is no train.earlystop; did you mean train.early_stop?",),
    ),
    "a key unlike any": ("nonsense=3", ("error: there is no nonsense\n",)),
    "a misspelt key of a part": (
        "+policy.head.num_layerz=2",
        ("E_CONFIG_KEY: policy.head.num_layerz", "did you mean 'num_layers'?"),
    ),
    "a word for a number": (
        "train.steps=abc",
        ("E_CONFIG_VALUE: train.steps must be a whole number >= 0, got 'abc'",),
    ),
    "a count of zero": ("env.num_envs=0", ("env.num_envs must be a whole number >= 1, got 0",)),
    "a long action horizon": (
        "eval.action_horizon=99",
        ("eval.action_horizon must lie in [1, 4]", "pred_horizon", "got 99"),
    ),
    "a protocol without a name": ("protocol.name=''", ("protocol needs a name",)),
    "too many goals": ("protocol.goals_per_task=9999", ("goals_per_task must lie in", "got 9999")),
    "an unknown sampler": ("policy.head.sampler=nope", ("sampler must be one of", "'nope'")),
    "an indivisible batch": ("algorithm.accumulate=3", ("algorithm.accumulate", "16 rows", "3")),
    "an unknown strategy": ("algorithm.strategy=nope", ("strategy must be", "'nope'")),
    "an unknown backend": ("env.backend=nope", ("backend must be one of auto, python", "'nope'")),
    "a backend that has no such world": (
        "env.backend=envpool",
        ("backend 'envpool' runs plain Meta-World", "point", "backend=python"),
    ),
    "an unknown device": ("device=cuda:7", ("device=cuda:7", "use device=cpu")),
}


@pytest.mark.parametrize(("override", "texts"), TRAIN.values(), ids=TRAIN.keys())
def test_a_faulty_override_is_named_before_anything_is_trained(
    tiny: tuple[str, ...], tmp_path: Path, fails: Call, override: str, texts: tuple[str, ...]
) -> None:
    if torch.cuda.is_available() and override.startswith("device="):
        pytest.skip("there is a GPU")
    said = fails("train.py", *tiny, f"run_dir={tmp_path / 'run'}", override)
    assert [text for text in texts if text not in said] == [], said
    assert len(said.splitlines()) < 60  # no traceback, but perhaps all choices of a group
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_part_that_cannot_be_built_is_named_before_data_are_recorded(
    tiny: tuple[str, ...], tmp_path: Path, fails: Call
) -> None:
    folders = (f"run_dir={tmp_path / 'run'}", f"data_dir={tmp_path / 'data'}")
    assert "E_CONFIG_KEY" in fails("train.py", *tiny, *folders, "+policy.head.num_layerz=2")
    assert not (tmp_path / "data").exists()


def test_a_hole_in_the_data_is_named(tiny: tuple[str, ...], tmp_path: Path, fails: Call) -> None:
    (data,) = (item.removeprefix("data_dir=") for item in tiny if item.startswith("data_dir="))
    shutil.copytree(data, tmp_path / "data")
    hole = next((tmp_path / "data/point/data").rglob("*.parquet"))
    hole.unlink()
    said = fails("train.py", *tiny, f"data_dir={tmp_path / 'data'}", f"run_dir={tmp_path / 'run'}")
    assert hole.name in said


def damaged(run: Path, folder: Path, change: Callable[[Any, Any], None]) -> Path:
    """A valid checkpoint in `folder` whose content was changed before it was saved."""
    found = checkpoint.latest(run / "checkpoints")
    assert found is not None
    policy, config = dict(found.tensors["policy"]), dict(found.documents["config"])
    change(policy, config)
    return checkpoint.save(
        folder,
        found.step,
        tensors={**found.tensors, "policy": policy},
        documents={**found.documents, "config": config},
    )


def without_statistics(policy: Any, config: Any) -> None:
    del policy["encoder.parts.state.normalizer.mean"]


def with_foreign_target(policy: Any, config: Any) -> None:
    config["policy"] = {**config["policy"], "encoder": {"_target_": "os.system", "command": "ls"}}


CHECKPOINTS = {
    "lacks statistics": (
        without_statistics,
        ("E_CKPT_TENSORS", "1 missing: encoder.parts.state.normalizer.mean"),
    ),
    "names a foreign target": (
        with_foreign_target,
        ("E_TARGET_REFUSED: encoder._target_ = 'os.system'", "allow_targets"),
    ),
}


@pytest.mark.parametrize(("change", "texts"), CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_a_checkpoint_that_cannot_be_used_is_refused(
    trained: Path, tmp_path: Path, fails: Call, change: Any, texts: tuple[str, ...]
) -> None:
    path = damaged(trained, tmp_path, change)
    said = fails("scripts/evaluate.py", f"checkpoint={path}", "protocol=point", "device=cpu")
    assert [text for text in texts if text not in said] == [], said


def test_a_checkpoint_that_does_not_exist_is_named(fails: Call, tmp_path: Path) -> None:
    said = fails("scripts/evaluate.py", f"checkpoint={tmp_path / 'nope'}", "protocol=point")
    assert f"E_CKPT_MISSING: {tmp_path / 'nope'}" in said


def test_a_policy_is_not_evaluated_on_a_suite_that_it_does_not_fit(
    trained: Path, fails: Call
) -> None:
    arguments = (f"checkpoint={trained}", "protocol=point", METAWORLD, "device=cpu")
    said = fails("scripts/evaluate.py", *arguments)
    assert "E_SPEC_MISMATCH" in said
    assert "state: expected (10,), found (" in said
    assert "action: expected (2,), found (4,)" in said


def test_all_differing_spaces_are_listed_with_missing_cameras() -> None:
    from embodied_envs.point import PointSuite

    env = PointSuite().make_env()
    spec = Spec(10, 2, (-1.0,) * 2, (1.0,) * 2, 10.0)
    check_spaces(spec, env.observation_space, env.action_space, name="point")
    other = replace(spec, state_dim=39, cameras={"wrist": (8, 8)})
    with pytest.raises(ValueError, match=r"state: expected \(39,\), found \(10,\)") as caught:
        check_spaces(other, env.observation_space, env.action_space, name="point")
    assert "wrist: expected (8, 8, 3), found None" in str(caught.value)


def test_compare_names_a_run_that_was_not_evaluated(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare.py", str(trained), str(tmp_path / "nope")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts/compare.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "nope" in capsys.readouterr().err


def test_an_error_of_a_library_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), clear_errors():
        torch.zeros(2, 3) @ torch.zeros(2, 3)


def test_the_cause_counts_where_a_library_wraps_our_error(capsys: Any) -> None:
    from embodied.protocols import Protocol

    def build() -> None:
        try:
            Protocol("")
        except ValueError as error:
            raise TypeError("wrapped") from error

    with pytest.raises(SystemExit), clear_errors():
        build()
    assert capsys.readouterr().err.startswith("error: a protocol needs a name")


def test_a_full_disk_is_one_line_wherever_it_happens(capsys: Any) -> None:
    with pytest.raises(SystemExit), clear_errors():
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")
    assert "E_DISK_FULL" in capsys.readouterr().err


def test_the_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    from embodied.build import resolve

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ConfigError), clear_errors():
        resolve([1])


def test_a_sweep_is_told_and_goes_on(capsys: Any) -> None:
    from embodied.build import resolve

    with pytest.raises(ConfigError), clear_errors(exits=False):
        resolve([1])
    assert capsys.readouterr().err.startswith("error: E_CONFIG_KEY")


def test_every_error_code_is_documented_and_no_other() -> None:
    folders = ("embodied", "envs", "datasets", "scripts")
    sources = [path.read_text() for name in folders for path in (ROOT / name).rglob("*.py")]
    used = set(re.findall(r"\bE_[A-Z0-9_]+(?=[:\"])", "\n".join(sources)))
    pages = [ROOT / "docs" / name for name in ("errors.md", "data_checks.md")]
    rows = [re.findall(r"^\| `(E_[A-Z0-9_]+)`", page.read_text(), re.M) for page in pages]
    documented = [code for page in rows for code in page]
    assert len(documented) == len(set(documented))
    assert set(documented) == used


def test_a_bar_moves_seldom_in_a_log() -> None:
    code = "import time, embodied.cli, tqdm\nfor _ in tqdm.tqdm(range(100)): time.sleep(0.005)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "100/100" in said.stderr
    assert said.stderr.count("it/s") <= 2
