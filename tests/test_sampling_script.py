"""One trained policy, evaluated at several samplings."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from embodied.experiment import train
from embodied.results import RESULTS_FILE, read_results
from scripts.sampling import main
from tests.conftest import Compose


def test_each_value_is_evaluated_once_in_the_same_episodes(
    compose: Compose, fake_language: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(compose(run))
    vary = [str(run), "--vary", "num_steps", "1", "2"]
    assert main([*vary, "--png", str(tmp_path / "x.png"), "protocol.goals_per_task=2"]) == 0
    rows = [row.split(" | ")[0] for row in capsys.readouterr().out.splitlines() if "|" in row]
    assert rows[-4:] == ["| num_steps", "| ---", "| 1", "| 2"]
    assert Image.open(tmp_path / "x.png").size[0] > 100
    folders = [run / "sampling" / f"num_steps={n},protocol.goals_per_task=2" for n in (1, 2)]
    one, two = (read_results(folder) for folder in folders)
    assert [each.config["policy"]["head"]["num_steps"] for each in (one, two)] == [1, 2]
    assert [x.assignment for x in one.outcomes] == [x.assignment for x in two.outcomes]
    assert len(one.outcomes) == 2 * len(one.tasks)
    before = [(x / RESULTS_FILE).stat().st_mtime_ns for x in folders]
    main([*vary, "protocol.goals_per_task=2"])
    assert before == [(x / RESULTS_FILE).stat().st_mtime_ns for x in folders]


def test_an_unknown_key_is_named(
    compose: Compose, fake_language: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(compose(tmp_path / "run"))
    with pytest.raises(SystemExit):
        main([str(tmp_path / "run"), "--vary", "nun_steps", "1"])
    assert "nun_steps" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none"), "--vary", "num_steps", "1"])
    assert "none" in capsys.readouterr().err
