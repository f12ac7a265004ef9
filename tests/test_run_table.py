"""Runs in a table: what shares a row, and what its figures are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from embodied.experiment import train
from embodied.results import Evaluation, Outcome, write_results
from embodied.run_table import across, cost_of, find_runs, rows_of
from embodied.statistics import Estimate
from embodied.suites import Assignment
from scripts.table import main
from tests.conftest import Compose


def outcomes(wins: Sequence[bool]) -> tuple[Outcome, ...]:
    return tuple(
        Outcome(Assignment("reach", i, 0, i, "go"), win, 9, 1.0, metrics={"path": 1.0 + i})
        for i, win in enumerate(wins)
    )


def write(folder: Path, wins: Sequence[bool], *, protocol: str = "toy", **config: object) -> Path:
    told = {"run_dir": str(folder), "film": f"{folder}/film.mp4", **config}
    held_out = Evaluation(protocol + "-new", None, outcomes(wins[:2]), wall_s=1.0, seed=0)
    probes = {"held_out": held_out}
    found = Evaluation(
        protocol, None, outcomes(wins), wall_s=1.0, seed=0, config=told, probes=probes
    )
    write_results(folder / "results.json", found)
    (folder / "wall_clock.json").write_text(json.dumps({"train": 60.0 * len(wins)}))
    return folder


def test_runs_that_differ_in_their_seed_alone_share_a_row(tmp_path: Path) -> None:
    write(tmp_path / "edm-0", [True, True], seed=0, head={"steps": 3, "seed": 0})
    write(tmp_path / "edm-1", [True, False], seed=1, head={"steps": 3, "seed": 1})
    write(tmp_path / "flow-0", [False, False], seed=0, head={"steps": 4, "seed": 0})
    rows = rows_of(find_runs([tmp_path]))
    assert {row.name: len(row.runs) for row in rows} == {"edm-0": 2, "flow-0": 1}
    shared = next(row for row in rows if row.name == "edm-0")
    assert shared.figure().mean == 0.75
    assert shared.figure().episodes == 4
    assert shared.figure(probe="held_out").mean == 0.75
    assert shared.train_s == 120.0


def test_runs_share_a_row_whose_starts_differ_in_their_seed_alone(tmp_path: Path) -> None:
    starts = [write(tmp_path / f"base-{i}", [False], seed=i, demonstrations=7) for i in (0, 1)]
    other = write(tmp_path / "base-2", [False], seed=0, demonstrations=9)
    runs = [
        write(tmp_path / f"grpo-{i}", [True], seed=i, init_from=str(start))
        for i, start in enumerate((*starts, other))
    ]
    assert sorted(len(row.runs) for row in rows_of(find_runs(runs))) == [1, 2]


def test_what_lies_beside_a_run_does_not_tell_recipes_apart(tmp_path: Path) -> None:
    for i in (0, 1):
        for name in ("corrections", "others"):
            folder = tmp_path / f"seed{i}"
            write(folder / f"from-{name}", [True], seed=i, corrections=str(folder / name))
    rows = rows_of(find_runs([tmp_path / "seed0", tmp_path / "seed1"]))
    assert [(row.name, len(row.runs)) for row in rows] == [
        ("from-corrections", 2),
        ("from-others", 2),
    ]


def test_a_row_has_the_mean_of_each_task(tmp_path: Path) -> None:
    runs = [write(tmp_path / f"a-{i}", [True, i == 0], seed=i) for i in (0, 1)]
    assert [row.per_task() for row in rows_of(find_runs(runs))] == [{"reach": 0.75}]


def test_a_job_of_a_multirun_is_named_by_what_was_overridden(tmp_path: Path) -> None:
    folder = write(tmp_path / "3", [True], seed=2)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("- task=pusht\n- head=flow\n- seed=2\n")
    assert [row.name for row in rows_of(find_runs([tmp_path]))] == ["task=pusht head=flow"]


def test_several_runs_have_students_interval_within_what_shares_can_be() -> None:
    found = across([Estimate(x, 0.0, 1.0, 50) for x in (0.4, 0.5, 0.6)])
    # t(0.975; 2) = 4.3027, standard deviation 0.1
    assert found.mean == pytest.approx(0.5)
    assert found.high - found.mean == pytest.approx(4.3027 * 0.1 / 3**0.5, abs=1e-4)
    assert found.episodes == 150
    assert across([Estimate(x, 0.0, 1.0, 50) for x in (0.9, 1.0)]).high == 1.0
    assert across([Estimate(x, x, x + 1, 50) for x in (0.9, 1.0)]).high > 1.0  # no share


def test_a_measure_of_the_environment_can_stand_in_place_of_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = rows_of(find_runs([write(tmp_path / "one", [True, False])]))
    assert row.figure("path").mean == 1.5
    assert main([str(tmp_path), "--measure", "way"]) == 2
    assert "measure 'way' is none of success, path" in capsys.readouterr().err


def test_what_cannot_stand_in_one_table_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(tmp_path / "one", [True, True])
    other = write(tmp_path / "other", [True, True], protocol="harder")
    assert main([str(one), str(other)]) == 2
    assert "several protocols" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert main([str(one), "--probe", "new"]) == 2
    assert "none of held_out" in capsys.readouterr().err


@pytest.mark.slow  # a training
def test_a_trained_run_is_tabulated_with_its_size_and_latency(
    compose: Compose, fake_language: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(compose(tmp_path / "run"))
    (run,) = find_runs([tmp_path])
    assert main([str(tmp_path), "--json", str(tmp_path / "table.json")]) == 0
    (row,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert row["parameters"] == cost_of(run).parameters > 1000
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert f"{row['success']['mean']:.3f}" in capsys.readouterr().out
