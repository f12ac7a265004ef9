"""The picture of all worlds: a row for each that is installed, and a word about the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts import gallery


def test_each_world_gets_a_row_and_one_that_is_not_installed_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite_of = gallery.suite_of

    def fake(world: str) -> Any:
        if world == "absent":
            raise ModuleNotFoundError("pip install 'embodied-policies[absent]'")
        return suite_of(world)

    monkeypatch.setattr(gallery, "suite_of", fake)
    path = tmp_path / "worlds.png"
    size = ["--output", str(path), "--size", "40", "--tasks", "2"]
    assert gallery.main(["absent", "point", *size]) == 0
    printed = capsys.readouterr()
    assert "absent: left out, pip install 'embodied-policies[absent]'" in printed.err
    assert "point: 2 tasks" in printed.out
    pixels = np.asarray(Image.open(path))
    assert pixels.shape[1] == 2 * 44 + 4
    for colour in ((214, 50, 48), (48, 98, 205)):  # pads, in both tiles
        found = (pixels == colour).all(-1)
        assert found[:, :46].any()
        assert found[:, 46:].any()
    assert gallery.main(["absent", *size]) == 1


def test_tasks_come_from_all_over_the_librarys_list() -> None:
    suite = gallery.suite_of("gym_mujoco")
    assert suite.tasks == ("HalfCheetah-v5",)
    chosen = gallery.tasks_of(suite, 3)
    assert (chosen[0], chosen[-1], len(chosen)) == ("Ant-v5", "Walker2d-v5", 3)
    assert not {*chosen} & {*gallery.tasks_of(suite, 3, shown=chosen)}
    assert gallery.tasks_of(gallery.suite_of("point"), 9) == list(gallery.suite_of("point").tasks)
