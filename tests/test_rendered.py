"""Images after the fact: the source's numbers, and the pictures that collecting would have made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from embodied.data.sketches import Camera
from embodied_datasets import rendered
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.rendered import render, with_cameras
from embodied_datasets.scripted import collect
from embodied_envs.gym_mujoco import GymMujoco
from embodied_envs.metaworld import MetaWorld
from embodied_envs.point import PointSuite
from embodied_envs.rendering import choose_backend

POINT = PointSuite(max_steps=20)


def gather(suite: Any, root: Path, **settings: Any) -> Path:
    collect(
        suite,
        root,
        **{"episodes_per_task": 2, "max_steps": 20, "workers": 1, "progress": False, **settings},
    )
    return root


def draw(suite: Any, source: Path, root: Path, **settings: Any) -> int:
    return render(suite, source, root, **{"workers": 1, "progress": False, **settings})


def check_same(one: Path, other: Path) -> None:
    """Two data sets have the same numbers, facts and videos, byte for byte."""
    for pattern in ("data/**/*.parquet", "meta/**/*.parquet", "videos/**/*.mp4", "meta/*.json"):
        files = sorted(path.relative_to(one) for path in one.glob(pattern))
        assert files == sorted(path.relative_to(other) for path in other.glob(pattern))
        for file in files:
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


@pytest.mark.parametrize("workers", [1, 2])
def test_states_with_images_added_equal_a_collection_with_cameras(
    tmp_path: Path, workers: int
) -> None:
    crossed = {"cross_instruction_fraction": 0.5, "cross_instruction_steps": 6}
    source = gather(POINT, tmp_path / "states", **crossed)
    suite = with_cameras(POINT, ["top"], (16, 24), "faithful")
    assert draw(suite, source, tmp_path / "drawn", workers=workers) == 12
    collected = gather(suite, tmp_path / "collected", **crossed)
    check_same(tmp_path / "drawn", collected)
    # Collecting into the drawn set finds nothing to do.
    assert gather(suite, tmp_path / "drawn", **crossed) == tmp_path / "drawn"


def test_all_but_the_images_is_the_sources(tmp_path: Path) -> None:
    source = gather(POINT, tmp_path / "states")
    draw(with_cameras(POINT, ["top"], (8, 8), "faithful"), source, tmp_path / "drawn")
    (table,), (drawn,) = (
        [pq.read_table(path) for path in (root / "data").rglob("*.parquet")]
        for root in (source, tmp_path / "drawn")
    )
    assert table.equals(drawn)
    for before, after in zip(
        LeRobotDataset(source), LeRobotDataset(tmp_path / "drawn"), strict=True
    ):
        assert dataclasses.replace(after, images={}).info == before.info
        assert (after.instruction, after.success) == (before.instruction, before.success)
        assert (after.terminated, after.truncated) == (before.terminated, before.truncated)


def test_a_task_of_meta_world_is_drawn_as_collecting_would(tmp_path: Path) -> None:
    if choose_backend() is None:
        pytest.skip("no OpenGL without a display on this machine")
    plain = MetaWorld("MT1", task="reach-v3")
    size = {"episodes_per_task": 1, "max_steps": 5}
    source = gather(plain, tmp_path / "states", **size)
    suite = with_cameras(plain, ["corner2", "gripperPOV"], (16, 16), "fast")
    draw(suite, source, tmp_path / "drawn")
    check_same(tmp_path / "drawn", gather(suite, tmp_path / "collected", **size))
    drawn = LeRobotDataset(tmp_path / "drawn")
    assert drawn.spec.render_profile == "fast"
    assert drawn.spec.cameras == {"corner2": (16, 16), "gripperPOV": (16, 16)}
    assert drawn[0].images["corner2"].std() > 10
    # The wrist's camera moves with the hand; the other one sees where the hand is.
    assert drawn[0].info["cameras"].keys() == {"corner2"}
    camera = Camera.of(drawn[0].info["cameras"]["corner2"])
    pixels, depths = camera.project(drawn[0].state[:, :3])
    assert (depths > 0.5).all()
    assert ((pixels > 0) & (pixels < 16)).all()
    with pytest.raises(ValueError, match="render_profile: fast in the folder, faithful now"):
        gather(dataclasses.replace(suite, render_profile="faithful"), tmp_path / "drawn", **size)
    with pytest.raises(ValueError, match="holds render_profile fast, not native; choose another"):
        draw(with_cameras(plain, ["corner2", "gripperPOV"], (16, 16), "native"), source, drawn.root)


def test_an_interrupted_rendering_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = gather(POINT, tmp_path / "states")
    suite = with_cameras(POINT, ["top"], (8, 8), "faithful")
    record, keys = rendered.record, []

    def fail(incoming: Path, key: str, *args: Any, **kwargs: Any) -> None:
        keys.append(key)
        if len(keys) == 4:
            raise KeyboardInterrupt
        record(incoming, key, *args, **kwargs)

    monkeypatch.setattr(rendered, "record", fail)
    with pytest.raises(KeyboardInterrupt):
        draw(suite, source, tmp_path / "drawn")
    assert len(LeRobotDataset(tmp_path / "drawn")) == 3
    draw(suite, source, tmp_path / "drawn")
    assert len(keys) == 4 + 5  # the one that was cut off comes again
    draw(suite, source, tmp_path / "unbroken")
    check_same(tmp_path / "drawn", tmp_path / "unbroken")
    other = gather(POINT, tmp_path / "others", seed=1)
    with pytest.raises(ValueError, match="was rendered with other settings"):
        draw(suite, other, tmp_path / "drawn")


class DriftingSuite(PointSuite):
    """Another version of the simulator: moves a little further."""

    def make_env(self, *, render_size: tuple[int, int] | None = None) -> Any:
        env = super().make_env(render_size=render_size)
        step = env.step
        env.step = lambda action: step(np.asarray(action) * 1.0001)  # type: ignore[method-assign]
        return env


def test_another_simulation_is_refused_with_the_episode_and_the_step(tmp_path: Path) -> None:
    source = gather(POINT, tmp_path / "states", noise=(0.0,))
    suite = with_cameras(DriftingSuite(max_steps=20), ["top"], (8, 8), "faithful")
    with pytest.raises(ValueError, match=r"episode 000-own-000000, step \d+: the state is not"):
        draw(suite, source, tmp_path / "drawn")
    short = with_cameras(PointSuite(max_steps=3), ["top"], (8, 8), "faithful")
    with pytest.raises(ValueError, match=r"000-own-000000 ends at step 3, recorded \d+ \(trunc"):
        draw(short, source, tmp_path / "short")


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'pixels', which shows too little"):
        with_cameras(GymMujoco(observation="pixels"), [0], (8, 8), "fast")
    source = gather(POINT, tmp_path / "states")
    suite = with_cameras(POINT, ["top"], (8, 8), "fast")
    fewer = dataclasses.replace(suite, tasks=("reach-red",))
    with pytest.raises(ValueError, match="is of reach-green, which point does not have"):
        draw(fewer, source, tmp_path / "drawn")
    with pytest.raises(ValueError, match=r"differ in rate_hz: 10.0 and 5.0"):
        draw(dataclasses.replace(suite, rate_hz=5.0), source, tmp_path / "drawn")
    draw(suite, source, tmp_path / "drawn")
    with pytest.raises(ValueError, match="has images already"):
        draw(suite, tmp_path / "drawn", tmp_path / "again")


def test_rendering_settings_name_the_source(tmp_path: Path) -> None:
    source = gather(POINT, tmp_path / "states", episodes_per_task=1)
    draw(with_cameras(POINT, ["top"], (8, 8), "fast"), source, tmp_path / "drawn")
    found = json.loads((tmp_path / "drawn" / "rendering.json").read_text())
    assert found == {"source": LeRobotDataset(source).fingerprint}
