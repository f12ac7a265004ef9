"""scripts/delay.py: which ways to act are compared, what is kept, and that it goes on."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from embodied.delayed import Delayed
from embodied.execution import RealTime
from embodied.results import Evaluation, Outcome
from embodied.suites import Assignment
from scripts import delay
from scripts.delay import Cell, cells_of, kept_share, main, measure, summarise, table
from tests.test_delayed import Telling

EPISODES = [Assignment("task", goal, 42, goal, "go") for goal in range(10)]


def options(tmp_path: Path, **given: Any) -> argparse.Namespace:
    found = delay._parser().parse_args(["run", "--out", str(tmp_path), "--action-horizon", "3"])
    return argparse.Namespace(**{**vars(found), "delays_ms": [0, 100], **given})


def played(wins: int) -> Evaluation:
    """Of ten episodes, the first ones are solved."""
    outcomes = tuple(Outcome(each, each.goal < wins, 5, 0.0) for each in EPISODES)
    return Evaluation("delay-300", "run", outcomes, 1.0, 42)


class World:
    """Stands in for simulators; remembers who acted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.actors: list[Delayed] = []
        monkeypatch.setattr(delay, "open_envs", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(delay, "evaluate", self.evaluate)

    def evaluate(
        self, actor: Delayed, envs: Any, episodes: Sequence[Assignment], **how: Any
    ) -> tuple[Outcome, ...]:
        self.actors.append(actor)
        return tuple(Outcome(each, each.goal < 8 - actor.delay, 5, 0.0) for each in episodes)


def test_all_ways_at_all_delays_and_the_plain_one_first(tmp_path: Path) -> None:
    found = cells_of(options(tmp_path, modes=["naive", "aligned"], delays_ms=[100, 0]), 20.0)
    assert [(cell.name, cell.steps) for cell in found] == [
        ("aligned-0", 0),
        ("naive-100", 2),
        ("aligned-100", 2),
    ]


def test_what_is_kept_is_a_share_of_the_plain_success_in_the_same_episodes() -> None:
    found = kept_share(played(6), played(8))
    assert found.mean == pytest.approx(6 / 8)
    assert found.low < found.mean < found.high <= 1.25
    assert kept_share(played(8), played(8)).mean == 1


def test_each_cell_acts_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, given = World(monkeypatch), options(tmp_path)
    cells = cells_of(given, 20.0)
    measure(Telling(), None, EPISODES, cells, given, "run")  # type: ignore[arg-type]
    assert [actor.delay for actor in world.actors] == [cell.steps for cell in cells]
    ways = {cell.mode: actor for cell, actor in zip(cells, world.actors, strict=True) if cell.steps}
    queues = {mode: actor._make().mode for mode, actor in ways.items()}
    assert queues == {mode: way for mode, (way, _) in delay.MODES.items()}
    for mode in ("realtime", "trained"):
        execution = ways[mode].controller.execution
        assert isinstance(execution, RealTime)
        assert (execution.delay, execution.trained) == (2, mode == "trained")


def test_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, given = World(monkeypatch), options(tmp_path, modes=["naive", "aligned"])
    cells = cells_of(given, 20.0)
    policy, suite = Telling(), None

    def again(source: str = "run", episodes: Sequence[Assignment] = EPISODES) -> int:
        before = len(world.actors)
        measure(policy, suite, episodes, cells, given, source)  # type: ignore[arg-type]
        return len(world.actors) - before

    assert again() == 3
    assert again() == 0
    (tmp_path / "cells" / "naive-100.json").unlink()
    assert again() == 1
    assert again(source="another run") == 3
    assert again(source="another run", episodes=EPISODES[:5]) == 3


def test_the_figure_the_table_and_the_summary_tell_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    World(monkeypatch)
    given = options(tmp_path, modes=["naive", "aligned"])
    done = measure(Telling(), None, EPISODES, cells_of(given, 20.0), given, "run")  # type: ignore[arg-type]
    rows = {row["mode"] + str(row["steps"]): row for row in summarise(done, given)["cells"]}
    assert rows["aligned0"]["success"]["mean"] == 0.8
    assert rows["naive2"]["kept"]["mean"] == pytest.approx(6 / 8)
    json.dumps(rows, allow_nan=False)
    assert "| naive | 100 ms (2 steps) | 0.600 " in table(done)
    delay.draw(done, tmp_path / "delay.png", "ten episodes")
    assert (tmp_path / "delay.png").read_bytes().startswith(b"\x89PNG")


def test_what_does_not_fit_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chunks must have 10 steps; they have 6"):
        delay.actor(Telling(), 1, Cell("naive", 250.0, 5), 3)
    assert main([str(tmp_path / "nothing")]) == 2
    assert "delay: " in capsys.readouterr().err


def test_unknown_tasks_are_named(tmp_path: Path) -> None:
    class Suite:
        name, tasks, num_goals = "Two", ("a", "b"), 5

    with pytest.raises(ValueError, match=r"--tasks: Two has no c"):
        delay.episodes_of(Suite(), options(tmp_path, tasks=["a", "c"]))  # type: ignore[arg-type]
