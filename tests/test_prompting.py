"""Prompts: what is shown comes from a demonstration of the very episode, whoever runs it."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied.conditions import GoalImage, GoalState, Language, Row, Sketch
from embodied.data.sketches import draw
from embodied.encoders.fuse import TokenEncoder
from embodied.encoders.image import ImageEncoder
from embodied.encoders.observation import StateEncoder
from embodied.evaluation import Outcomes, Trial
from embodied.heads.edm import EDMHead
from embodied.judging import judge
from embodied.noise import Noise
from embodied.parts import Part
from embodied.policies.base import Policy
from embodied.policies.chunk import ChunkPolicy
from embodied.prompting import Demonstrator, Prompter, check_prompts
from embodied.protocols import MODALITIES, Protocol
from embodied.rollout import Controller
from embodied.shards import Queue, play_queues, split
from embodied.structs import Condition, Observation, Spec
from embodied.suites import Expert, Hand, NoExpertError
from embodied_envs.perturbations import ActionDelay
from embodied_envs.perturbed import Perturbed
from embodied_envs.point import PointEnv, PointSuite
from tests.acting import Acting

SIZE = (32, 32)
STEPS = 40
SETTINGS = {
    "num_envs": 3,
    "workers": 0,
    "timeout_s": 60.0,
    "action_horizon": 2,
    "inference_batch": 4,
    "threads": 1,
    "backend": "python",
}


class SeenEnv(PointEnv):
    """The point's table under a camera 2 m above it, which sees [-1, 1] x [-1, 1]."""

    def camera_matrices(self) -> dict[str, Any]:
        top = {
            "intrinsics": [[32, 0, 16], [0, 32, 16], [0, 0, 1]],
            "extrinsics": [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 2]],
            "size": list(SIZE),
        }
        return {"top": top}


@dataclass(frozen=True)
class Seen(PointSuite):
    """The point's x serves as its height."""

    cameras: tuple[str, ...] = ("top",)
    image_size: tuple[int, int] = SIZE
    max_steps: int = STEPS
    hand: Hand = Hand((0, 1, 0))  # noqa: RUF009  frozen

    def make_env(self, *, render_size: tuple[int, int] | None = None) -> PointEnv:
        return SeenEnv(self, render_size)


@dataclass(frozen=True)
class Clumsy(Seen):
    """Its expert stands still."""

    def expert(self, task: str, *, seed: int = 0) -> Expert:
        return lambda state: np.zeros(2, np.float32)


@dataclass(frozen=True)
class Nobody(Seen):
    def expert(self, task: str, *, seed: int = 0) -> Expert:
        raise NoExpertError("nobody can do it")


SUITE = Seen()
ASSIGNMENTS = Protocol("p", goals_per_task=2, benchmark_seed=5).assignments(SUITE)
FIRST = ASSIGNMENTS[0]


def prompt(*modalities: str, suite: PointSuite = SUITE, of: Any = FIRST) -> Row:
    return Prompter(Demonstrator(suite), modalities)(of)


def arrays(row: Row) -> list[Any]:
    parts: list[Any] = list(row)
    found: list[Any] = []
    for part in parts:
        for value in vars(part).values():
            found += value.values() if isinstance(value, dict) else [value]
    return found


def same(one: Row, other: Row) -> bool:
    pairs = zip(arrays(one), arrays(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


# What is told


def test_words_alone_are_told_without_any_demonstration() -> None:
    assert prompt("language", suite=Nobody()) == [Language(FIRST.instruction)]


def test_goals_are_what_the_expert_leaves_behind() -> None:
    state, image = prompt("goal_state", "goal_image")
    assert isinstance(state, GoalState)
    assert isinstance(image, GoalImage)
    pad = state.state[2:4]  # the first task's
    assert np.linalg.norm(state.state[:2] - pad) < 0.05
    assert image.images["top"].shape == (*SIZE, 3)
    shown = Demonstrator(SUITE)(FIRST)
    assert shown.success
    assert not np.array_equal(image.images["top"], SeenEnv(SUITE).reset(seed=FIRST.seed)[0]["top"])
    np.testing.assert_array_equal(state.state, shown.final["state"])


def test_sketches_show_the_experts_path_with_height_or_without() -> None:
    (solid,), (flat,) = prompt("sketch"), prompt("sketch_2d")
    assert isinstance(solid, Sketch)
    assert isinstance(flat, Sketch)
    np.testing.assert_array_equal(solid.image[..., ::2], flat.image[..., ::2])  # red and blue
    assert solid.image[..., 1].any()
    assert not flat.image[..., 1].any()
    prompter = Prompter(Demonstrator(SUITE), ["sketch"])
    trace, shown = prompter.trace(FIRST), Demonstrator(SUITE)(FIRST)
    np.testing.assert_allclose(trace.points, 16 + 16 * shown.state[:, :2] * [1, -1], atol=0.01)
    np.testing.assert_array_equal(solid.image, draw(trace))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_modalities_mix_in_the_order_asked_for(count: int) -> None:
    for chosen in itertools.combinations(MODALITIES, count):
        if {"sketch", "sketch_2d"} <= set(chosen):
            continue
        mixed = prompt(*chosen)
        assert same(mixed, [part for name in chosen for part in prompt(name)])


def test_a_prompt_depends_on_its_episode_alone() -> None:
    chosen = ("language", "goal_state", "goal_image", "sketch")
    together = Prompter(Demonstrator(SUITE), chosen)
    found = {each: together(each) for each in reversed(ASSIGNMENTS)}
    for each in ASSIGNMENTS:
        assert same(found[each], prompt(*chosen, of=each))
        assert same(found[each], together(each))  # told again
    assert len({str(arrays(row)[1]) for row in found.values()}) == len(ASSIGNMENTS)


def test_a_failed_demonstration_is_told_as_it_went_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        demonstrate = Demonstrator(Clumsy())
        shown = demonstrate(FIRST)
        demonstrate(FIRST)
    assert not shown.success
    assert len(shown.state) == STEPS
    assert caplog.messages == ["the prompt of reach-red goal 0 shows a failure of the expert"]


# What cannot be told is found before a run


def test_suites_that_cannot_show_are_refused_with_the_reason() -> None:
    check_prompts(Nobody(), ["language"])
    check_prompts(SUITE, MODALITIES)
    check_prompts(Perturbed(SUITE, ActionDelay(steps=1)), MODALITIES)
    check_prompts(PointSuite(), ["goal_state"])
    for suite, modality, words in (
        (PointSuite(), "goal_image", "point observes no images"),
        (PointSuite(cameras=("top",)), "sketch", "does not say which numbers"),
        (replace(SUITE, cameras=()), "goal_image", "point observes no images"),
    ):
        with pytest.raises(ValueError, match=words):
            check_prompts(suite, [modality])
    with pytest.raises(NoExpertError, match="nobody can do it"):
        check_prompts(Nobody(), ["goal_state"])


def test_modalities_are_checked_and_named_in_results() -> None:
    assert Protocol("p").name_on(SUITE) == "p"
    assert Protocol("p", modalities=("goal_image",)).name_on(SUITE) == "p@goal_image"
    mixed = Protocol("p", modalities=("language", "sketch"))
    assert mixed.name_on(SUITE) == "p@language+sketch"
    for wrong in ((), ("smell",), ("language", "language"), ("sketch", "sketch_2d")):
        with pytest.raises(ValueError, match=r"modalities must be|an episode has one sketch"):
            Protocol("p", modalities=wrong)
    with pytest.raises(ValueError, match="is for words alone"):
        Protocol("p", modalities=("sketch",), wording="other")


# Acting


class Tracer(Acting):
    """Heads for where a goal state says the point should be; remembers what it is told."""

    def __init__(self) -> None:
        super().__init__(Spec(10, 2, (-1.0, -1.0), (1.0, 1.0), 10.0, {"top": SIZE}), pred_horizon=2)
        self.told: list[Condition] = []

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        self.told.append(condition)
        if condition.goal is None:
            return torch.zeros(len(observation.state), 2, 2)
        away = condition.goal.state[:, 0, :2] - observation.state[:, -1, :2]
        return (away / 0.1).clamp(-1, 1)[:, None].expand(-1, 2, -1)


def queue(*modalities: str, suite: PointSuite = SUITE) -> Queue:
    trials = {i: Trial(each, STEPS) for i, each in enumerate(ASSIGNMENTS)}
    return Queue(suite, False, trials, modalities)


def played(policy: Policy, *queues: Queue) -> Outcomes:
    return {i: x for ended in play_queues(policy, queues, SETTINGS) for i, x in ended.items()}


def test_a_policy_is_told_what_the_protocol_asks_for() -> None:
    tracer = Tracer()
    found = played(tracer, queue("goal_state"))
    assert all(outcome.success for outcome in found.values())
    (told, *_) = tracer.told
    assert told.language is None
    assert told.present["goal_state"].all()
    assert not any(outcome.success for outcome in played(Tracer(), queue("language")).values())


def test_how_well_a_sketch_is_followed_is_measured_in_pixels() -> None:
    followed = played(Tracer(), queue("goal_state", "sketch"))
    for outcome in followed.values():
        assert outcome.metrics["following_error"] < 1.5
        assert outcome.metrics["sketch_missed"] < 1.5
        assert outcome.metrics["prompt_success"] == 1
    still = played(Tracer(), queue("sketch"))
    for i, outcome in still.items():
        assert outcome.metrics["following_error"] < 0.01  # it stands where the sketch begins
        assert outcome.metrics["sketch_missed"] > 2 * followed[i].metrics["sketch_missed"]
    assert set(played(Tracer(), queue("goal_state"))[0].metrics) == {"prompt_success"}
    assert not played(Tracer(), queue("language"))[0].metrics
    failed = played(Tracer(), queue("goal_state", suite=Clumsy()))
    assert {outcome.metrics["prompt_success"] for outcome in failed.values()} == {0}


def learner() -> ChunkPolicy:
    """Its actions depend on the sketch, the goal image and its noise."""
    parts: dict[str, Any] = {
        "image": functools.partial(
            ImageEncoder, channels=(8, 8), early={"sketch": "top", "goal_image": "top"}
        ),
        "state": StateEncoder,
    }
    torch.manual_seed(0)
    policy = ChunkPolicy(
        spec=Spec(10, 2, (-1.0, -1.0), (1.0, 1.0), 10.0, {"top": SIZE}),
        encoder=functools.partial(TokenEncoder, parts),
        head=functools.partial(EDMHead, num_layers=1, num_heads=2),
        dim=16,
    )
    for name, x in policy.named_parameters():
        if "extra" in name:
            torch.nn.init.normal_(x, std=0.2)
    states = Observation(torch.rand(64, 1, 10) * 2 - 1)
    policy.fit_normalizers(states, Condition(), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    return policy


def paths(outcomes: Outcomes) -> dict[int, tuple[float, ...]]:
    """What tells episodes apart to the last bit."""
    return {i: (x.steps, x.reward, *x.metrics.values()) for i, x in sorted(outcomes.items())}


def test_any_number_of_shards_gives_the_same_outcomes() -> None:
    policy, asked = learner(), queue("sketch", "goal_image")
    whole = paths(played(policy, asked))
    assert len(whole) == len(ASSIGNMENTS)
    for count in (2, 3):
        shares: Iterator[Outcomes] = (played(policy, *each) for each in split([asked], count))
        merged = {i: x for share in shares for i, x in share.items()}
        assert paths(merged) == whole
    assert paths(played(policy, queue("goal_image"))) != whole


def test_protocols_of_the_same_episodes_are_told_each_in_its_own_way() -> None:
    plain = Protocol("p", goals_per_task=1, benchmark_seed=5, max_steps=STEPS)
    protocols = [replace(plain, modalities=m) for m in (("language",), ("goal_state",))]
    parts = [Part("+".join(p.modalities), SUITE, p) for p in protocols]
    config = {
        "env": SETTINGS,
        "eval": SETTINGS,
        "threads": 1,
        "shards": 1,
        "device": "cpu",
        "launcher": {"_target_": "embodied.launchers.Processes"},
    }
    found = judge(config, Tracer(), parts)
    assert [each.protocol for each in found.values()] == ["p", "p@goal_state"]
    assert [each.success().mean for each in found.values()] == [0.0, 1.0]


def test_a_controller_tells_the_instruction_where_nothing_else_is_asked_for() -> None:
    tracer = Tracer()
    controller = Controller(tracer, 1, action_horizon=1, inference_batch=1)
    controller.reset(0, FIRST)
    image = np.zeros((1, *SIZE, 3), np.uint8)
    controller.observe({"state": np.zeros((1, 10), np.float32), "top": image}, np.ones(1, bool))
    controller.plan(np.ones(1, bool))
    (told,) = tracer.told
    assert told.language == (FIRST.instruction,)
    assert told.goal is None
    assert told.sketch is None
