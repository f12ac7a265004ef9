"""What words can do: an arm that obeys to the letter, and the table of it beside the expert's."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from embodied.build import instantiate
from embodied.people.literal import Literal
from embodied.suites import Assignment
from embodied_envs.point import PointSuite
from scripts import words
from tests.conftest import compose_config

SUITE = PointSuite()
ASSIGNMENT = Assignment(SUITE.tasks[0], 0, 42, 0, "go")
POINT = ("task=point", "person=motions_point", "keeps=[]", "env.workers=0", "env.num_envs=4")


def corrector() -> Any:
    return instantiate(compose_config(*POINT, name="words")["person"]["corrector"])


def arm(**settings: Any) -> Literal:
    return Literal(suite=SUITE, assignment=ASSIGNMENT, corrector=corrector(), **settings)


def test_what_is_named_moves_and_what_is_not_stops_or_goes_on() -> None:
    person = corrector()(suite=SUITE, assignment=ASSIGNMENT)
    before = np.array([0.3, -0.2], np.float32)
    obey = functools.partial(person.obeyed, before=before, gain=0.5)
    np.testing.assert_allclose(obey("move left"), [-0.5, 0])
    np.testing.assert_allclose(obey("move left", keeps=[1]), [-0.5, -0.2])
    np.testing.assert_allclose(obey("move up and move right"), [0.5, 0.5])
    np.testing.assert_allclose(obey("hold still"), [0, 0])
    np.testing.assert_allclose(before, [0.3, -0.2])


def test_it_does_for_some_steps_what_it_was_told_once() -> None:
    far, there = np.zeros(10, np.float32), np.zeros(10, np.float32)
    expert = SUITE.expert(ASSIGNMENT.task)
    ahead = np.sign(np.round(expert(far)[:2], 1))
    slow = arm(every=3, gain=1.0)
    actions = [slow(state) for state in (far, there, far)]
    for action in actions:
        np.testing.assert_array_equal(action, actions[0])
    assert (actions[0] * ahead >= 0).all()


@pytest.mark.parametrize("wrong", [{"gain": 0.0}, {"gain": 1.5}, {"every": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"gain must lie in \(0, 1\] and every be 1 or more"):
        arm(**wrong)


def test_words_suffice_in_the_point_world_and_not_where_they_are_too_coarse() -> None:
    config = compose_config(*POINT, "protocol.goals_per_task=3", "gain=0.5", name="words")
    _, _, *rows = words.table(config).splitlines()
    assert len(rows) == len(SUITE.tasks) + 1
    overall = [float(cell.split()[0]) for cell in rows[-1].strip("| ").split("|")[1:]]
    assert overall == [1.0, pytest.approx(1.0, abs=0.1)]
    for axis in config["person"]["corrector"]["axes"]:
        axis["threshold"] = 10.0  # nothing is ever worth a word
    silent = words.table(config).splitlines()[-1]
    assert float(silent.split("|")[3].split()[0]) < 0.2
