"""What an evaluation asks: a probe may run in a suite of its own."""

from __future__ import annotations

from typing import Any

import pytest

from embodied.parts import MAIN, asked
from embodied.preflight import check_policy
from embodied.targets import ConfigError
from embodied_envs.continuous import Continuous
from embodied_envs.point import PointSuite

SUITE = PointSuite()
PROTOCOL = {"_target_": "embodied.protocols.Protocol", "goals_per_task": 2}
ELSEWHERE = {"_target_": "embodied_envs.point.PointSuite", "tasks": ["reach-red", "reach-blue"]}


def config(**probe: Any) -> dict[str, Any]:
    protocol = {**PROTOCOL, "name": "p"}
    return {"protocol": protocol, "probes": {"far": {**PROTOCOL, "name": "p-far", **probe}}}


def test_a_probe_runs_in_the_runs_suite_unless_it_names_its_own() -> None:
    assert [part.suite for part in asked(config(), SUITE)] == [SUITE, SUITE]
    main, far = asked(config(suite=ELSEWHERE), SUITE)
    assert (main.name, main.suite) == (MAIN, SUITE)
    assert far.suite == PointSuite(tasks=("reach-red", "reach-blue"))
    assert [each.assignment.task for each in far.trials()] == ["reach-red", "reach-blue"] * 2


def test_the_chance_level_of_obedience_is_that_of_the_probes_suite() -> None:
    probe = config(suite=ELSEWHERE, wording="other")
    _, far, expert = asked(probe, SUITE)
    assert (expert.name, expert.obeys, expert.suite) == ("far_expert", True, far.suite)


def test_the_main_protocol_has_the_runs_suite() -> None:
    wrong = config()
    wrong["protocol"]["suite"] = ELSEWHERE
    with pytest.raises(ConfigError, match=r"protocol\.suite is for probes; name the suite"):
        asked(wrong, SUITE)


def test_a_probes_suite_that_the_policy_does_not_fit_is_named_before_training(
    make_policy: Any,
) -> None:
    policy = make_policy()
    settings = {"eval": {"action_horizon": 1}}
    check_policy({**config(suite=ELSEWHERE), **settings}, policy, SUITE)
    other = {"_target_": f"{Continuous.__module__}.Continuous"}
    with pytest.raises(ValueError, match="does not fit the suite 'continuous/seen'"):
        check_policy({**config(suite=other), **settings}, policy, SUITE)
