"""results.json holds what was measured, and nothing without its protocol."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embodied.results import (
    Evaluation,
    Outcome,
    from_json,
    read_results,
    to_json,
    versions,
    write_results,
)
from embodied.statistics import wilson
from embodied.suites import Assignment


def outcome(task: str, goal: int, success: bool, **changes: Any) -> Outcome:
    assignment = Assignment(task, goal, benchmark_seed=0, seed=goal, instruction=f"do {task}")
    return replace(Outcome(assignment, success, steps=100, reward=1.5), **changes)


def evaluation(**changes: Any) -> Evaluation:
    outcomes = [outcome("push", goal, goal < 3) for goal in range(4)]
    outcomes += [outcome("reach", goal, True) for goal in range(2)]
    outcomes += [outcome("reach", 2, True, valid=False, reason="NaN", reward=-1.0)]
    base = Evaluation("toy-v1", "runs/a", tuple(outcomes), wall_s=2.5, seed=7)
    return replace(base, **changes)


def test_success_is_the_mean_over_tasks_of_valid_episodes():
    result = evaluation()
    assert result.per_task() == {"push": wilson(3, 4), "reach": wilson(2, 2)}
    assert result.success().mean == pytest.approx((0.75 + 1.0) / 2)
    assert result.success().episodes == 6
    assert result.num_invalid("reach") == 1


def test_a_task_without_a_valid_episode_is_named_and_not_counted():
    extra = outcome("peg", 0, True, valid=False, reason="worker died")
    result = evaluation(outcomes=(*evaluation().outcomes, extra))
    assert result.unmeasured == ("peg",)
    assert result.success() == evaluation().success()
    assert math.isnan(result.per_task()["peg"].mean)
    assert to_json(result)["tasks"]["peg"]["mean"] is None


def test_results_survive_the_file(tmp_path: Path):
    probe = evaluation(protocol="toy-v1/held_out", config={})
    result = evaluation(
        probes={"held_out_paraphrases": probe},
        versions={"numpy": "2.0"},
        fingerprint="sha256:1",
        config={"policy": {"head": "edm"}},
    )
    write_results(tmp_path / "run" / "results.json", result)
    assert read_results(tmp_path / "run") == read_results(tmp_path / "run/results.json") == result
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["results.json"]


def test_the_file_holds_the_figures_for_other_readers():
    data = to_json(evaluation(probes={"other_instruction": evaluation()}))
    assert data["success"].keys() == {"mean", "low", "high", "episodes"}
    assert data["tasks"]["reach"].keys() == {"mean", "low", "high", "episodes", "invalid"}
    assert data["tasks"]["reach"]["invalid"] == 1
    assert data["probes"]["other_instruction"]["success"] == data["success"]
    assert len(data["episodes"]) == 7


def test_a_reward_that_is_not_finite_is_valid_json(tmp_path: Path):
    unstable = outcome("push", 0, False, valid=False, reason="NaN", reward=math.nan)
    write_results(tmp_path / "results.json", evaluation(outcomes=(unstable,)))
    assert json.loads((tmp_path / "results.json").read_text())["episodes"][0]["reward"] is None
    assert math.isnan(read_results(tmp_path).outcomes[0].reward)


@pytest.mark.parametrize("protocol", ["", "  ", None])
def test_a_result_without_a_protocol_is_refused(protocol: Any, tmp_path: Path):
    with pytest.raises(ValueError, match="protocol must name"):
        evaluation(protocol=protocol)
    (tmp_path / "results.json").write_text(
        json.dumps({**to_json(evaluation()), "protocol": protocol})
    )
    with pytest.raises(ValueError, match=r"results\.json is not .*protocol must name"):
        read_results(tmp_path)


def test_all_missing_fields_are_named_at_once():
    with pytest.raises(ValueError, match=r"\['protocol', 'wall_s', 'episodes'\]"):
        from_json({"checkpoint": None, "seed": 0})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    write_results(tmp_path / "results.json", evaluation())
    with pytest.raises(TypeError):
        write_results(tmp_path / "results.json", evaluation(config={"path": tmp_path}))
    assert read_results(tmp_path) == evaluation()


def test_versions_are_read_without_importing_the_packages():
    code = (
        "import sys; from embodied.results import versions; found = versions();"
        "assert not {'torch', 'mujoco', 'wandb', 'matplotlib'} & set(sys.modules);"
        "assert found['python'] and found['numpy'] and found['embodied-policies']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "no-such-package" not in versions()


def measured() -> Evaluation:
    """Two tasks with measures 1, 3 and 4, 4 in valid episodes; a third episode is invalid."""
    values = {("push", 0): 1.0, ("push", 1): 3.0, ("reach", 0): 4.0, ("reach", 1): 4.0}
    outcomes = [
        outcome(task, goal, True, metrics={"result": value})
        for (task, goal), value in values.items()
    ]
    outcomes.append(outcome("push", 2, True, valid=False, metrics={"result": 99.0}))
    outcomes.append(outcome("push", 3, True))  # has none
    return evaluation(outcomes=tuple(outcomes))


def test_a_measure_is_the_mean_over_tasks_of_the_means():
    (estimate,) = measured().metrics().values()
    assert (estimate.mean, estimate.episodes) == (3.0, 4)
    assert 2.5 <= estimate.low < 3.0 < estimate.high <= 3.5  # the extreme draws of (1, 3) and 4
    assert evaluation().metrics() == {}


def test_measures_survive_the_file_and_older_files_have_none(tmp_path: Path):
    write_results(tmp_path / "results.json", measured())
    assert read_results(tmp_path) == measured()
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["metrics"]["result"]["mean"] == 3.0
    del data["metrics"]
    for episode in data["episodes"]:
        del episode["metrics"]
    (tmp_path / "results.json").write_text(json.dumps(data))
    older = read_results(tmp_path)
    assert older.metrics() == {}
    assert older.success() == measured().success()
