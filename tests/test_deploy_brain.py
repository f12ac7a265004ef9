"""A policy on one robot plans what an evaluation's controller would, and takes words meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embodied.conditions import Language, LanguageMotion
from embodied.deploy.brain import Brain
from embodied.execution import TemporalEnsemble
from embodied.policies.chunk import ChunkPolicy
from embodied.rollout import Controller
from tests.test_hierarchical_rollout import PHRASES, make
from tests.test_rollout import Spy, assignment, draws

ALL = np.ones(1, bool)
STATES = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)

pytestmark = pytest.mark.usefixtures("fake_language")


def seen(step: int) -> dict[str, Any]:
    return {"state": STATES[step]}


def controlled(controller: Controller, step: int) -> Any:
    controller.observe({"state": STATES[step][None]}, ALL)
    return controller.plan(ALL)[0]


@pytest.mark.parametrize("obs_horizon", [1, 3])
def test_it_plans_what_an_evaluation_would_to_the_last_bit(
    make_policy: Callable[..., ChunkPolicy], obs_horizon: int
) -> None:
    policy = make_policy(obs_horizon=obs_horizon)
    controller = Controller(policy, 1, action_horizon=3, inference_batch=1)
    controller.reset(0, assignment(7, "go"))
    brain = Brain(policy, instruction="go", action_horizon=3, seed=7)
    for step in range(4):
        found = brain.infer(seen(step))
        assert (found.shape, found.dtype) == ((3, 2), np.float32)
        np.testing.assert_array_equal(found, controlled(controller, step))


def test_steps_between_two_inferences_are_part_of_what_it_looks_back_on() -> None:
    spy = Spy(obs_horizon=3)
    brain = Brain(spy, instruction="go")
    for value in (1.0, 2.0, 3.0):
        brain.observe({"state": np.array([value])})
    brain.infer({"state": np.array([4.0])})
    assert spy.states[0][0, :, 0].tolist() == [2, 3, 4]


def test_an_execution_makes_actions_of_its_chunks(
    make_policy: Callable[..., ChunkPolicy],
) -> None:
    policy, execution = make_policy(), TemporalEnsemble()
    controller = Controller(
        policy, 1, action_horizon=1, inference_batch=1, execution=TemporalEnsemble()
    )
    controller.reset(0, assignment(0, "go"))
    brain = Brain(policy, instruction="go", action_horizon=1, execution=execution)
    for step in range(4):
        np.testing.assert_array_equal(brain.infer(seen(step)), controlled(controller, step))


def test_the_whole_chunk_is_given_by_default_and_a_horizon_outside_it_refused() -> None:
    assert Brain(Spy(), instruction="go").infer({"state": np.zeros(1)}).shape == (4, 2)
    with pytest.raises(ValueError, match=r"lie in \[1, 4\]"):
        Brain(Spy(), action_horizon=0)


def test_an_episode_begins_anew_with_its_seed_and_keeps_what_is_told() -> None:
    spy = Spy(obs_horizon=2)
    brain = Brain(spy, instruction="go", seed=1)
    noises = [brain.infer({"state": np.array([1.0])})[0, 1] for _ in range(2)]
    brain.tell([Language("stay")])
    brain.reset(5)
    noises.append(brain.infer({"state": np.array([9.0])})[0, 1])
    np.testing.assert_allclose(noises, [*draws(1, 2), *draws(5, 1)], rtol=1e-6)
    assert spy.states[-1][0, :, 0].tolist() == [9, 9]
    assert spy.texts == [("go",), ("go",), ("stay",)]


def test_words_hold_from_the_next_inference_until_they_are_released() -> None:
    brain = Brain(make("text", hold_steps=8), instruction="go")
    own = [brain.infer(seen(0)), brain.said][1]
    other = next(phrase for phrase in PHRASES if phrase != own)
    brain.correct([LanguageMotion(other)])
    assert brain.said == own  # nothing was inferred since
    brain.infer(seen(1))
    assert brain.said == other
    brain.release()
    brain.infer(seen(2))
    corrected = brain.controller.row(0)
    assert corrected == [Language("go")]


def test_a_new_instruction_has_the_phrase_thought_of_anew() -> None:
    policy = make("text", hold_steps=100)
    brain = Brain(policy, instruction="go")
    brain.infer(seen(0))
    brain.infer(seen(1))
    brain.tell([Language("stay where you are")])
    brain.infer(seen(2))
    given = [previous[0] is None for _, _, previous, _ in policy.told.calls]
    assert given == [True, False, True]


def test_a_phrase_that_it_cannot_be_told_is_refused_and_changes_nothing() -> None:
    brain = Brain(make("one-hot"), instruction="go")
    with pytest.raises(ValueError, match="cannot be told 'dance'"):
        brain.correct([LanguageMotion("dance")])
    assert brain.controller.row(0) == [Language("go")]


def test_an_observation_that_does_not_fit_is_refused_with_all_that_is_wrong_and_forgotten() -> None:
    spy = Spy(obs_horizon=2, cameras={"front": (2, 2), "side": (2, 2)})
    brain = Brain(spy, instruction="go")
    bad = {"state": np.zeros(3), "front": np.zeros((2, 2, 3))}
    with pytest.raises(
        ValueError, match=r"E_ROBOT_OBSERVATION: .*state must have shape \(1,\)"
    ) as e:
        brain.infer(bad)
    assert "front must be uint8, got float64" in str(e.value)
    assert "side is missing" in str(e.value)
    image = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match="state is not finite"):
        brain.infer({"state": np.array([np.nan]), "front": image, "side": image})
    with pytest.raises(ValueError, match="state must hold numbers"):
        brain.infer({"state": np.array(["x"]), "front": image, "side": image})
    brain.infer({"state": np.array([2.0]), "front": image, "side": image})
    assert spy.states[0][0, :, 0].tolist() == [2, 2]
