"""The table of runs that learned from comparisons, and what the labelling script asks about."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embodied.statistics import wilson
from embodied_datasets.compared import load_preferences
from embodied_datasets.formats import open_episodes
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.rendered import with_cameras
from embodied_datasets.replays import Replay, recorded_film
from embodied_datasets.scripted import collect
from embodied_envs.point import PointSuite
from scripts import label, preferences


def write_run(
    path: Path, agreement: list[float], *, success: tuple[int, int] = (0, 0), kl: float | None
) -> Path:
    """A run whose learner was judged by ten comparisons at each logged step."""
    path.mkdir(parents=True)
    rows: list[dict[str, float]] = [{"step": 1, "eval/success": 0.5}]
    for step, share in enumerate(agreement):
        more = {} if kl is None else {"reference/kl": kl}
        rows.append({"step": step, "held_out/agreement": share, "held_out/pairs": 10.0, **more})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    won, count = success
    episodes = [{"success": i < won, "valid": True, "reward": float(i)} for i in range(count)]
    episodes += [{"success": True, "valid": False, "reward": 99.0}] if count else []
    (path / "results.json").write_text(json.dumps({"episodes": episodes}))
    return path


def test_runs_of_a_learner_are_pooled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        write_run(tmp_path / "can" / "cpl-0", [0.1, 0.8], kl=0.25),
        write_run(tmp_path / "can" / "cpl-1", [0.9, 0.6], kl=0.75),
        write_run(tmp_path / "can" / "oppo-0", [0.5], kl=None),
    ]
    (tmp_path / "can" / "ipl-0").mkdir()
    preferences.main([str(run) for run in (*runs, tmp_path / "can" / "ipl-0")])
    printed = capsys.readouterr().out
    expected = wilson(14, 20)
    assert f"| `cpl` | 0.70 [{expected.low:.2f}, {expected.high:.2f}] n=20; KL 0.50 |" in printed
    assert "| `oppo` | 0.50 [" in printed
    assert "ipl-0 has no results yet" in printed


def test_success_and_return_leave_out_what_does_not_count(tmp_path: Path) -> None:
    row = preferences.read(write_run(tmp_path / "a", [1.0], success=(3, 4), kl=None))
    low, high = wilson(3, 4).low, wilson(3, 4).high
    assert f"success 0.75 [{low:.2f}, {high:.2f}] n=4" in preferences.cell([row], by_return=False)
    # Returns 0, 1, 2, 3: mean 1.5, standard error sqrt(5/3) / 2.
    half = 1.96 * (5 / 3) ** 0.5 / 2
    assert f"return 2 ± {half:.0f}" in preferences.cell([row], by_return=True)


def test_what_the_loss_did_by_itself_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [1.0], kl=None)
    rows = [
        {"step": step, "eval/success": x} for step, x in ((0, 0.0), (2, 0.5), (4, 0.9), (6, 0.7))
    ]
    with (run / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    stop = {"measure": "eval/success", "after": 2}
    (run / "results.json").write_text(json.dumps({"config": {"train": {"early_stop": stop}}}))
    assert "unstopped 0.50 → 0.70" in preferences.cell([preferences.read(run)], by_return=False)


def settings(path: Path, **changes: Any) -> dict[str, Any]:
    found = {
        "path": str(path),
        "name": "mine",
        "labeller": "ann",
        "num_pairs": 6,
        "length": 3,
        "held_out": 0.2,
        "seed": 0,
        "camera": None,
        "task": {"name": "dataset"},
    }
    return found | changes


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight episodes in a file without images."""
    rng = np.random.default_rng(0)
    ends = np.zeros(80)
    ends[9::10] = 1
    path = tmp_path / "walks.npz"
    np.savez(
        path,
        observations=rng.normal(size=(80, 2)).astype(np.float32),
        actions=rng.uniform(-1, 1, (80, 1)).astype(np.float32),
        terminals=ends,
    )
    return path


def test_what_is_said_lies_beside_the_data_and_is_found_again(data: Path) -> None:
    episodes = open_episodes(data)
    session = label.open_session(settings(data), data, episodes)
    assert len(session) == 6
    session.answer(b'{"question": 0, "answer": "right"}')
    session.answer(b'{"question": 1, "answer": "equal"}')
    kept = load_preferences(data, "mine", open_episodes(data))
    assert sorted(kept.second_better.tolist()) == [0.5, 1.0]
    assert label.open_session(settings(data), data, episodes).progress()["answered"] == 2
    others = label.open_session(settings(data, seed=1, labeller="bob"), data, episodes)
    others.answer(b'{"question": 0, "answer": "left"}')
    assert len(load_preferences(data, "mine", episodes)) == 3
    with pytest.raises(ValueError, match="segments of 3 steps, got length=4"):
        label.open_session(settings(data, length=4), data, episodes)


def test_without_images_or_a_suite_there_is_nothing_to_show(data: Path) -> None:
    with pytest.raises(ValueError, match="has no images, and task=dataset no suite"):
        label.open_film(settings(data), open_episodes(data))
    with pytest.raises(ValueError, match=r"camera must be one of \[\] \(recorded\), got 'top'"):
        recorded_film(open_episodes(data), "top")


def test_a_segment_of_states_is_drawn_by_running_its_episode_again(tmp_path: Path) -> None:
    suite = PointSuite(max_steps=12)
    collect(suite, tmp_path, episodes_per_task=1, max_steps=12, workers=1, progress=False)
    episodes = LeRobotDataset(tmp_path)
    film = Replay(with_cameras(suite, ["top"], (32, 32), "faithful"), episodes)
    whole, part = film(0, 0, 8), film(0, 3, 4)
    np.testing.assert_array_equal(part, whole[3:7])
    assert whole.shape == (8, 32, 32, 3)
    assert not np.array_equal(whole[0], whole[7])
    other = dataclasses.replace(episodes[0], state=episodes[0].state + 1)
    with pytest.raises(ValueError, match="step 0: the state is not the recorded one"):
        Replay(with_cameras(suite, ["top"], (32, 32), "faithful"), [other])(0, 0, 2)  # type: ignore[arg-type]
    film.close()
