"""Collecting demonstrations: what is asked and recorded, resuming, and independence of workers."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embodied.structs import Episode
from embodied.suites import NoExpertError, check_experts, has_experts
from embodied_datasets import scripted
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.scripted import Collection, collect
from embodied_envs.point import PointEnv, PointSuite


def _collect(root: Path, suite: Any = None, **settings: Any) -> Collection:
    settings = {"episodes_per_task": 4, "workers": 1, "progress": False} | settings
    return collect(suite or PointSuite(max_steps=40), root, **settings)


def _own(episodes: LeRobotDataset) -> list[Episode]:
    return [e for e in episodes if e.info["expert"] == e.info["task"]]


def test_every_task_gets_its_episodes_and_goals_in_turn(tmp_path: Path) -> None:
    result = _collect(tmp_path, PointSuite(num_goals=3, max_steps=60), noise=(0.0,))
    episodes = list(LeRobotDataset(tmp_path))
    assert result.num_episodes == len(episodes) == 16
    assert result.success_rate == dict.fromkeys(PointSuite().tasks, 1.0)
    goals = [e.info["goal"] for e in episodes if e.info["task"] == "reach-blue"]
    assert goals == [0, 1, 2, 0]
    assert all(e.success and e.terminated and not e.truncated for e in episodes)


def test_labels_are_the_experts_actions_and_noise_moves_what_is_executed(tmp_path: Path) -> None:
    suite = PointSuite()
    _collect(tmp_path, suite, noise=(0.0, 0.3))
    levels = set()
    for episode in LeRobotDataset(tmp_path):
        expert = suite.expert(episode.info["expert"])
        assert episode.expert_action is not None
        np.testing.assert_array_equal(expert(episode.state), episode.expert_action)
        assert np.abs(episode.action).max() <= 1
        same = np.array_equal(episode.action, episode.expert_action)
        assert same == (episode.info["noise"] == 0)
        levels.add(episode.info["noise"])
    assert levels == {0.0, 0.3}


def test_instructions_are_trained_paraphrases_of_the_task_and_never_held_out(
    tmp_path: Path,
) -> None:
    suite = PointSuite(tasks=("reach-red",))
    _collect(tmp_path, suite, episodes_per_task=11)
    texts = suite.texts("reach-red")
    used = [episode.instruction for episode in LeRobotDataset(tmp_path)]
    assert sorted(used) == sorted([texts.canonical, *texts.paraphrases])


def test_cross_instruction_episodes_follow_the_words_in_another_tasks_scene(
    tmp_path: Path,
) -> None:
    suite = PointSuite()
    result = _collect(
        tmp_path, suite, noise=(0.0,), cross_instruction_fraction=0.5, cross_instruction_steps=20
    )
    assert result.num_episodes == 24
    crossed = [e for e in LeRobotDataset(tmp_path) if e.info["expert"] != e.info["task"]]
    assert len(crossed) == 8
    for episode in crossed:
        texts = suite.texts(episode.info["expert"])
        assert episode.instruction in (texts.canonical, *texts.paraphrases)
        np.testing.assert_array_equal(
            suite.expert(episode.info["expert"])(episode.state), episode.action
        )
        assert not episode.success
        assert len(episode) == 20 or episode.terminated
    # A crossed episode was not judged, so that asking for successes keeps it.
    assert len(LeRobotDataset(tmp_path, only_success=True)) == 24
    assert set(result.success_rate.values()) == {1.0}


def test_failures_are_kept_and_marked(tmp_path: Path) -> None:
    result = _collect(tmp_path, PointSuite(max_steps=8))
    episodes = list(LeRobotDataset(tmp_path))
    failed = [e for e in episodes if not e.success]
    assert failed
    assert all(len(e) == 8 and e.truncated and not e.terminated for e in failed)
    solved = len(episodes) - len(failed)
    assert len(LeRobotDataset(tmp_path, only_success=True)) == solved
    assert sum(result.success_rate.values()) * 4 == pytest.approx(solved)


class _RestlessEnv(PointEnv):
    """Goes on after success, and shows the expert more than the policy."""

    def step(self, action: Any) -> Any:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info

    @property
    def full_observation(self) -> np.ndarray:
        return np.concatenate([self._state, [7.0]])


@dataclasses.dataclass(frozen=True)
class _RestlessSuite(PointSuite):
    def make_env(self, *, render_size: tuple[int, int] | None = None) -> PointEnv:
        return _RestlessEnv(self, render_size)

    def expert(self, task: str, *, seed: int = 0) -> Any:
        act = super().expert(task)

        def checked(state: np.ndarray) -> np.ndarray:
            assert state[-1] == 7.0
            return 30 * act(state[:10])  # far beyond the bounds

        return checked


def test_an_expert_is_given_up_after_max_steps(tmp_path: Path) -> None:
    _collect(tmp_path, PointSuite(max_steps=40), max_steps=8)
    lengths = {len(episode) for episode in LeRobotDataset(tmp_path)}
    assert max(lengths) == 8


def test_an_episode_ends_some_steps_after_its_first_success(tmp_path: Path) -> None:
    _collect(tmp_path, _RestlessSuite(), noise=(0.0,), steps_after_success=3)
    for episode in LeRobotDataset(tmp_path):
        assert episode.reward is not None
        first = int(np.argmax(episode.reward >= -0.05))  # the point env's radius of success
        assert len(episode) == first + 1 + 3
        assert episode.success
        assert episode.truncated
        assert np.abs(episode.expert_action).max() <= 1


class _ShakyEnv(PointEnv):
    """Breaks down in every episode with an odd seed."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self._odd = seed is not None and seed % 2 == 1
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"unstable": self._odd}


@dataclasses.dataclass(frozen=True)
class _ShakySuite(PointSuite):
    def make_env(self, *, render_size: tuple[int, int] | None = None) -> PointEnv:
        return _ShakyEnv(self, render_size)


def test_unstable_episodes_are_run_again_with_another_seed_and_counted(tmp_path: Path) -> None:
    result = _collect(tmp_path, _ShakySuite())
    episodes = list(LeRobotDataset(tmp_path))
    assert len(episodes) == 16
    assert all(e.info["seed"] % 2 == 0 for e in episodes)
    assert result.num_retries == sum(e.info["retries"] for e in episodes) > 0


def test_a_simulation_that_never_holds_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted, "_MAX_ATTEMPTS", 1)
    with pytest.raises(RuntimeError, match="was unstable 1 times, last: unstable; lower"):
        _collect(tmp_path, _ShakySuite())


def test_two_workers_give_the_same_bytes_as_one(tmp_path: Path) -> None:
    suite = PointSuite(max_steps=20, cameras=("top",), image_size=(32, 32))
    settings = {"cross_instruction_fraction": 0.5, "episodes_per_task": 2}
    for workers in (1, 2):
        _collect(tmp_path / str(workers), suite, workers=workers, **settings)
    one, two = (LeRobotDataset(tmp_path / name) for name in ("1", "2"))
    assert one.fingerprint == two.fingerprint
    assert one[0].images["top"].shape == (len(one[0]), 32, 32, 3)


def test_an_interrupted_collection_resumes_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _collect(tmp_path / "unbroken")
    calls = itertools.count()
    record = scripted.record

    def fail(*args: Any, **kwargs: Any) -> None:
        if next(calls) == 6:
            raise KeyboardInterrupt
        record(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(scripted, "record", fail)
        with pytest.raises(KeyboardInterrupt):
            _collect(tmp_path / "broken")
    assert len(LeRobotDataset(tmp_path / "broken")) == 6
    _collect(tmp_path / "broken")
    unbroken, broken = (LeRobotDataset(tmp_path / name) for name in ("unbroken", "broken"))
    assert unbroken.fingerprint == broken.fingerprint


def test_a_finished_collection_returns_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _collect(tmp_path)
    monkeypatch.setattr(PointSuite, "make_env", lambda self: pytest.fail("nothing is left to do"))
    assert _collect(tmp_path) == first


def test_other_settings_are_refused_with_the_difference_shown(tmp_path: Path) -> None:
    _collect(tmp_path, episodes_per_task=1)
    with pytest.raises(ValueError, match=r"noise: \[0.0, 0.1, 0.2\] in the folder, \[0.5\] now"):
        _collect(tmp_path, episodes_per_task=1, noise=(0.5,))
    with pytest.raises(ValueError, match="num_goals: 50 in the folder, 49 now"):
        _collect(tmp_path, PointSuite(num_goals=49, max_steps=40), episodes_per_task=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes_per_task": 0}, "episodes_per_task must be 1 or more"),
        ({"noise": ()}, "noise must list levels"),
        ({"noise": (-0.1,)}, "noise must list levels"),
        ({"cross_instruction_fraction": -1.0}, "cross_instruction_fraction"),
    ],
)
def test_senseless_settings_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _collect(tmp_path, **settings)
    assert not (tmp_path / "collection.json").exists()


def test_goals_and_noise_levels_meet_in_all_pairs(tmp_path: Path) -> None:
    suite = PointSuite(tasks=("reach-red",), num_goals=2, max_steps=3)
    _collect(tmp_path, suite, noise=(0.0, 0.1), episodes_per_task=24)
    pairs = {(e.info["goal"], e.info["noise"]) for e in _own(LeRobotDataset(tmp_path))}
    assert pairs == {(0, 0.0), (0, 0.1), (1, 0.0), (1, 0.1)}


class Orphan(PointSuite):
    """A point world in which nobody demonstrates."""

    def expert(self, task: str, *, seed: int = 0) -> Any:
        raise NoExpertError(f"{self.name} has no scripted expert, so nobody can demonstrate {task}")


def test_a_suite_without_experts_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    assert has_experts(PointSuite())
    assert not has_experts(Orphan())
    with pytest.raises(NoExpertError, match="nobody can demonstrate reach-red"):
        check_experts(Orphan())
    with pytest.raises(NoExpertError, match="nobody can demonstrate reach-red"):
        _collect(tmp_path / "data", Orphan())
    assert not list(tmp_path.iterdir())
