"""Compiled models are kept on disk by content, and whatever is wrong there costs only time."""

from __future__ import annotations

import logging
from pathlib import Path

import mujoco
import numpy as np
import pytest

from embodied_envs import metaworld_models
from embodied_envs.metaworld_goals import ALL_TASKS
from embodied_envs.metaworld_models import cache_directory, compiled_model

BOX = """<mujoco><include file="part.xml"/><worldbody>
<body name="box" pos="0 0 {height}"><geom type="box" size="1 1 1"/></body>
</worldbody></mujoco>"""
PART = "<mujoco><option timestep='{step}'/></mujoco>"


class Assets:
    """A folder of models like the library's, and the cache beside it."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.xml = (
            folder / "cache" / "metaworld",
            folder / "assets" / "some" / "box.xml",
        )
        self.xml.parent.mkdir(parents=True)
        self.write()

    def write(self, height: float = 1.0, step: float = 0.5) -> None:
        self.xml.write_text(BOX.format(height=height))
        self.xml.with_name("part.xml").write_text(PART.format(step=step))

    def model(self) -> mujoco.MjModel:
        """As another process would get it."""
        metaworld_models._model_of.cache_clear()
        metaworld_models._digest.cache_clear()
        return metaworld_models._model_of(self.xml)

    def files(self) -> list[Path]:
        return sorted(self.cache.iterdir())


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Assets:
    monkeypatch.setenv("EMBODIED_CACHE", str(tmp_path / "cache"))
    return Assets(tmp_path)


def forbid_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(xml: Path) -> None:
        raise AssertionError(f"{xml} was compiled")

    monkeypatch.setattr(metaworld_models, "_compiled", refuse)


def same_arrays(one: mujoco.MjModel, other: mujoco.MjModel) -> bool:
    names = [name for name in dir(one) if isinstance(getattr(one, name, None), np.ndarray)]
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in names)


def test_a_model_is_compiled_once_for_all_processes(
    assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = assets.model()
    forbid_compiling(monkeypatch)
    loaded = assets.model()
    assert loaded is not compiled
    assert same_arrays(loaded, compiled)
    assert loaded.vis.global_.offwidth == compiled.vis.global_.offwidth == 640
    assert loaded.names == compiled.names
    assert [file.suffix for file in assets.files()] == [".mjb"]


def test_what_the_xml_or_an_included_file_says_now_counts(assets: Assets) -> None:
    assert assets.model().body("box").pos[2] == 1.0
    assets.write(height=2.0)
    assert assets.model().body("box").pos[2] == 2.0
    assets.write(height=2.0, step=0.25)
    assert assets.model().opt.timestep == 0.25
    assert len(assets.files()) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_compiled_anew(
    assets: Assets, damage: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = assets.model()
    (file,) = assets.files()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"cut": content[:1000], "flip": content, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert same_arrays(assets.model(), compiled)
    assert file.name in caplog.text
    forbid_compiling(monkeypatch)
    assert same_arrays(assets.model(), compiled)


def test_a_cache_that_cannot_be_written_costs_only_time(
    assets: Assets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assets.cache.parent.write_text("a file, where a directory is needed")
    with caplog.at_level(logging.WARNING):
        assert assets.model().nbody == 2
    assert "not kept" in caplog.text


def test_the_directory_is_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBODIED_CACHE", "/some/where")
    assert cache_directory() == Path("/some/where/metaworld")
    monkeypatch.setenv("EMBODIED_CACHE", "")
    assert cache_directory() is None
    monkeypatch.delenv("EMBODIED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_directory() == Path("/x/embodied/metaworld")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache/embodied/metaworld"


def test_without_a_directory_nothing_is_kept(
    assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBODIED_CACHE", "")
    assert assets.model().nbody == 2
    assert not assets.cache.exists()


def test_tasks_of_one_file_share_its_model() -> None:
    assert compiled_model("reach-v3") is not compiled_model("push-v3")
    assert compiled_model("door-lock-v3") is compiled_model("door-unlock-v3")
    assert compiled_model("faucet-open-v3") is compiled_model("faucet-close-v3")


@pytest.mark.slow
@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_model_of_any_task_is_the_librarys(task: str) -> None:
    from metaworld.env_dict import ENV_CLS_MAP

    theirs, ours = ENV_CLS_MAP[task](), compiled_model(task)
    for name in dir(ours):
        expected = getattr(theirs.model, name, None)
        if isinstance(expected, np.ndarray) and name != "eq_data":  # set by the constructor
            assert getattr(ours, name).tobytes() == expected.tobytes(), name
    assert ours.vis.global_.offwidth == theirs.model.vis.global_.offwidth
