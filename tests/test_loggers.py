"""Metrics reach their files whatever happens to the process, the server or another logger."""

from __future__ import annotations

import builtins
import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import pytest
import torch

from embodied.loggers import ConsoleLogger, JsonlLogger, Loggers, WandbLogger, read_jsonl


class Broken:
    """A tracker that fails from its second row on."""

    def __init__(self) -> None:
        self.calls = 0

    def log(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        self.calls += 1
        if step > 1:
            raise ConnectionError("no route to host")

    def close(self) -> None:
        raise RuntimeError("never reached")


def test_rows_may_vary_and_metrics_may_appear_late(tmp_path: Path):
    jsonl = JsonlLogger(tmp_path / "logs" / "metrics.jsonl")
    jsonl.log({"loss": 1.5}, 1)
    jsonl.log({"loss": torch.tensor(0.25), "eval/success": 1}, 2)
    rows = read_jsonl(jsonl.path)  # before closing: every row is flushed
    jsonl.close()
    assert rows == [{"step": 1, "loss": 1.5}, {"step": 2, "loss": 0.25, "eval/success": 1.0}]


def test_a_value_that_is_not_finite_is_valid_json(tmp_path: Path):
    jsonl = JsonlLogger(tmp_path / "metrics.jsonl")
    jsonl.log({"loss": math.nan, "scale": math.inf}, 1)
    jsonl.close()
    assert json.loads(jsonl.path.read_text()) == {"step": 1, "loss": None, "scale": None}
    assert math.isnan(read_jsonl(jsonl.path)[0]["loss"])


def test_kill_and_resume_writes_the_bytes_of_an_unbroken_run(tmp_path: Path):
    whole, broken = JsonlLogger(tmp_path / "a.jsonl"), JsonlLogger(tmp_path / "b.jsonl")
    for step in range(1, 10):
        whole.log({"loss": 1 / step}, step)
    for step in range(1, 8):
        broken.log({"loss": 1 / step}, step)
    broken.close()
    with broken.path.open("ab") as file:
        file.write(b'{"step": 8, "lo')  # killed within a write
    resumed = JsonlLogger(broken.path)
    resumed.resume(4)
    for step in range(5, 10):
        resumed.log({"loss": 1 / step}, step)
    assert resumed.path.read_bytes() == whole.path.read_bytes()


def test_resuming_leaves_the_null_device_alone():
    jsonl = JsonlLogger(os.devnull)  # what processes other than the first write to
    jsonl.log({"loss": 1.0}, 5)
    jsonl.resume(2)
    jsonl.log({"loss": 1.0}, 3)
    assert Path(os.devnull).is_char_device()
    assert not Path(os.devnull).with_name(".null.tmp").exists()


def test_a_torn_line_does_not_swallow_the_next_row(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n{"step": 2')
    assert len(read_jsonl(path)) == 1
    JsonlLogger(path).log({"loss": 1.0}, 2)
    assert [row["step"] for row in read_jsonl(path)] == [1, 2]


def test_console_writes_one_line_per_step():
    lines: list[str] = []
    ConsoleLogger(lines.append).log({"loss": torch.tensor(0.123456), "lr": 1e-4}, 20)
    assert lines == ["step 20  loss 0.1235  lr 0.0001"]


def test_console_prints_above_a_progress_bar(capsys: pytest.CaptureFixture[str]):
    ConsoleLogger().log({"loss": 1.0}, 3)
    assert capsys.readouterr().out == "step 3  loss 1\n"


def test_a_failing_logger_is_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    broken, lines = Broken(), list[str]()
    loggers = Loggers(JsonlLogger(tmp_path / "m.jsonl"), broken, ConsoleLogger(lines.append))
    with caplog.at_level(logging.WARNING):
        for step in range(1, 5):
            loggers.log({"loss": torch.tensor(1.0)}, step)
        loggers.close()
    assert broken.calls == 2
    assert [record.message for record in caplog.records] == [
        "Broken failed and is left out from here on: ConnectionError('no route to host')"
    ]
    assert len(lines) == len(read_jsonl(tmp_path / "m.jsonl")) == 4


def test_a_failing_jsonl_is_an_error(tmp_path: Path):
    loggers = Loggers(JsonlLogger(tmp_path / "m.jsonl"))
    loggers.close()
    with pytest.raises(ValueError, match="closed file"):
        loggers.log({"loss": 1.0}, 1)


def test_loggers_resume_the_jsonl(tmp_path: Path):
    loggers = Loggers(JsonlLogger(tmp_path / "m.jsonl"))
    for step in (1, 2, 3):
        loggers.log({"loss": 1.0}, step)
    loggers.resume(2)
    assert [row["step"] for row in read_jsonl(tmp_path / "m.jsonl")] == [1, 2]


def test_importing_the_loggers_imports_neither_wandb_nor_torch():
    code = "import sys, embodied.loggers; assert not {'wandb', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_wandb_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without_wandb(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "wandb":
            raise ImportError("No module named 'wandb'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_wandb)
    with pytest.raises(ImportError, match="needs the package wandb: pip install wandb"):
        WandbLogger("project", tmp_path)


def test_an_unknown_mode_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="mode must be 'offline' or 'online', got 'of'"):
        WandbLogger("project", tmp_path, mode="of")  # type: ignore[arg-type]


def _wandb_run(tmp_path: Path, mode: str, **environment: str) -> tuple[list[str], float]:
    """The printed lines and seconds of a run in a process of its own, without a terminal."""
    code = (
        "import time; from embodied.loggers import WandbLogger; start = time.monotonic();"
        f"w = WandbLogger('p', {str(tmp_path)!r}, mode={mode!r}, timeout_s=4);"
        "w.log({'loss': 1.0}, 1); w.close(); print(time.monotonic() - start)"
    )
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    *lines, seconds = process.stdout.splitlines()
    return lines, float(seconds)


def test_wandb_is_offline_unless_asked(tmp_path: Path):
    lines, _ = _wandb_run(tmp_path, "offline")
    assert lines == []
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow  # waits for wandb
def test_wandb_without_a_key_goes_offline_and_asks_nothing(tmp_path: Path):
    lines, _ = _wandb_run(tmp_path, "online")
    assert len(lines) == 1
    assert "no API key found; logging offline, upload later with: wandb sync" in lines[0]


@pytest.mark.slow  # waits for wandb
def test_unreachable_wandb_goes_offline_in_time(tmp_path: Path):
    start = time.monotonic()
    lines, seconds = _wandb_run(
        tmp_path, "online", WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40
    )
    assert seconds < time.monotonic() - start < 20
    assert len(lines) == 1
    assert "the server cannot be used" in lines[0]
    folder = Path(lines[0].rsplit("wandb sync ", 1)[1])
    assert list(folder.glob("*.wandb"))
