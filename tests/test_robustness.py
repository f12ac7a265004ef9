"""A robustness evaluation: the same episodes in every arm, and what each perturbation costs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import embodied
from embodied.preflight import check_config
from embodied.report import write_report
from embodied.results import Evaluation, Outcome, from_json, read_results, to_json
from embodied.robustness import arms
from embodied.statistics import Estimate, paired_bootstrap
from embodied.suites import Assignment
from embodied.targets import ConfigError
from embodied_envs.perturbations import ActionDelay
from embodied_envs.point import PointSuite
from tests.conftest import compose_config

Compose = Callable[..., dict[str, Any]]
DELAY = {"_target_": "embodied_envs.perturbations.ActionDelay", "steps": 2}
LIGHT = {"_target_": "embodied_envs.perturbations.ColourJitter", "spread": 0.2}
ARMS = [
    "observation_noise",
    "action_noise",
    "action_delay",
    "dropped_frames",
    "start_shift",
    "held_out_words",
]


def evaluation(wins: list[bool], *, text: str = "go", **changes: Any) -> Evaluation:
    outcomes = tuple(
        Outcome(Assignment("push" if goal % 2 else "reach", goal, 0, goal, text), win, 9, 1.0)
        for goal, win in enumerate(wins)
    )
    return Evaluation("p", None, outcomes, wall_s=1.0, seed=0, **changes)


# The difference


def test_the_difference_is_that_of_pairs_whatever_the_words() -> None:
    base, arm = evaluation([True] * 40), evaluation([i % 4 > 0 for i in range(40)], text="do go")
    found = arm.difference_from(base)
    assert found == paired_bootstrap(
        [1.0] * 40, [float(i % 4 > 0) for i in range(40)], groups=["reach", "push"] * 20
    )
    assert found.mean == -0.25  # half of the even goals
    assert found.low < -0.25 < found.high < 0


def test_the_order_of_episodes_and_further_ones_do_not_matter() -> None:
    base, arm = evaluation([True] * 40), evaluation([i % 4 > 0 for i in range(20)])
    turned = replace(arm, outcomes=arm.outcomes[::-1])
    assert turned.difference_from(base) == arm.difference_from(base)
    assert arm.difference_from(base).episodes == 20


def test_an_episode_invalid_in_either_makes_no_pair() -> None:
    base, arm = evaluation([True] * 4), evaluation([False, False, True, True])
    broken = replace(arm.outcomes[0], valid=False, reason="NaN")
    arm = replace(arm, outcomes=(broken, *arm.outcomes[1:]))
    assert arm.difference_from(base).episodes == 3
    assert base.difference_from(arm).mean == pytest.approx(0.25)  # reach 0 of 1, push 1 of 2


def test_without_a_pair_nothing_is_measured() -> None:
    other = evaluation([True])
    moved = replace(other.outcomes[0].assignment, seed=99)
    other = replace(other, outcomes=(replace(other.outcomes[0], assignment=moved),))
    found = other.difference_from(evaluation([True]))
    assert math.isnan(found.mean)
    assert (found.low, found.high, found.episodes) == (-1, 1, 0)


def test_results_and_report_hold_the_difference_of_perturbed_probes_only(tmp_path: Path) -> None:
    probes = {
        "action_delay": evaluation([True, False] * 20, perturbation="action-delay=2"),
        "new_goals": evaluation([True] * 4),
    }
    base = evaluation([True] * 40, probes=probes)
    data = to_json(base)
    change = data["probes"]["action_delay"]["difference"]
    assert Estimate(**change) == probes["action_delay"].difference_from(base)
    assert "difference" not in data["probes"]["new_goals"]
    assert from_json(json.loads(json.dumps(data))) == base
    write_report(tmp_path / "report.html", title="A run", evaluation=base)
    listens, robust = (tmp_path / "report.html").read_text().split("<h2>Robustness</h2>")
    listens = listens.split("<h2>Does it listen?</h2>")[1]
    assert "new goals" in listens
    assert "action delay" not in listens
    robust = robust.split("</section>")[0]
    assert "new goals" not in robust
    for text in ("unperturbed", "action-delay=2", "50.0 %", "-50.0", ">40<"):
        assert text in robust


def test_without_arms_the_report_has_no_such_section(tmp_path: Path) -> None:
    plain = evaluation([True], probes={"new_goals": evaluation([True])})
    write_report(tmp_path / "report.html", title="A run", evaluation=plain)
    assert "Robustness" not in (tmp_path / "report.html").read_text()


# What may be asked


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({**DELAY, "_target_": "embodied_envs.perturbations.Delay"}, "no 'Delay'"),
        ({**DELAY, "step": 1}, "did you mean 'steps'"),
        ({"_target_": "embodied_envs.point.PointSuite"}, "robustness.late must be a perturbation"),
        (3, r"such as {_target_: embodied_envs.perturbations.ActionDelay, steps: 2}, got 3"),
    ],
)
def test_an_arm_that_is_no_perturbation_is_refused(node: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arms({"robustness": {"late": node}})


def test_an_arm_does_not_take_the_name_of_a_probe() -> None:
    with pytest.raises(ConfigError, match=r"robustness\.late has the name of a probe; rename"):
        arms({"robustness": {"late": DELAY}, "probes": {"late": {}}})


def test_arms_are_built_from_their_nodes() -> None:
    assert arms({"robustness": {"late": DELAY}}) == {"late": ActionDelay(2)}
    assert arms({}) == arms({"robustness": None}) == {}


def test_what_the_suite_cannot_show_is_told_before_anything_runs() -> None:
    config = compose_config("task=point", "run_dir=unused")
    check_config({**config, "robustness": {"light": LIGHT}}, PointSuite(cameras=("top",)))
    with pytest.raises(ValueError, match="ColourJitter needs images"):
        check_config({**config, "robustness": {"light": LIGHT}}, PointSuite())


def test_images_add_their_arm_to_the_default_ones() -> None:
    config = compose_config("checkpoint=unused", "robustness=images", name="evaluate")
    assert list(arms(config)) == [*ARMS, "colour_jitter"]


# The whole


@pytest.fixture(scope="module")
def found(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a tiny policy was evaluated with `robustness=default`."""
    run = tmp_path_factory.mktemp("runs") / "run"
    embodied.train(compose(run, "train.steps=1"))
    return embodied.evaluate(evaluated(run, run.parent / "found")).parent


def evaluated(run: Path, output: Path, *more: str) -> dict[str, Any]:
    return compose_config(
        f"checkpoint={run}",
        f"output={output}",
        "robustness=default",
        "protocol=point",
        "protocol.goals_per_task=2",
        "protocol.max_steps=12",
        "device=cpu",
        "threads=1",
        "env.num_envs=4",
        "env.workers=0",
        "eval.inference_batch=4",
        *more,
        name="evaluate",
    )


def test_every_arm_runs_the_same_episodes_under_a_name_of_its_own(found: Path) -> None:
    results = read_results(found)
    assert list(results.probes) == ARMS
    plain = [replace(o.assignment, instruction="") for o in results.outcomes]
    for arm in results.probes.values():
        assert [replace(o.assignment, instruction="") for o in arm.outcomes] == plain
        assert arm.protocol == f"point+{arm.perturbation}"
        assert arm.difference_from(results).episodes == 8
    data = json.loads((found / "results.json").read_text())
    for arm in data["probes"].values():
        assert arm["difference"].keys() == {"mean", "low", "high", "episodes"}
    assert "<h2>Robustness</h2>" in (found / "report.html").read_text()
    assert "robustness" in json.loads((found / "wall_clock.json").read_text())


def test_the_perturbations_reach_the_policy_and_the_world(found: Path) -> None:
    results = read_results(found)
    rewards = {name: [o.reward for o in arm.outcomes] for name, arm in results.probes.items()}
    plain = [outcome.reward for outcome in results.outcomes]
    deaf = rewards.pop("held_out_words")  # this policy reads no instruction
    assert deaf == plain
    told = {o.assignment.instruction for o in results.probes["held_out_words"].outcomes}
    assert told <= {text for t in PointSuite().tasks for text in PointSuite().texts(t).held_out}
    for name, values in rewards.items():
        assert values != plain, name


def test_arms_of_other_sizes_have_the_same_outcomes(found: Path, tmp_path: Path) -> None:
    run = found.parent / "run"
    embodied.evaluate(evaluated(run, tmp_path, "env.num_envs=3"))
    again, before = read_results(tmp_path), read_results(found)
    assert {k: p.outcomes for k, p in again.probes.items()} == {
        k: p.outcomes for k, p in before.probes.items()
    }
