"""Retrieval: what is shown of an episode finds its words, and words what is shown."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.encoders.fuse import TokenEncoder
from embodied.encoders.goal import GoalStateEncoder
from embodied.encoders.language import LanguageEncoder
from embodied.encoders.observation import StateEncoder
from embodied.encoders.task import TaskEncoder
from embodied.heads.edm import EDMHead
from embodied.policies.aligned import AlignedPolicy
from embodied.policies.chunk import ChunkPolicy
from embodied.retrieval import retrieve
from embodied.structs import Condition, Observation, Spec
from embodied_envs.shoves import STATE_DIM, Shoves

TASKS = ("shove-red-left-far", "shove-red-right-far", "shove-red-forward-far")
SUITE = Shoves(tasks=TASKS)
SETTINGS = {"goals_per_task": 3, "benchmark_seed": 42}


class Knows(AlignedPolicy):
    """Its task space is the plane in which the red block moves; what it is told, it knows."""

    mistaken: tuple[str, ...] = ()

    def points(self, modality: str, observation: Observation, condition: Condition) -> Tensor:
        if modality == "language":
            return torch.tensor([self._means(text) for text in condition.language or ()])
        assert condition.goal is not None
        assert condition.start is not None
        return (condition.goal.state - condition.start.state)[:, 0, 6:8]

    def _means(self, text: str) -> tuple[float, float]:
        sign = -1.0 if any(word in text for word in self.mistaken) else 1.0
        x = -1.0 if "left" in text else 1.0 if "right" in text else 0.0
        return sign * x, sign * float("forward" in text)


def policy(kind: type[ChunkPolicy] = Knows, **options: Any) -> Any:
    parts = {"language": LanguageEncoder, "goal_state": GoalStateEncoder}
    task = functools.partial(TaskEncoder, parts)
    return kind(
        spec=Spec(STATE_DIM, 3, (-1.0,) * 3, (1.0,) * 3, 10.0),
        encoder=functools.partial(TokenEncoder, {"task": task, "state": StateEncoder}),
        head=functools.partial(EDMHead, num_layers=1, num_heads=2),
        dim=8,
        **options,
    )


def found(told: Any = None, mistaken: tuple[str, ...] = ()) -> dict[str, Any]:
    built = policy(pairs=[["goal_state", "language"]])
    built.mistaken = mistaken
    return retrieve({"retrieval": SETTINGS, "source": {"told": told}}, built, SUITE)


def test_a_policy_that_knows_finds_everything() -> None:
    figures = found()
    assert list(figures) == ["retrieval_goal_state_seen"]
    evaluation = figures["retrieval_goal_state_seen"]
    assert evaluation.success().mean == 1.0
    assert len(evaluation.outcomes) == len(TASKS) * SETTINGS["goals_per_task"]
    assert evaluation.metrics()["top1_of_words"].mean == 1.0
    assert evaluation.protocol.endswith("-retrieval@goal_state")


def test_what_was_never_told_is_told_apart() -> None:
    never = SUITE.texts(TASKS[0]).canonical
    figures = found({"never": [never]}, mistaken=("left",))
    unseen = figures["retrieval_goal_state_unseen"]
    assert unseen.tasks == TASKS[:1]
    assert unseen.success().mean == 0.0
    assert figures["retrieval_goal_state_seen"].tasks == TASKS[1:]
    # "Left" now means right, so that going left finds other words, and it is no better found.
    assert unseen.metrics()["top1_of_words"].mean == 0.0


def test_policies_that_align_nothing_with_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs an AlignedPolicy, got ChunkPolicy"):
        retrieve({"retrieval": SETTINGS}, policy(ChunkPolicy), SUITE)
    alone = policy(pairs=[["goal_state", "goal_state"]])
    with pytest.raises(ValueError, match=r"none of the pairs .* has language"):
        retrieve({"retrieval": SETTINGS}, alone, SUITE)
