"""Plans that are late: what is executed when, by hand, and that what was frozen is executed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from embodied.delayed import Delayed, acting
from embodied.execution import RealTime, Receding
from embodied.heads.inpainting import Settled
from embodied.noise import Noise
from embodied.preflight import check_execution
from embodied.rollout import Controller
from embodied.structs import Condition, Observation, Spec
from embodied.suites import Assignment
from embodied.targets import ConfigError
from tests.acting import Acting

H = 6


class Telling(Acting):
    """Action h of the chunk from a state s is 100 s + h: it tells its plan and its place in it."""

    trained_delay = 2

    def __init__(self) -> None:
        super().__init__(Spec(1, 1, (-9999.0,), (9999.0,), 10.0), pred_horizon=H)
        self.settled: list[Settled] = []
        self.clips: list[float | None] = []

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        return 100 * observation.state[:, -1:] + torch.arange(float(H))[None, :, None]

    def as_completing(self) -> Any:
        return self

    def act_on(
        self,
        settled: Settled,
        observation: Observation,
        condition: Condition,
        *,
        clip: float | None,
        noise: Noise,
    ) -> Tensor:
        self.settled.append(settled)
        self.clips.append(clip)
        return settled.keep(self.act(observation, condition, noise=noise))


def late(
    execution: Receding | None = None, *, every: int = 3, slots: int = 1, **how: Any
) -> Delayed:
    controller = Controller(
        Telling(), slots, action_horizon=every, inference_batch=slots, execution=execution
    )
    return Delayed(controller, **how)


def run(actor: Delayed, steps: int) -> list[float]:
    """What slot 0 executes, where the state is the number of the step."""
    actor.reset(0, Assignment("task", 0, 0, 0, "go"))
    found = []
    for step in range(steps):
        show(actor, step)
        found.append(float(actor.plan(np.array([True]))[0, 0, 0]))
    return found


def show(actor: Delayed, *states: float, slots: Any = True) -> None:
    mask = np.broadcast_to(slots, len(states)).copy()
    actor.observe({"state": np.array(states, np.float32)[:, None]}, mask)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # Plans are made at steps 0, 3, 6, and are there at 0, 5, 8.
        ("aligned", [0, 1, 2, 3, 4, 302, 303, 304, 602, 603]),
        ("naive", [0, 1, 2, 3, 4, 300, 301, 302, 600, 601]),
        ("ensemble", [0, 1, 2, 3, 4, (5 + 302) / 2, 303, 304, (305 + 602) / 2, 603]),
    ],
)
def test_late_plans_by_hand(mode: Any, expected: list[float]) -> None:
    assert run(late(delay=2, mode=mode, decay=0.0), 10) == expected


def test_a_policy_plans_one_chunk_at_a_time() -> None:
    # It would plan at every step, and takes three: plans of 0, 3, 6 are there at 0, 6, 9.
    found = run(late(delay=3, every=1), 10)
    assert found == [0, 1, 2, 3, 4, 5, 303, 304, 305, 603]


@pytest.mark.parametrize("mode", ["aligned", "naive"])
def test_without_a_delay_it_is_the_receding_horizon(mode: Any) -> None:
    assert run(late(delay=0, mode=mode), 8) == [0, 1, 2, 300, 301, 302, 600, 601]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 3), st.integers(1, 3))
def test_what_real_time_chunking_froze_is_what_is_executed_meanwhile(
    delay: int, every: int
) -> None:
    actor = late(RealTime(delay=delay), every=every, delay=delay)
    found = run(actor, 16)
    policy = actor.controller.policy
    assert isinstance(policy, Telling)
    for number, known in enumerate(policy.settled, start=1):
        begun = number * actor.every
        meanwhile = found[begun : begun + delay]
        assert known.action[0, : len(meanwhile), 0].tolist() == meanwhile
        assert int(known.frozen.sum()) == delay
        left = H - actor.every  # of the last chunk, the rest is wished for
        assert ((known.weight[0] > 0).nonzero().flatten() < left).all()
    assert len(policy.settled) == 15 // actor.every


@pytest.mark.parametrize(("trained", "clip"), [(False, 2.0), (True, None)])
def test_real_time_chunking_is_guided_or_trained(trained: bool, clip: float | None) -> None:
    actor = late(RealTime(delay=2, clip=2.0, trained=trained), delay=2)
    run(actor, 7)
    policy = actor.controller.policy
    assert isinstance(policy, Telling)
    assert policy.clips == [clip, clip]


def test_a_correction_forgets_what_was_planned() -> None:
    actor = late(RealTime(delay=2), delay=2)
    run(actor, 3)
    actor.controller.correct(0, [])
    show(actor, 3)
    actor.plan(np.array([True]))
    assert not actor.controller.policy.settled  # type: ignore[union-attr]


def test_slots_are_late_each_by_its_own_clock() -> None:
    alone = run(late(delay=2), 8)
    actor = late(delay=2, slots=2)
    actor.reset(0, Assignment("task", 0, 0, 0, "go"))
    found = []
    for step in range(8):
        if step == 2:
            actor.reset(1, Assignment("task", 1, 0, 0, "go"))
        here = np.array([True, step >= 2])
        show(actor, step, step - 2, slots=here)
        found.append(actor.plan(here)[:, 0, 0])
    assert [float(each[0]) for each in found] == alone
    assert [float(each[1]) for each in found[2:]] == alone[:6]
    assert [float(each[1]) for each in found[:2]] == [0, 0]


def test_a_new_episode_has_no_plans_of_the_last_one() -> None:
    actor = late(delay=2)
    assert run(actor, 4) == run(actor, 4)


@pytest.mark.parametrize(
    ("delay", "every", "message"),
    [
        (4, 3, r"plans every 4 steps.*must have 8 steps; they have 6"),
        (2, 5, r"plans every 5 steps.*must have 7 steps"),
        (-1, 3, "delay_steps must be a whole number >= 0, got -1"),
        (1.5, 3, "delay_steps must be a whole number"),
    ],
)
def test_chunks_must_last_until_the_next_one_is_there(delay: Any, every: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        late(delay=delay, every=every)


# As an evaluation's settings say

SETTINGS: dict[str, Any] = {"action_horizon": 3, "inference_batch": 1}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 302, 303]),
        ({"execution": "realtime"}, [0, 1, 2, 3, 4, 302, 303]),
        # Plans of 0, 2, 4 are there at 0, 4, 6.
        ({"execution": "ensemble", "action_horizon": 1}, [0, 1, 2, 3, 103, 104, 303, 304]),
    ],
)
def test_an_evaluation_has_late_plans(more: dict[str, Any], expected: list[float]) -> None:
    how = {"ensemble_decay": 0.0, **SETTINGS, **more, "delay_steps": 2}
    actor = acting(Telling(), 1, how)
    assert isinstance(actor, Delayed)
    assert run(actor, len(expected)) == expected


def test_without_a_delay_an_evaluation_has_a_controller() -> None:
    for how in (SETTINGS, {**SETTINGS, "delay_steps": None}, {**SETTINGS, "delay_steps": 0}):
        assert isinstance(acting(Telling(), 1, how), Controller)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"delay_steps": 4}, "chunks must have 8 steps; they have 6"),
        ({"execution": "realtime", "delay_steps": -1}, "delay_steps must be a whole number >= 0"),
        ({"execution": "realtime", "realtime_clip": -1.0}, "realtime_clip must be 0 or more"),
        ({"execution": "realtime", "delay_steps": 6}, r"delay_steps must be below 6"),
        (
            {"execution": "realtime", "realtime_trained": True, "delay_steps": 3},
            r"realtime_trained needs delay_steps <= 2.*policy.head.simulated_delay=3",
        ),
    ],
)
def test_what_cannot_be_late_is_refused_before_training(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"E_CONFIG_VALUE: eval\..*{message}"):
        check_execution({"eval": {**SETTINGS, **more}}, Telling())


def test_people_are_not_late() -> None:
    with pytest.raises(ConfigError, match="delay_steps must be 0 beside a person, got 2"):
        check_execution({"eval": {**SETTINGS, "delay_steps": 2}, "person": {"a": 1}}, Telling())


def test_a_policy_that_cannot_go_on_is_refused() -> None:
    class Deaf(Telling):
        def as_completing(self) -> None:
            return None

    with pytest.raises(ValueError, match="realtime needs a policy whose head denoises"):
        Controller(Deaf(), 1, action_horizon=1, execution=RealTime())
