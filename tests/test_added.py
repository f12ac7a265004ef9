"""Further episodes beside a task's own: how much of each batch they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import embodied
from embodied.data.added import Amount, add
from embodied.data.windows import Windows
from embodied.loggers import read_jsonl
from embodied.targets import ConfigError

Compose = Callable[..., dict[str, Any]]


def windows(episodes: int, length: int = 3, value: float = 0.0) -> Windows:
    columns = {name: torch.full((episodes * length, 1), value) for name in ("state", "action")}
    return Windows(columns, torch.full((episodes,), length), ["go"] * episodes)


def drawn(mixed: Windows) -> dict[str, float]:
    """The share of each source in many draws."""
    index = mixed.draw(9000, torch.Generator().manual_seed(0))
    count = torch.bincount(mixed.source_index[index], minlength=len(mixed.sources))
    return {name: int(n) / 9000 for name, n in zip(mixed.sources, count, strict=True)}


def test_a_share_is_of_all_rows() -> None:
    mixed = add(windows(20), {"corrections": (windows(2), Amount(share=0.1))})
    assert drawn(mixed) == pytest.approx({"task": 0.9, "corrections": 0.1}, abs=1e-3)


def test_times_are_counted_episode_by_episode() -> None:
    mixed = add(windows(100), {"corrections": (windows(2), Amount(times=50))})
    # 2 episodes that count 50 each, and 100 that count once.
    assert drawn(mixed) == pytest.approx({"task": 0.5, "corrections": 0.5}, abs=1e-3)


def test_shares_and_times_go_together() -> None:
    sets = {"old": (windows(5), Amount(times=2)), "new": (windows(1), Amount(share=0.25))}
    # Of the other three quarters 10 parts are the task's 10 episodes and 10 the 5 old ones.
    found = drawn(add(windows(10), sets))
    assert found == pytest.approx({"task": 0.375, "old": 0.375, "new": 0.25}, abs=1e-3)


def test_nothing_added_changes_nothing() -> None:
    own = windows(3)
    assert add(own, {}) is own


def test_amounts_out_of_range_are_refused() -> None:
    for wrong in ({}, {"share": 0.1, "times": 2}, {"share": 1.0}, {"times": 0}):
        with pytest.raises(ValueError, match=r"share|times"):
            Amount(**wrong)
    sets = {name: (windows(1), Amount(share=0.5)) for name in ("a", "b")}
    with pytest.raises(ValueError, match="leave nothing for the task's own episodes"):
        add(windows(1), sets)


def test_a_run_takes_sets_beside_its_suite(compose: Compose, tmp_path: Path) -> None:
    episodes = compose(tmp_path)["task"]["episodes"]
    config = compose(tmp_path, "source=mixture")
    config["source"]["sets"] = {"again": {"episodes": episodes, "label": "action", "share": 0.5}}
    embodied.train(config)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert {"loss/task", "loss/again"} <= rows[-1].keys()


def test_a_set_without_episodes_is_refused(compose: Compose, tmp_path: Path) -> None:
    config = compose(tmp_path, "source=mixture")
    config["source"]["sets"] = {"again": {"path": "somewhere", "weight": 1}}
    with pytest.raises(ConfigError, match=r"source.sets.again has \['path', 'weight'\]"):
        embodied.train(config)
