"""Policies are compared on shared episodes only, and no difference is claimed by luck."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from embodied.comparison import compare, compare_all, pair
from embodied.results import Evaluation, Outcome, write_results
from embodied.statistics import mcnemar, required_episodes
from embodied.suites import Assignment


def load_script() -> ModuleType:
    path = Path(__file__).parents[1] / "scripts" / "compare.py"
    spec = importlib.util.spec_from_file_location("compare_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def evaluation(wins: Sequence[bool], *, protocol: str = "toy-v1", text: str = "go") -> Evaluation:
    outcomes = tuple(
        Outcome(Assignment("push" if goal % 2 else "reach", goal, 0, goal, text), bool(win), 9, 1.0)
        for goal, win in enumerate(wins)
    )
    return Evaluation(protocol, None, outcomes, wall_s=1.0, seed=0)


A = [goal % 10 < 5 for goal in range(200)]
B = [goal % 10 < 7 for goal in range(200)]  # solves all that A does, and 20 points more


def run(tmp_path: Path, name: str, result: Evaluation) -> str:
    write_results(tmp_path / name / "results.json", result)
    return str(tmp_path / name)


def test_a_clear_difference_is_claimed_with_its_figures():
    verdict = compare(A, B)
    assert verdict.better == "b"
    assert (verdict.only_a, verdict.only_b) == (0, 40)
    assert verdict.difference.mean == pytest.approx(0.2)
    assert verdict.p_value == mcnemar(A, B)
    half = 1.96 * 0.4 / 200**0.5  # a fifth of the differences are 1: standard deviation 0.4
    interval = (verdict.difference.low, verdict.difference.high)
    assert interval == pytest.approx((0.2 - half, 0.2 + half), abs=0.01)
    text = verdict.text("old", "new")
    assert re.fullmatch(r"new is better: \+20\.0 points \[1\d\.\d, 2\d\.\d\], p=1\.8e-12", text)


def test_the_verdict_turns_with_the_order():
    there, back = compare(A, B).text("old", "new"), compare(B, A).text("new", "old")
    assert there.split(" [")[0] == back.split(" [")[0] == "new is better: +20.0 points"


def test_no_difference_says_how_many_more_episodes_are_needed():
    few = compare(A[:40], A[:40], resolution=0.1)
    needed = required_episodes(0.1, discordance=0.1)
    assert few.better is None
    assert few.more_episodes == needed - 40
    assert f"{needed - 40} more episodes needed to see a difference of 10 points" in few.text()
    assert "the 200 episodes suffice to see a difference of 10 points" in (
        compare(A, A, resolution=0.1).text()
    )


def test_luck_is_rarely_called_a_difference():
    rng = np.random.default_rng(0)
    verdicts = [compare(*(rng.random((2, 80)) < 0.6)).better for _ in range(200)]
    # At most 5 %, and two standard errors of 200 draws.
    assert sum(verdict is not None for verdict in verdicts) / 200 <= 0.08


def test_only_the_same_assignment_matches():
    first, second = evaluation(A), evaluation(B)
    changed = replace(second.outcomes[0].assignment, instruction="please go")
    moved = (replace(second.outcomes[0], assignment=changed), *second.outcomes[1:])
    pairing = pair(first, replace(second, outcomes=moved))
    assert len(pairing.matched) == 199
    assert pairing.only_a == (first.outcomes[0].assignment,)
    assert pairing.only_b == (changed,)


def test_an_episode_invalid_in_either_is_left_out():
    first, second = evaluation(A), evaluation(B)
    broken = (replace(second.outcomes[0], valid=False, reason="NaN"), *second.outcomes[1:])
    pairing = pair(first, replace(second, outcomes=broken))
    assert len(pairing.matched) == 199
    assert pairing.invalid == (second.outcomes[0].assignment,)


def test_the_order_of_episodes_does_not_matter():
    first, second = evaluation(A), evaluation(B)
    turned = replace(second, outcomes=second.outcomes[::-1])
    assert pair(first, turned) == pair(first, second)


def test_a_repeated_episode_is_refused():
    twice = evaluation(A)
    twice = replace(twice, outcomes=(*twice.outcomes, twice.outcomes[0]))
    with pytest.raises(ValueError, match="1 of 201 repeat an earlier one"):
        pair(twice, evaluation(B))


def test_each_task_gets_its_own_verdict():
    (comparison,) = compare_all({"a": evaluation(A), "b": evaluation(B)})
    assert comparison.tasks.keys() == {"reach", "push"}
    assert sum(verdict.only_b for verdict in comparison.tasks.values()) == 40


def test_more_comparisons_ask_for_more_certainty():
    runs = {"a": evaluation(A), "b": evaluation(B), "c": evaluation(A)}
    first, second = compare_all(runs)
    assert first.verdict.confidence == second.verdict.confidence == pytest.approx(0.975)


def test_the_script_prints_rates_difference_and_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    runs = [run(tmp_path, "old", evaluation(A)), run(tmp_path, "new", evaluation(B))]
    assert script.main([runs[0], f"{runs[1]}/results.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "protocol toy-v1"
    assert lines[2] == "200 matched episodes, intervals at 95 %"
    assert lines[3].split()[:3] == ["old", "50.0", "%"]
    assert lines[4].split()[:3] == ["new", "70.0", "%"]
    assert lines[6].startswith("new is better: +20.0 points [")


def test_the_script_counts_and_names_what_does_not_match(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    short = evaluation(B)
    short = replace(short, outcomes=short.outcomes[:-7])
    assert script.main([run(tmp_path, "a", evaluation(A)), run(tmp_path, "b", short)]) == 0
    out = capsys.readouterr().out
    assert "left out, only in a: 7\n  push, goal 193, benchmark_seed 0, seed 193, 'go'\n" in out
    assert "  and 2 more" in out


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (evaluation(B, protocol="toy-v2"), "protocol must be the same in both results"),
        (evaluation(B, text="other words"), "no episode is valid in both results"),
    ],
)
def test_the_script_refuses_what_cannot_be_compared(
    other: Evaluation, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert script.main([run(tmp_path, "a", evaluation(A)), run(tmp_path, "b", other)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_the_script_names_a_file_that_is_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    good = run(tmp_path, "a", evaluation(A))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "results.json").write_text("{}")
    assert script.main([good, str(tmp_path / "b")]) == 2
    assert "b/results.json is not a results.json: results lack" in capsys.readouterr().err
    assert script.main([good]) == 2
    assert script.main([good, good]) == 2


def test_the_script_writes_json_and_html(tmp_path: Path):
    short = evaluation(B)
    short = replace(short, outcomes=short.outcomes[:-1])
    runs = [run(tmp_path, "<old>", evaluation(A)), run(tmp_path, "new", short)]
    json_file, html_file = tmp_path / "c.json", tmp_path / "c.html"
    assert script.main([*runs, "--json", str(json_file), "--html", str(html_file)]) == 0
    (comparison,) = json.loads(json_file.read_text())["comparisons"]
    assert comparison["names"] == {"a": "<old>", "b": "new"}
    assert comparison["verdict"]["better"] == "b"
    assert comparison["left_out"]["only_a"][0]["goal"] == 199
    html = html_file.read_text()
    assert "new is better" in html
    assert "&lt;old&gt;" in html
    assert "<old>" not in html


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path):
    paths = [tmp_path / day / "seed0" for day in ("monday", "tuesday")]
    for path in paths:
        write_results(path / "results.json", evaluation(A))
    assert list(script.read_runs(paths)) == [str(path) for path in paths]
