"""Simulated people: what they want, when they say it, how often they may, and that it helps."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied.build import instantiate
from embodied.conditions import GoalState, Language, LanguageMotion
from embodied.data.motions import Axis, MotionGrammar
from embodied.evaluation import evaluate
from embodied.noise import Noise
from embodied.people.actor import Corrected, Session
from embodied.people.corrections import FULL, Action, Correction, View
from embodied.people.correctors import ActionCorrector, SubtaskCorrector
from embodied.people.motions import Foresight, MotionCorrector
from embodied.people.prompts import GoalCorrector, SketchCorrector
from embodied.people.simulated import Simulated, SimulatedPerson
from embodied.protocols import Protocol
from embodied.rollout import Controller
from embodied.structs import Condition, Observation, Spec
from embodied.suites import Assignment, Expert, Staged, hand_of
from embodied_envs.metaworld import MetaWorld
from embodied_envs.point import STEP, PointSuite
from embodied_envs.tabletop import Playground, Tabletop
from embodied_envs.tabletop_experts import TabletopExpert
from embodied_envs.tabletop_tasks import BLOCKS, ZONES
from embodied_envs.tabletop_tasks import TASKS as TABLETOP_TASKS
from embodied_envs.tabletop_text import tabletop_texts
from embodied_envs.vector import make_vec
from embodied_envs.watched import Watched
from tests.acting import Acting
from tests.conftest import compose_config

SUITE = PointSuite()
ASSIGNMENTS = Protocol("p", goals_per_task=3).assignments(SUITE)
GRAMMAR = MotionGrammar([Axis("move right", "move left", STEP), Axis("move up", "move down", STEP)])
AXES = [vars(axis) for axis in GRAMMAR.axes]
FORESIGHT = Foresight(columns=[0, 1], controls=[0, 1], scale=[STEP, STEP], horizon=4)


class Obedient(Acting):
    """Moves as its phrase says, and stands still without one; asked for a goal, goes there."""

    def __init__(self) -> None:
        super().__init__(Spec(10, 2, (-1.0, -1.0), (1.0, 1.0), 10.0))

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        action = torch.zeros(len(observation.state), 2)
        for row, phrase in enumerate(condition.motion or ()):
            for axis, sign in GRAMMAR.terms(phrase):
                action[row, axis] = 0.5 * sign
        if condition.goal is not None:
            action = (condition.goal.state[:, 0, :2] - observation.state[:, -1, :2]) / STEP / 4
        return action.clamp(-1, 1)[:, None].expand(-1, 4, -1)


class Needy:
    """Wants something at the given steps: the phrase "step <n>"."""

    def __init__(self, steps: Sequence[int], **_: Any) -> None:
        self._steps = set(steps)

    def __call__(self, view: View) -> Correction | None:
        if view.step not in self._steps:
            return None
        return Correction("motion", (LanguageMotion(f"step {view.step}"),))

    def mistaken(self, wanted: Correction, random: np.random.Generator) -> Correction:
        return Correction("motion", (LanguageMotion(f"wrong {random.integers(1000)}"),))

    def demonstrate(self, view: View) -> Action | None:
        return None


def people(needs: Sequence[int] = range(1000), **traits: Any) -> Simulated:
    return Simulated(functools.partial(Needy, needs), SUITE, **traits)


def view(step: int = 0, state: Any = None, **fields: Any) -> View:
    usual: dict[str, Any] = {"said": "", "told": "", "planned": np.zeros(2, np.float32)}
    state = np.zeros(10, np.float32) if state is None else np.asarray(state, np.float32)
    return View(step, {"state": state}, **{**usual, **fields})


def spoken(person: SimulatedPerson, steps: int, **fields: Any) -> dict[int, str]:
    """Step -> what was said, in an episode where nobody does it."""
    found = {}
    for step in range(steps):
        if (answer := person(view(step, **fields))) is not None:
            (part,) = answer.parts
            assert isinstance(part, LanguageMotion)
            found[step] = part.text
    return found


def test_a_person_speaks_as_soon_as_something_is_wrong() -> None:
    assert spoken(people([3, 4]).begin(ASSIGNMENTS[0]), 9) == {3: "step 3", 4: "step 4"}


def test_a_patient_person_waits_until_it_has_been_wrong_for_some_steps() -> None:
    person = people([1, 2, 5, 6, 7, 8], patience=2).begin(ASSIGNMENTS[0])
    assert spoken(person, 12) == {7: "step 7"}


def test_a_slow_person_says_later_what_was_right_then() -> None:
    person = people([2, 3, 9], delay=4).begin(ASSIGNMENTS[0])
    assert spoken(person, 16) == {6: "step 2", 13: "step 9"}


def test_patience_comes_before_the_delay() -> None:
    person = people(range(3, 6), patience=1, delay=2).begin(ASSIGNMENTS[0])
    assert spoken(person, 12) == {6: "step 4"}


def test_nobody_repeats_what_has_been_said_and_not_yet_been_done() -> None:
    assert spoken(people().begin(ASSIGNMENTS[0]), 5, waiting=True) == {}


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_errors_come_at_their_rate_and_by_the_seed(rate: float) -> None:
    crowd = people(error_rate=rate, seed=5)
    found = [spoken(crowd.begin(each), 500) for each in ASSIGNMENTS[:2]]
    for each in found:
        wrong = sum(text.startswith("wrong") for text in each.values())
        assert abs(wrong / 500 - rate) < (0.08 if 0 < rate < 1 else 1e-9)
    assert spoken(crowd.begin(ASSIGNMENTS[0]), 500) == found[0]
    assert rate == 0 or found[0] != found[1]
    assert rate == 0 or spoken(people(error_rate=rate).begin(ASSIGNMENTS[0]), 500) != found[0]


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"patience": -1}, {"delay": -1}, {"error_rate": 1.1}, {"max_corrections": -1}],
)
def test_traits_that_nobody_has_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        people(**bad)


class Kept(Corrected):
    """Keeps what happened in each episode."""

    def measure(self, slot: int) -> dict[str, float]:
        session = self._session(slot)
        self.kept = {**getattr(self, "kept", {}), session.assignment: session}
        return super().measure(slot)


def play(crowd: Any, *, num_envs: int = 3, steps: int = 30, horizon: int = 3) -> Any:
    """The outcomes of the obedient policy, and each episode's session."""
    envs = make_vec(SUITE, num_envs)
    controller = Controller(Obedient(), num_envs, action_horizon=horizon, inference_batch=4)
    actor = Kept(controller, crowd)
    outcomes = evaluate(actor, envs, ASSIGNMENTS, max_steps=steps)
    sessions: list[Session] = [actor.kept[each] for each in ASSIGNMENTS]
    return outcomes, sessions


class Restless(Needy):
    """Always wants the arm to move right; "right" is never wrong for long enough to be reached."""

    def __call__(self, view: View) -> Correction | None:
        return Correction("motion", (LanguageMotion("move right"),))

    def mistaken(self, wanted: Correction, random: np.random.Generator) -> Correction:
        return Correction("motion", (LanguageMotion("move left"),))


def restless(**traits: Any) -> Simulated:
    return Simulated(functools.partial(Restless, []), SUITE, **traits)


@pytest.mark.parametrize("replan", [True, False])
@pytest.mark.parametrize("most", [0, 1, 4])
def test_no_episode_is_corrected_more_often_than_allowed(most: int, replan: bool) -> None:
    outcomes, sessions = play(restless(max_corrections=most, steps=2, replan=replan))
    assert {len(session.interventions) for session in sessions} == {most}
    assert {outcome.metrics["corrections"] for outcome in outcomes} == {float(most)}


@pytest.mark.parametrize("replan", [True, False])
@pytest.mark.parametrize("most", [0, 3, 7])
def test_no_more_steps_are_corrected_than_allowed(most: int, replan: bool) -> None:
    outcomes, sessions = play(restless(max_corrected_steps=most, steps=4, replan=replan))
    for outcome, session in zip(outcomes, sessions, strict=True):
        assert sum(index >= 0 for index in session.corrected) == most
        assert sum(each.num_steps for each in session.interventions) == most
        assert outcome.metrics["corrected_share"] == pytest.approx(most / outcome.steps)


def test_a_budget_for_all_episodes_is_dealt_out_beforehand() -> None:
    crowd = restless(corrections_in_all=17, steps=2, max_corrections=2).share(ASSIGNMENTS)
    _, sessions = play(crowd)
    found = [len(session.interventions) for session in sessions]
    assert found == [2] * 5 + [1] * 7  # 17 over 12 episodes
    crowd = restless(corrected_steps_in_all=25, steps=9).share(ASSIGNMENTS)
    _, sessions = play(crowd)
    assert [len([i for i in s.corrected if i >= 0]) for s in sessions] == [3] + [2] * 11


def test_a_budget_for_all_that_nobody_dealt_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"people\.share"):
        restless(corrections_in_all=3).begin(ASSIGNMENTS[0])


def oracle(**traits: Any) -> Simulated:
    corrector = functools.partial(MotionCorrector, axes=AXES, foresight=FORESIGHT)
    return Simulated(corrector, SUITE, **{"steps": 4, **traits})


def test_phrases_of_an_expert_bring_a_policy_that_only_obeys_to_its_goal() -> None:
    """Alone it stands still; told where to go, step by step, it arrives."""
    alone, _ = play(oracle(max_corrections=0), steps=60)
    helped, sessions = play(oracle(), steps=60)
    misled, _ = play(oracle(error_rate=1.0), steps=60)
    assert not any(outcome.success for outcome in alone)
    assert all(outcome.success for outcome in helped)
    assert sum(outcome.success for outcome in misled) <= 2
    said = Counter(each.words for session in sessions for each in session.interventions)
    assert {"move right", "move left", "move up", "move down"} <= {
        term for words in said for term in words.split(" and ")
    }


@pytest.mark.parametrize(
    "crowd",
    [
        oracle(error_rate=0.3, delay=2, patience=1),
        Simulated(functools.partial(ActionCorrector), SUITE, steps=3, error_rate=0.5),
        Simulated(
            functools.partial(GoalCorrector, columns=[0, 1], tolerance=0.02, late=2, ahead=4),
            SUITE,
            steps=3,
        ),
    ],
    ids=["motions", "actions", "goals"],
)
def test_outcomes_and_records_do_not_depend_on_the_number_of_slots(crowd: Simulated) -> None:
    expected, sessions = play(crowd, num_envs=1)
    assert any(session.interventions for session in sessions)
    for num_envs in (3, 8):
        outcomes, again = play(crowd, num_envs=num_envs)
        assert outcomes == expected
        assert [each.interventions for each in again] == [each.interventions for each in sessions]


def test_an_expert_at_the_controls_solves_what_the_policy_cannot() -> None:
    outcomes, sessions = play(Simulated(ActionCorrector, SUITE, steps=5), steps=60)
    assert all(outcome.success for outcome in outcomes)
    for session in sessions:
        assert {each.level for each in session.interventions} == {"action"}
        assert all(action is not None for action in session.expert)


def test_an_expert_does_not_interfere_within_its_tolerance() -> None:
    corrector = ActionCorrector(suite=SUITE, assignment=ASSIGNMENTS[0], tolerance=0.5)
    state = np.zeros(10)
    state[2] = 1.0  # the red pad is to the right: the expert moves at full speed
    assert corrector(view(state=state, planned=np.array([0.5, 0.0], np.float32))) is None
    found = corrector(view(state=state, planned=np.array([0.4, 0.0], np.float32)))
    assert found is not None
    assert found.act is not None
    np.testing.assert_array_equal(found.act(view()), [1.0, 0.0])


def test_goals_of_a_demonstration_bring_the_policy_along() -> None:
    corrector = functools.partial(GoalCorrector, columns=[0, 1], tolerance=0.05, late=2, ahead=6)
    outcomes, sessions = play(Simulated(corrector, SUITE, steps=6), steps=60)
    assert all(outcome.success for outcome in outcomes)
    (part,) = sessions[0].interventions[0].parts
    assert isinstance(part, GoalState)


# What each kind of person wants


def motion_corrector(**options: Any) -> MotionCorrector:
    fields = {"axes": AXES, "foresight": FORESIGHT, **options}
    return MotionCorrector(suite=SUITE, assignment=ASSIGNMENTS[0], **fields)


def facing(x: float, y: float) -> np.ndarray:
    """A state whose red pad lies at (x, y) from the point."""
    state = np.zeros(10, np.float32)
    state[2:4] = x, y
    return state


def words(found: Correction | None) -> str | None:
    if found is None:
        return None
    (part,) = found.parts
    assert isinstance(part, Language | LanguageMotion)
    return part.text


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("move right", None),
        ("move left", "move right"),
        ("move right and move up", "move right"),
        ("hold still", "move right"),
        ("wave goodbye", "move right"),  # no words of the grammar
    ],
)
def test_a_phrase_is_corrected_where_it_is_not_the_experts(said: str, expected: str | None) -> None:
    assert ASSIGNMENTS[0].task == "reach-red"
    assert words(motion_corrector()(view(state=facing(1, 0), said=said))) == expected


def test_the_order_of_terms_does_not_matter() -> None:
    state = facing(1, 1)
    for said in ("move right and move up", "move up and move right"):
        assert motion_corrector()(view(state=state, said=said)) is None


def test_a_policy_without_phrases_is_judged_by_what_it_is_about_to_do() -> None:
    state = facing(1, 0)
    assert motion_corrector()(view(state=state, planned=np.array([0.4, 0]))) is None
    assert words(motion_corrector()(view(state=state, planned=np.array([0, 0.4])))) == "move right"


def test_who_always_speaks_leaves_nothing_to_a_policy_without_phrases() -> None:
    state, right = facing(1, 0), np.array([0.4, 0])
    corrector = motion_corrector(always=True)
    assert words(corrector(view(state=state, planned=right))) == "move right"
    assert corrector(view(state=state, planned=right, said="move right")) is None
    assert words(corrector(view(state=state, planned=right, said="move up"))) == "move right"


def test_slack_forgives_what_is_nearly_worth_a_word() -> None:
    state = facing(1, 1.1 * STEP / 4)  # 1.1 thresholds upwards within the horizon
    assert words(motion_corrector()(view(state=state, said="move right"))) is not None
    assert motion_corrector(slack=0.2)(view(state=state, said="move right")) is None
    assert motion_corrector(slack=0.2)(view(state=state, said="move right and move up")) is None


def test_foresight_follows_inertia_scale_and_bounds() -> None:
    ahead = Foresight([0], [1], [-0.1], 4, inertia=[1], low=[0.0], high=[1.0])
    change = functools.partial(ahead.change, np.array([0.5]))
    np.testing.assert_allclose(change(np.array([0.02]), np.array([9.0, 1.0])), [0.02 - 0.3])
    np.testing.assert_allclose(change(np.array([0.02]), np.array([9.0, 5.0])), [-0.5])
    with pytest.raises(ValueError, match="of one length"):
        Foresight([0, 1], [0], [1.0], 4)


def test_what_is_pushed_and_does_not_move_stays_where_it_is() -> None:
    """As a gripper that has closed on something."""
    corrector, state = motion_corrector(), facing(1, 0)
    right = np.array([1.0, 0.0], np.float32)
    said = []
    for step in range(6):
        executed = right if step else None
        found = corrector(view(step, state, said="move up", executed=executed))
        said.append(words(found))
    assert said == ["move right"] * 4 + ["hold still"] * 2


def test_a_mistaken_person_says_what_is_not_right() -> None:
    corrector, random = motion_corrector(), np.random.default_rng(0)
    wanted = Correction("motion", (LanguageMotion("move right and move up"),))
    wrong = {words(corrector.mistaken(wanted, random)) for _ in range(50)}
    assert wrong == {"move left", "move down"}


def test_a_player_tells_which_subtask_it_pursues() -> None:
    suite = Playground(observation="state")
    task = suite.tasks[0]
    assignment = Assignment(task, 0, 0, 4, "play")
    corrector = SubtaskCorrector(suite=suite, assignment=assignment, choices=["a", "b"])
    env = suite.make_env()
    state = env.reset(seed=4, options={"task": task, "goal": 0})[0]["state"]
    found = corrector(view(state=state, told="play"))
    assert found is not None
    player: Any = suite.expert(task, seed=4)
    player(state)
    assert words(found) == player.pursuits[0][1]
    assert corrector(view(1, state, told=player.pursuits[0][1])) is None
    random = np.random.default_rng(0)
    assert {words(corrector.mistaken(found, random)) for _ in range(20)} == {"a", "b"}


class StagedSuite(PointSuite):
    """First to the left half, then to the pad."""

    def expert(self, task: str, *, seed: int = 0) -> Expert:
        inner = super().expert(task, seed=seed)

        class Stages:
            def __call__(self, state: Any) -> Any:
                return inner(state)

            def subtask(self, state: Any) -> str:
                return "go left" if state[0] > 0 else "go to the pad"

        return Stages()


@pytest.mark.parametrize("said_as", ["language", "motion"])
def test_the_part_of_the_task_that_is_due_is_told_in_place_of_another(said_as: Any) -> None:
    suite = StagedSuite()
    corrector = SubtaskCorrector(suite=suite, assignment=ASSIGNMENTS[0], said_as=said_as)
    heard = "said" if said_as == "motion" else "told"
    state = facing(1, 0)
    assert words(corrector(view(state=state, **{heard: "go left"}))) == "go to the pad"
    assert corrector(view(state=state, **{heard: "go to the pad"})) is None
    state[0] = 0.5
    found = corrector(view(state=state, **{heard: "go to the pad"}))
    assert found is not None
    kind = LanguageMotion if said_as == "motion" else Language
    assert found.parts == (kind("go left"),)
    assert found.level == "subtask"


def test_an_expert_without_subtasks_cannot_tell_them() -> None:
    with pytest.raises(ValueError, match="knows no sub-tasks"):
        SubtaskCorrector(suite=SUITE, assignment=ASSIGNMENTS[0])


def test_a_goal_lies_ahead_on_the_demonstration_and_only_who_strays_gets_one() -> None:
    corrector = GoalCorrector(
        suite=SUITE, assignment=ASSIGNMENTS[0], columns=[0, 1], tolerance=0.04, late=3, ahead=5
    )
    path = corrector.states
    for step in (0, 4):
        assert corrector(view(step, path[step])) is None
    far = path[2].copy()
    far[:2] += 10
    nearest = int(np.linalg.norm(path[:, :2] - far[:2], axis=1).argmin())
    found = corrector(view(2, far))
    assert found is not None
    (part,) = found.parts
    assert isinstance(part, GoalState)
    np.testing.assert_array_equal(part.state, path[min(nearest + 5, len(path) - 1)])
    late = corrector(view(5, path[1]))
    assert late is not None
    np.testing.assert_array_equal(late.parts[0].state, path[6])  # type: ignore[union-attr]
    assert corrector(view(4, path[1])) is None


def test_a_sketch_shows_what_is_left_of_the_path() -> None:
    from embodied_envs.tabletop import Tabletop

    suite = Tabletop(observation="mixed", image_size=(48, 64))
    task = suite.tasks[0]
    assignment = Assignment(task, 0, 0, 1, suite.texts(task).canonical)
    corrector = SketchCorrector(suite=suite, assignment=assignment, tolerance=0.03)
    path = corrector.states
    assert corrector(view(state=path[0])) is None
    ink = []
    for step in (0, len(path) // 2, len(path) - 2):
        found = corrector(view(step, path[step] + np.array([0, 0, 0.2] + [0] * (len(path[0]) - 3))))
        assert found is not None
        image = found.parts[0].image  # type: ignore[union-attr]
        assert image.shape == (48, 64, 3)
        ink.append(int((image > 0).any(-1).sum()))
    assert ink[0] > ink[-1] > 0
    mirrored = corrector.mistaken(found, np.random.default_rng(0))
    np.testing.assert_array_equal(mirrored.parts[0].image[:, ::-1], image)  # type: ignore[union-attr]


# Seeing everything


def test_a_watched_suite_shows_what_an_expert_sees_and_changes_nothing_else() -> None:
    suite = MetaWorld(benchmark="MT1", task="reach-v3", observation="state", goal_visible=False)
    seen, plain = Watched(suite).make_env(), suite.make_env()
    options = {"task": "reach-v3", "goal": 3, "benchmark_seed": 0}
    shown, _ = seen.reset(seed=1, options=options)
    usual, _ = plain.reset(seed=1, options=options)
    assert seen.observation_space.contains(shown)
    for _ in range(3):
        np.testing.assert_array_equal(shown["state"], usual["state"])
        np.testing.assert_array_equal(shown[FULL], plain.unwrapped.full_observation)
        action = suite.expert("reach-v3")(shown[FULL])
        shown, usual = seen.step(action)[0], plain.step(action)[0]
    assert not np.array_equal(shown[FULL][: len(shown["state"])], shown["state"])
    assert View(0, shown, "", "", np.zeros(4)).state is shown[FULL]


@pytest.mark.parametrize("name", ["motions_point", "actions", "goals"])
def test_people_of_the_config_can_be_met(name: str) -> None:
    more = ["person.corrector.columns=[0, 1]"] if name == "goals" else []
    more = [text if "columns" not in text else f"+{text}" for text in more]
    config = compose_config("task=point", f"person={name}", "run_dir=unused", *more)
    found = instantiate(config["person"], suite=SUITE)
    assert isinstance(found, Simulated)
    found.begin(ASSIGNMENTS[0])(view(state=facing(1, 0)))


TABLETOP = Tabletop(tasks=("sort-red-orange-blue-purple", "sort-green-purple-yellow-orange"))
PARTS = tuple(name for name in TABLETOP_TASKS if name.endswith("-zone"))


class Handyman(Obedient):
    """Does whatever single task its phrase names, as an expert does; left alone it always does the
    same."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = Spec(36, 3, (-1.0,) * 3, (1.0,) * 3, 10.0)
        self.experts = {
            tabletop_texts(TABLETOP_TASKS[name]).canonical: TabletopExpert(TABLETOP_TASKS[name])
            for name in PARTS
        }

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        alone = next(iter(self.experts))
        phrases = condition.motion or (alone,) * len(observation.state)
        states = observation.state[:, -1].numpy()
        actions = [self.experts[m](x) for m, x in zip(phrases, states, strict=True)]
        return torch.from_numpy(np.stack(actions))[:, None].expand(-1, 4, -1)


@pytest.mark.parametrize("helped", [True, False])
def test_who_only_does_single_parts_does_both_when_told_which_is_due(helped: bool) -> None:
    person = compose_config("person=subtasks", "person.corrector.said_as=motion")["person"]
    crowd = instantiate(person, suite=TABLETOP, max_corrections=None if helped else 0)
    assignments = Protocol("p", goals_per_task=2).assignments(TABLETOP)
    envs = make_vec(TABLETOP, 2)
    controller = Controller(Handyman(), 2, action_horizon=1, inference_batch=2)
    actor = Kept(controller, crowd)
    outcomes = evaluate(actor, envs, assignments, max_steps=200)
    assert [each.success for each in outcomes] == [helped] * 4
    for assignment in assignments:
        told = [each.words for each in actor.kept[assignment].interventions]
        asked = TABLETOP_TASKS[assignment.task]
        parts = {
            f"push the {b} block to the {z} zone"
            for b, z in zip(asked.blocks, asked.targets, strict=True)
        }
        assert set(told) == (parts if helped else set())


def test_the_part_that_is_due_follows_from_the_state_alone() -> None:
    """Whoever acts: once a block lies where it should the other one is due, and the first one again
    when it has been moved away."""
    (task, _), env = TABLETOP.tasks, TABLETOP.make_env()
    expert = TABLETOP.expert(task, seed=0)
    assert isinstance(expert, Staged)
    first, second = (f"push the {b} block to the {z} zone" for b, z in expert.order)
    state = env.reset(seed=0, options={"task": task, "goal": 0, "benchmark_seed": 0})[0]["state"]
    assert expert.subtask(state) == first
    done = state.copy()
    block, zone = expert.order[0]
    place, target = 6 + 6 * BLOCKS.index(block), 30 + 2 * ZONES.index(zone)
    done[place : place + 2] = done[target : target + 2]
    assert expert.subtask(done) == second
    assert expert.subtask(state) == first


def test_a_watched_suite_keeps_all_facts_of_the_suite_within() -> None:
    within = Tabletop(observation="mixed")
    watched = Watched(within)
    assert hand_of(watched) == hand_of(within) is not None
    for name in ("name", "tasks", "num_goals", "max_steps", "rate_hz", "image_profile"):
        assert getattr(watched, name) == getattr(within, name)
