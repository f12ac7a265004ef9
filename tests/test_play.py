"""Collecting play: long episodes of one sub-task after the other, with words for each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embodied.suites import Player, Playful
from embodied.testing import check_episodes
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.play import collect
from embodied_datasets.scripted import Collection
from embodied_envs.point import TASKS, PointEnv, PointSuite


class _Wanderer:
    """Goes from pad to pad."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._steps = 0
        self._target = ""
        self.pursuits: list[tuple[int, str]] = []

    def __call__(self, state: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        if self._steps % 10 == 0:
            self._target = str(self._random.choice(TASKS))
            self.pursuits.append((self._steps, PointSuite().texts(self._target).canonical))
        self._steps += 1
        return PointSuite().expert(self._target)(state)


class _EndlessEnv(PointEnv):
    def step(self, action: Any) -> Any:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info | {"success": False}


@dataclasses.dataclass(frozen=True)
class _Playground(PointSuite):
    tasks: tuple[str, ...] = ("reach-red",)

    def make_env(self, *, render_size: tuple[int, int] | None = None) -> PointEnv:
        return _EndlessEnv(self, render_size)

    def expert(self, task: str, *, seed: int = 0) -> Any:
        return _Wanderer(seed)


class _PlayfulSuite(PointSuite):
    def playground(self, steps: int) -> PointSuite:
        return _Playground(max_steps=steps)


def _collect(root: Path, **settings: Any) -> Collection:
    settings = {"episodes": 3, "steps": 35, "workers": 1, "progress": False} | settings
    return collect(_PlayfulSuite(), root, **settings)


def test_every_episode_has_its_length_and_says_what_was_pursued_when(tmp_path: Path) -> None:
    assert isinstance(_PlayfulSuite(), Playful)
    assert isinstance(_Wanderer(0), Player)
    result = _collect(tmp_path)
    episodes = LeRobotDataset(tmp_path)
    check_episodes(episodes)
    assert len(episodes) == 3
    for episode in episodes:
        assert len(episode) == 35
        assert (episode.success, episode.terminated, episode.truncated) == (False, False, True)
        starts = [start for start, _ in episode.info["subtasks"]]
        assert starts == [0, 10, 20, 30]
        for start, words in episode.info["subtasks"]:
            task = next(t for t in TASKS if PointSuite().texts(t).canonical == words)
            expected = PointSuite().expert(task)(episode.state[start : start + 5])
            np.testing.assert_array_equal(episode.expert_action[start : start + 5], expected)
    assert result.success_rate == {}
    assert sum(result.subtasks.values()) == 12


def test_episodes_play_in_different_ways_and_noise_moves_what_is_executed(tmp_path: Path) -> None:
    _collect(tmp_path, noise=(0.2,))
    episodes = list(LeRobotDataset(tmp_path))
    assert len({str(episode.info["subtasks"]) for episode in episodes}) > 1
    assert all(not np.array_equal(e.action, e.expert_action) for e in episodes)


@pytest.mark.slow  # the machinery is that of scripted.collect, whose test is fast
def test_two_workers_give_the_same_bytes_as_one(tmp_path: Path) -> None:
    for workers in (1, 2):
        _collect(tmp_path / str(workers), workers=workers)
    one, two = (LeRobotDataset(tmp_path / name) for name in ("1", "2"))
    assert one.fingerprint == two.fingerprint


def test_a_second_run_adds_nothing_and_refuses_other_settings(tmp_path: Path) -> None:
    first = _collect(tmp_path)
    assert _collect(tmp_path) == first
    with pytest.raises(ValueError, match="max_steps: 35 in the folder, 34 now"):
        _collect(tmp_path, steps=34)


def test_a_suite_without_a_playground_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="point has no playground"):
        collect(PointSuite(), tmp_path / "play", episodes=1, steps=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [{"episodes": 0}, {"steps": 0}])
def test_senseless_settings_are_refused(tmp_path: Path, settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be 1 or more"):
        _collect(tmp_path, **settings)
    assert not list(tmp_path.iterdir())
