"""A server in place of a `Brain`: the same words, the same actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from embodied.conditions import GoalImage, GoalState, Language, LanguageMotion, Sketch
from embodied.data.asked import SketchStyle
from embodied.deploy.brain import Brain
from embodied.policies.chunk import ChunkPolicy
from embodied.serve.client import PolicyClient, ServerError
from embodied.serve.contract import Contract
from embodied.serve.remote import RemoteBrain
from tests.openpi_server import openpi_server
from tests.serving import CONTRACT, running

STATE = np.array([1.0, 0.0, 0.0], np.float32)
IMAGE = np.zeros((4, 6, 3), np.uint8)
SEEN: dict[str, Any] = {"state": STATE, "front": IMAGE, "something else": STATE}


@pytest.mark.usefixtures("fake_language")
def test_it_plans_what_a_brain_does_here(make_policy: Callable[..., ChunkPolicy]) -> None:
    policy = make_policy(obs_horizon=2)
    states = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)
    options: dict[str, Any] = {
        "contract": Contract(policy.spec, policy.pred_horizon, obs_horizon=2),
        "make_mind": lambda: Brain(policy),
    }

    def plans(brain: Any) -> list[Any]:
        found = [brain.infer({"state": states[0]})]
        brain.tell([Language("stop")])
        found.append(brain.infer({"state": states[1]}))
        brain.reset(7)
        found.append(brain.infer({"state": states[2]}))
        brain.correct([Language("go to the blue pad")])
        found.append(brain.infer({"state": states[3]}))
        brain.release()
        return [*found, brain.infer({"state": states[0]})]

    with running(**options) as server:
        client = PolicyClient(server.url, timeout_s=30)
        remote = plans(RemoteBrain(client, instruction="go to the red pad"))
        client.close()
    here = plans(Brain(policy, instruction="go to the red pad"))
    np.testing.assert_array_equal(np.stack(here), np.stack(remote))


def test_all_that_can_be_told_arrives_and_corrections_stand_for_it() -> None:
    contract = replace(CONTRACT, sketch_style=SketchStyle(size=(2, 2)))
    with running(contract=contract) as server:
        client = PolicyClient(server.url)
        brain = RemoteBrain(client, instruction="push")
        sketch = Sketch(np.full((2, 2, 3), 9, np.uint8))
        brain.tell([Language("pull"), GoalImage({"front": IMAGE + 1}), sketch])
        brain.correct([Language("stop it"), LanguageMotion("move left")])
        brain.infer({**SEEN, "previous_action": np.zeros(2)})
        assert brain.said == "move left"
        brain.release()
        brain.infer(SEEN)
        client.close()
    (mind,) = server.minds
    assert mind.words == ["stop it", "pull"]
    _, goal, drawn = mind.told[0]
    assert goal.images["front"].tolist() == (IMAGE + 1).tolist()
    assert drawn.image.tolist() == sketch.image.tolist()
    assert mind.corrected == ["move left", None]
    assert [sorted(seen) for seen in mind.seen] == [
        ["front", "previous_action", "state"],
        ["front", "state"],
    ]


def test_what_was_told_is_told_again_after_a_connection_broke() -> None:
    with running() as server:
        client = PolicyClient(server.url)
        brain = RemoteBrain(client)
        brain.tell([Language("pull")])
        brain.correct([LanguageMotion("move left")])
        for _ in range(2):
            brain.infer(SEEN)
            client.close()
    assert [mind.words for mind in server.minds] == [["pull"], ["pull"]]
    assert [mind.corrected for mind in server.minds] == [["move left"], ["move left"]]


def test_what_a_server_cannot_be_told_is_refused_here() -> None:
    contract = replace(CONTRACT, phrases=("move left", "lift the arm"))
    with running(contract=contract) as server:
        client = PolicyClient(server.url)
        brain = RemoteBrain(client)
        brain.infer(SEEN)
        with pytest.raises(
            ValueError, match="'move rigt'; the nearest that it knows is 'move left"
        ):
            brain.correct([LanguageMotion("move rigt")])
        with pytest.raises(ValueError, match="goal states cannot be sent to a server"):
            brain.tell([GoalState(STATE)])
        brain.infer(SEEN)
        client.close()
    assert server.minds[0].corrected == []


def test_a_plain_openpi_server_does_not_say_what_it_wants_to_see() -> None:
    with openpi_server(lambda request: request) as url:
        client = PolicyClient(url)
        with pytest.raises(ServerError, match=r"E_SERVE_MISMATCH: .* does not say what it wants"):
            RemoteBrain(client).infer(SEEN)
        client.close()
