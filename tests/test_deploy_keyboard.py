"""Hands at the keyboard, a simulated person who types, and what casting refuses."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodied.conditions import GoalState, LanguageMotion
from embodied.deploy.casting import check_fit, spec_of
from embodied.deploy.clock import SECOND, VirtualClock
from embodied.deploy.control import Ready
from embodied.deploy.keyboard import KEYS, Keyboard, listen, single_keys
from embodied.deploy.limits import Limits
from embodied.deploy.typist import Typist
from embodied.people.corrections import Correction, Release, View
from embodied.structs import Spec
from embodied.targets import ConfigError

POSE = Limits(
    ("x.pos", "grip.vel"),
    ("m", "1"),
    np.array([-1.0, -2.0]),
    np.array([1.0, 2.0]),
    np.array([0.5, 9.0]),
    np.array([2.0, 9.0]),
    np.array([0.3, 9.0]),
    rest=[None, 0.0],  # type: ignore[list-item]  # as a configuration file has it
)


def keyboard(**fields: Any) -> tuple[VirtualClock, Keyboard]:
    clock = VirtualClock(SECOND)
    return clock, Keyboard(POSE, clock, dt_s=0.1, speed=0.5, plan_s=0.4, **fields)


def plan(hands: Keyboard, at: float = 0.0) -> Any:
    return hands.infer({"previous_action": np.array([at, 1.0], np.float32)})


def test_nobody_at_the_keys_stands_still() -> None:
    _, hands = keyboard()
    np.testing.assert_array_equal(plan(hands, 0.25), [[0.25, 0.0]] * 4)


def test_a_key_moves_its_axis_at_the_share_of_its_speed_and_no_longer_than_it_is_held() -> None:
    clock, hands = keyboard(hold_s=0.15)
    assert hands.press("d")
    # 0.5 of 0.5 m/s: 2.5 cm in each step of 0.1 s
    np.testing.assert_allclose(plan(hands)[:, 0], [0.0, 0.025, 0.05, 0.075])
    np.testing.assert_array_equal(plan(hands)[:, 1], 0.0)
    clock.sleep_until(clock.now() + 200_000_000)
    np.testing.assert_array_equal(plan(hands)[:, 0], 0.0)


def test_a_rate_is_a_share_of_its_range_and_two_keys_against_each_other_are_none() -> None:
    _, hands = keyboard()
    hands.press("s")
    np.testing.assert_array_equal(plan(hands)[:, 1], -1.0)  # half of -2
    hands.press("w")
    np.testing.assert_array_equal(plan(hands)[:, 1], 0.0)


@given(st.lists(st.sampled_from("adws")), st.floats(-1, 1))
def test_no_keys_lead_out_of_the_range(keys: list[str], at: float) -> None:
    _, hands = keyboard()
    for key in keys:
        hands.press(key)
    found = plan(hands, at)
    assert ((found >= POSE.low) & (found <= POSE.high)).all()


def test_keys_of_axes_that_are_not_there_mean_nothing_and_what_there_is_is_listed() -> None:
    _, hands = keyboard()
    assert not hands.press("e")
    assert not hands.press("?")
    assert "w and s: grip.vel up and down" in hands.lines()
    with pytest.raises(ValueError, match=r"speed must lie in \(0, 1\], got 2"):
        Keyboard(POSE, VirtualClock(), dt_s=0.1, speed=2)
    assert len({key for pair in KEYS for key in pair}) == 2 * len(KEYS)


def test_space_stops_and_a_colon_begins_a_line() -> None:
    heard: list[str] = []
    pressed: list[str] = []
    stream = io.StringIO("dd\n :move left\nw")
    with single_keys(stream):  # no terminal: nothing to change
        listen(stream, pressed.append, heard.append)
    assert pressed == ["d", "d", "w"]
    assert heard == ["stop", "move left\n"]


# A simulated person who types


class Scripted:
    """Answers by the step, and remembers what it saw."""

    name = "scripted"

    def __init__(self, answers: dict[int, Any]) -> None:
        self.answers, self.views = answers, list[View]()

    def __call__(self, view: View) -> Any:
        self.views.append(view)
        return self.answers.get(view.step)

    def demonstrate(self, view: View) -> None:
        return None


def test_what_a_person_asks_for_is_typed_with_its_duration() -> None:
    up = Correction("motion", (LanguageMotion("move up"),), steps=25)
    person = Scripted({1: up, 2: Release(), 3: replace(up, steps=None)})
    typist = Typist(person, "go", rate_hz=50.0)
    plans = [np.full((2, 1), float(step)) for step in range(4)]
    held = [False, False, True, True]
    lines = [
        typist({"state": np.zeros(1)}, each, "own", under)
        for each, under in zip(plans, held, strict=True)
    ]
    assert lines == [None, "move up for 0.5 s", None, "move up"]
    assert [view.step for view in person.views] == [0, 1, 2, 3]
    assert [view.held for view in person.views] == held
    assert person.views[0].executed is None
    assert person.views[3].planned.tolist() == [3.0]
    assert [view.executed.tolist() for view in person.views[1:]] == [[0.0], [1.0], [2.0]]  # type: ignore[union-attr]
    assert (person.views[0].said, person.views[0].told) == ("own", "go")


def test_who_corrects_without_words_cannot_type() -> None:
    person = Scripted({0: Correction("goal", (GoalState(np.zeros(1, np.float32)),))})
    with pytest.raises(ValueError, match="E_ROBOT_CONFIG: a person who types"):
        Typist(person, "go", 50.0)({"state": np.zeros(1)}, np.zeros((1, 1)), "", False)


# What fits together

READY = Ready(
    "arm", {"x.pos": float, "grip.vel": float, "top": (4, 6, 3), "top.time_ns": int}, POSE, 50.0
)


def test_the_spec_of_a_robots_episodes_is_its_own() -> None:
    spec = spec_of(READY, 25.0, None)
    assert (spec.state_dim, spec.action_dim, spec.rate_hz) == (2, 2, 25.0)
    assert (spec.action_low, spec.action_high) == ((-1.0, -2.0), (1.0, 2.0))
    assert dict(spec.cameras) == {"top": (4, 6)}
    assert spec_of(READY, 25.0, []).cameras == {}
    own = replace(READY, features={**READY.features, "state": (7,)})
    assert spec_of(own, 25.0, []).state_dim == 7
    with pytest.raises(ConfigError, match=r"E_CONFIG_VALUE: arm has no camera \['wrist'\]"):
        spec_of(READY, 25.0, ["wrist"])


def test_a_policy_of_another_robot_is_refused_with_all_differences() -> None:
    fits = Spec(2, 2, (-9.0, -9.0), (9.0, 9.0), 10.0, {"top": (4, 6)})
    check_fit(fits, READY)
    other = replace(fits, state_dim=3, action_dim=4, cameras={"top": (8, 8), "wrist": (4, 6)})
    with pytest.raises(ConfigError, match="E_SPEC_MISMATCH: the policy does not fit arm") as error:
        check_fit(other, READY)
    for text in (
        "state_dim is 3, and the robot's 2",
        "action_dim is 4",
        "camera top is (8, 8)",
        "camera wrist is (4, 6), and the robot's None",
    ):
        assert text in str(error.value)
