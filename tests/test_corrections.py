"""Corrections: obeyed at the next inference, for exactly as long as asked, in one slot alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied.conditions import GoalState, Language, LanguageMotion, Part, Sketch
from embodied.evaluation import evaluate
from embodied.noise import Noise
from embodied.people.actor import Corrected
from embodied.people.corrections import Action, Correction, Person, Release, View
from embodied.policies.base import Plan, Policy
from embodied.policies.chunk import ChunkPolicy
from embodied.protocols import Protocol
from embodied.results import Outcome
from embodied.rollout import Controller
from embodied.structs import Condition, Observation, Spec
from embodied.suites import Assignment
from embodied_envs.point import PointSuite
from embodied_envs.vector import make_vec
from tests.acting import Acting

SUITE = PointSuite(max_steps=12)
ASSIGNMENTS = Protocol("p", goals_per_task=2).assignments(SUITE)
Answer = Correction | Release | None


class Obedient(Acting):
    """Chunks of 4 whose actions are [what the words say, how often it was asked]."""

    def __init__(self) -> None:
        super().__init__(Spec(1, 2, (-9.0, -9.0), (9.0, 9.0), 10.0))
        self.conditions: list[Condition] = []

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        self.conditions.append(condition)
        assert condition.language is not None
        words = condition.motion or condition.language
        said = torch.tensor([float(len(text)) for text in words])
        asked = torch.full((len(words),), float(len(self.conditions)))
        return torch.stack([said, asked], -1)[:, None].expand(-1, 4, -1)


class Talker(Obedient):
    """Says "a", then one letter more at each planning for four steps, unless it is given words."""

    hold_steps = 4
    candidates = ("a", "aa")

    def as_planner(self) -> Talker:
        return self

    def understands(self, phrase: str) -> bool:
        return True

    def plan(
        self,
        observation: Observation,
        condition: Condition,
        previous: Sequence[str | None],
        *,
        noise: Noise,
    ) -> Plan:
        chunk = self.act(observation, condition, noise=noise)
        own = tuple("a" if text is None else f"{text}a" for text in previous)
        if condition.motion:
            return Plan(chunk, condition.motion, own, (None,) * len(own))
        return Plan(chunk, own, own, own)


@dataclass
class Scripted:
    """Answers by step; remembers what they saw."""

    answers: Mapping[int, Answer]
    name: str = "script"
    views: list[View] = field(default_factory=list)

    def __call__(self, view: View) -> Answer:
        self.views.append(view)
        return self.answers.get(view.step)

    def demonstrate(self, view: View) -> Action | None:
        return None


@dataclass
class Crowd:
    """People who answer by what is told; the others are silent."""

    answers: Mapping[str, Mapping[int, Answer]] = field(default_factory=dict)
    name: str = "crowd"

    def begin(self, assignment: Assignment) -> Person:
        return Scripted(self.answers.get(assignment.instruction, {}))


def assignment(instruction: str = "go", seed: int = 0) -> Assignment:
    return Assignment("reach-red", 0, 0, seed, instruction)


def run(
    answers: Mapping[int, Answer],
    steps: int,
    *,
    action_horizon: int = 3,
    policy: Obedient | None = None,
) -> tuple[Corrected, list[tuple[float, float]]]:
    """One slot, told "go": the actor, and the action of each step."""
    controller = Controller(
        policy or Obedient(), 1, action_horizon=action_horizon, inference_batch=1
    )
    actor = Corrected(controller, Crowd({"go": answers}))
    actor.reset(0, assignment())
    actions = []
    for step in range(steps):
        actor.observe({"state": np.full((1, 1), step, np.float32)}, np.ones(1, np.bool_))
        first, second = actor.plan(np.ones(1, np.bool_))[0, 0].tolist()
        actions.append((first, second))
    return actor, actions


def motion(text: str, steps: int | None = None, *, replan: bool = False) -> Correction:
    return Correction("motion", (LanguageMotion(text),), steps=steps, replan=replan)


def words(actions: list[tuple[float, float]]) -> list[int]:
    return [int(action[0]) for action in actions]


def test_without_corrections_a_chunk_is_executed_before_the_next() -> None:
    _, actions = run({}, 7)
    assert actions == [(2, 1)] * 3 + [(2, 2)] * 3 + [(2, 3)]


def test_a_correction_is_obeyed_at_the_next_inference_and_for_its_steps() -> None:
    actor, actions = run({1: motion("longer", 4)}, 9)
    assert words(actions) == [2, 2, 2, 6, 6, 6, 6, 2, 2]
    session = actor.sessions[0]
    assert session is not None
    (record,) = session.interventions
    assert (record.step, record.since, record.last, record.num_steps) == (1, 3, 6, 4)
    assert (record.level, record.words, record.who) == ("motion", "longer", "script")
    assert session.corrected == [-1] * 3 + [0] * 4 + [-1] * 2
    assert session.metrics() == {"corrections": 1.0, "corrected_share": 4 / 9}


def test_a_correction_that_replans_is_obeyed_at_once() -> None:
    _, actions = run({1: motion("longer", 2, replan=True)}, 5)
    assert actions == [(2, 1), (6, 2), (6, 2), (2, 3), (2, 3)]


def test_a_correction_without_steps_holds_until_it_is_released() -> None:
    _, actions = run({1: motion("longer", replan=True), 5: Release()}, 8)
    assert words(actions) == [2, 6, 6, 6, 6, 2, 2, 2]


def test_a_release_without_a_correction_changes_nothing() -> None:
    assert run({1: Release()}, 7)[1] == run({}, 7)[1]


def test_a_second_correction_takes_the_place_of_the_first() -> None:
    actor, actions = run({0: motion("abc", 9, replan=True), 2: motion("abcd", 2)}, 6)
    assert words(actions) == [3, 3, 4, 4, 2, 2]
    session = actor.sessions[0]
    assert session is not None
    assert [(r.since, r.last) for r in session.interventions] == [(0, 1), (2, 3)]
    assert session.interventions[1].said == "abc"


def test_a_correction_that_no_inference_takes_up_has_no_steps() -> None:
    actor, actions = run({1: motion("longer", 4)}, 3)
    assert words(actions) == [2, 2, 2]
    session = actor.sessions[0]
    assert session is not None
    assert session.interventions[0].since is None
    assert session.interventions[0].num_steps == 0


def test_a_person_sees_that_a_correction_waits_and_then_that_it_is_obeyed() -> None:
    actor, _ = run({1: motion("longer", 2)}, 6)
    session = actor.sessions[0]
    assert session is not None
    assert isinstance(session.person, Scripted)
    views = session.person.views
    assert [view.waiting for view in views] == [False, False, True, False, False, False]
    assert [view.corrected for view in views] == [False, False, False, False, True, True]
    assert [view.said for view in views] == ["", "", "", "longer", "longer", ""]
    assert views[0].executed is None
    assert views[1].executed is not None
    assert views[1].executed.tolist() == [2, 1]
    assert views[1].told == "go"


def test_an_action_correction_replaces_the_policys_actions_at_once() -> None:
    takeover = Correction("action", act=lambda view: np.full(2, -view.step, np.float32), steps=2)
    actor, actions = run({1: takeover}, 5)
    assert actions[0] == (2, 1)
    assert actions[1:3] == [(-1, -1), (-2, -2)]
    assert words(actions[3:]) == [2, 2]
    session = actor.sessions[0]
    assert session is not None
    assert session.corrected == [-1, 0, 0, -1, -1]
    assert session.interventions[0].content == {}


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (Language("another task"), "language"),
        (LanguageMotion("move left"), "motion"),
        (Sketch(np.zeros((4, 4, 3), np.uint8)), "sketch"),
        (GoalState(np.zeros(1, np.float32)), "goal_state"),
    ],
)
def test_parts_replace_those_of_their_kind_or_join_the_others(part: Part, field: str) -> None:
    controller = Controller(Obedient(), 1, action_horizon=1)
    controller.reset(0, assignment())
    controller.correct(0, [part])
    row = controller.row(0)
    assert row == [part] if field == "language" else row == [Language("go"), part]
    controller.release(0)
    assert controller.row(0) == [Language("go")]


def test_a_reset_forgets_corrections_and_phrases() -> None:
    policy = Talker()
    actor, _ = run({0: motion("longer", replan=True)}, 2, policy=policy)
    actor.reset(0, assignment("stop"))
    assert actor.controller.row(0) == [Language("stop")]
    assert actor.controller.said(0) == ""


def test_a_policys_phrases_are_remembered_for_it_for_as_long_as_it_holds_them() -> None:
    actor, _ = run({}, 10, action_horizon=2, policy=Talker())
    session = actor.sessions[0]
    assert session is not None
    assert session.said == ["a", "a", "aa", "aa", "a", "a", "aa", "aa", "a", "a"]


def test_after_a_correction_the_policy_is_asked_anew() -> None:
    actor, _ = run({3: motion("longer", 2, replan=True)}, 7, action_horizon=2, policy=Talker())
    session = actor.sessions[0]
    assert session is not None
    assert session.said == ["a", "a", "aa", "longer", "longer", "a", "a"]
    assert session.interventions[0].said == "aa"


@pytest.mark.parametrize(
    "bad",
    [
        {"level": "action"},
        {"level": "motion"},
        {"level": "shout", "parts": (LanguageMotion("a"),)},
        {"level": "motion", "parts": (LanguageMotion("a"),), "steps": 0},
        {"level": "motion", "parts": (LanguageMotion("a"),), "act": lambda view: view.planned},
    ],
)
def test_corrections_that_make_no_sense_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"level must|needs `act`|1 step or more"):
        Correction(**bad)  # type: ignore[arg-type]


@pytest.fixture
def policy(make_policy: Callable[..., ChunkPolicy]) -> ChunkPolicy:
    return make_policy(obs_horizon=2)


def outcomes(
    policy: Policy, num_envs: int, people: Crowd | None, horizon: int = 3
) -> tuple[Outcome, ...]:
    envs = make_vec(SUITE, num_envs)
    controller = Controller(policy, num_envs, action_horizon=horizon, inference_batch=4)
    actor = controller if people is None else Corrected(controller, people)
    return evaluate(actor, envs, ASSIGNMENTS, max_steps=12)


def unmeasured(found: tuple[Outcome, ...]) -> list[Outcome]:
    return [replace(outcome, metrics={}) for outcome in found]


@pytest.mark.parametrize("num_envs", [1, 3])
def test_who_is_never_corrected_acts_as_ever_to_the_last_bit(
    policy: ChunkPolicy, num_envs: int
) -> None:
    plain = outcomes(policy, num_envs, None)
    silent = outcomes(policy, num_envs, Crowd())
    assert unmeasured(silent) == list(plain)
    assert {outcome.metrics["corrections"] for outcome in silent} == {0.0}


def test_outcomes_depend_neither_on_slots_nor_on_what_neighbours_are_told(
    policy: ChunkPolicy,
) -> None:
    """The red episodes get a phrase, the green ones a goal, the blue ones an operator."""
    operator = Correction("action", act=lambda view: np.ones(2, np.float32), steps=3)
    goal = Correction("goal", (GoalState(np.zeros(10, np.float32)),), steps=5)
    people = Crowd(
        {
            "go to the red pad": {2: Correction("subtask", (Language("stop"),), steps=4)},
            "go to the green pad": {1: goal, 8: motion("move arm left", 2)},
            "go to the blue pad": {3: operator},
        }
    )
    corrected = outcomes(policy, 1, people)
    plain = outcomes(policy, 1, None)
    for num_envs in (3, 8):
        assert outcomes(policy, num_envs, people) == corrected
    for mine, usual in zip(unmeasured(corrected), plain, strict=True):
        if mine.assignment.task == "reach-yellow":
            assert mine == usual
        elif mine.assignment.task in ("reach-red", "reach-blue"):
            assert mine.reward != usual.reward
