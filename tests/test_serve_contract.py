"""What a request must hold, what it may, and how a session tells a mind."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from embodied.conditions import GoalImage, Language, Sketch
from embodied.data.asked import SketchStyle
from embodied.data.sketches import Trace, draw
from embodied.serve import session as session_module
from embodied.serve.contract import Contract
from embodied.serve.fields import MAX_POINTS, RequestError
from embodied.serve.session import PolicyFailed, Session
from embodied.serve.wire import decode, encode
from embodied.structs import Spec
from tests.serving import CONTRACT, HORIZON, SPEC, Mind, observation

DRAWN = replace(CONTRACT, sketch_style=SketchStyle(size=(8, 12), width=1))
SKETCH = {"points": np.array([[0.0, 0.0], [5.0, 3.0]]), "size": [4, 6]}


def started(contract: Contract = CONTRACT, **options: Any) -> tuple[Session, Mind]:
    mind = Mind()
    return Session(lambda: mind, contract, **options), mind


def answer(session: Session, contract: Contract = CONTRACT, **fields: Any) -> dict[str, Any]:
    return session.answer(contract.request(observation(**fields)))


# The contract


def test_the_keys_are_openpi_s_unless_there_are_several_cameras() -> None:
    assert CONTRACT.keys == {"state": "observation/state", "front": "observation/image"}
    two = Contract(replace(SPEC, cameras={"front": (4, 6), "wrist": (2, 2)}), 1)
    assert two.keys["wrist"] == "observation/wrist"
    named = replace(two, features={"wrist": "observation/wrist_image"})
    assert named.keys == {**two.keys, "wrist": "observation/wrist_image"}


def test_the_metadata_tells_all_that_a_client_must_know_and_can_be_sent() -> None:
    contract = replace(
        CONTRACT,
        obs_horizon=2,
        phrases=("move left",),
        state_names=["a", "b", "c"],
        action_names=("x", "y"),
        action_units=("m", "rad"),
        checkpoint="abc",
    )
    assert decode(encode(contract.metadata)) == {
        "protocol": "embodied/1",
        "features": {
            "observation/state": {"feature": "state", "shape": [3], "dtype": "float32"},
            "observation/image": {"feature": "front", "shape": [4, 6, 3], "dtype": "uint8"},
        },
        "options": [
            *("prompt", "goal_image", "motion", "reset", "cancel", "deadline_ms"),
            *("request_id", "obs_time"),
        ],
        "actions": {"shape": [5, 2], "dtype": "float32", "low": [-1, -1], "high": [1, 1]},
        "action_horizon": 5,
        "obs_horizon": 2,
        "rate_hz": 10.0,
        "state_parts": {},
        "sketch_size": None,
        "phrases": ["move left"],
        "state_names": ["a", "b", "c"],
        "action_names": ["x", "y"],
        "action_units": ["m", "rad"],
        "checkpoint": "abc",
    }
    assert "sketch" in DRAWN.metadata["options"]
    assert DRAWN.metadata["sketch_size"] == [8, 12]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"features": {"side": "a"}}, r"features names \['side'\], the policy has \['state',"),
        ({"features": {"front": "prompt"}}, r"give \['prompt'\] two meanings"),
        ({"features": {"front": "observation/state"}}, "two meanings"),
        ({"ignored": ["observation/image"]}, "two meanings"),
        ({"state_names": ["a"]}, r"state_names must name 3 axes, got \['a'\]"),
        ({"action_units": ["m"] * 3}, "action_units must name 2 axes"),
    ],
)
def test_a_contract_that_cannot_be_kept_is_refused(fields: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^E_CONFIG_VALUE: .*{problem}"):
        replace(CONTRACT, **fields)


# Requests


def test_a_request_holds_what_the_policy_senses_in_its_own_types() -> None:
    request = CONTRACT.request(
        {
            "observation/state": [1, 2.5, 3],
            "observation/image": observation()["observation/image"],
            "previous_action": np.array([1, 2], np.int64),
        }
    )
    assert request.observation["state"].tolist() == [1.0, 2.5, 3.0]
    assert request.observation["front"].shape == (4, 6, 3)
    assert request.observation["previous_action"].dtype == np.float32
    kinds = [request.observation[name].dtype for name in ("state", "front")]
    assert kinds == [np.float32, np.uint8]
    assert (request.reset, request.cancel, request.deadline_ms) == (None, False, math.inf)


def test_further_keys_may_be_ignored() -> None:
    contract = replace(CONTRACT, ignored=["observation/wrist_image"])
    contract.request(observation(**{"observation/wrist_image": 3}))


IMAGE = np.zeros((4, 6, 3), np.uint8)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no state": ({"observation/state": None}, r"'observation/state' is missing: \(3,\) of float32"),
    "a short state": ({"observation/state": [1, 2]}, r"'observation/state' must be \(3,\) of floa"),
    "a matrix": ({"observation/state": np.zeros((1, 3))}, r"got \(1, 3\) of float64"),
    "ragged": ({"observation/state": [[1], [1, 2]]}, "'observation/state' has rows of unlike"),
    "words for numbers": ({"observation/state": ["a", "b", "c"]}, r"got \(3,\) of no numbers"),
    "truths for numbers": ({"observation/state": [True] * 3}, r"got \(3,\) of bool"),
    "a map for numbers": ({"observation/state": {"a": 1}}, r"got \(\) of no numbers"),
    "NaN": ({"observation/state": [1, np.nan, 1]}, "'observation/state' is not finite"),
    "beyond float32": ({"observation/state": [1e300, 0, 0]}, "'observation/state' is not finite"),
    "an image of floats": ({"observation/image": IMAGE / 255}, r"'observation/image' must be \(4"),
    "an image turned": ({"observation/image": IMAGE.transpose(2, 0, 1)}, r"got \(3, 4, 6\) of uin"),
    "an action too wide": ({"previous_action": [1, 2, 3]}, r"'previous_action' must be \(2,\)"),
    "another name": ({"observation/stat": 1}, "nobody asked for 'observation/stat'; did you mean"),
    "a path": ({"checkpoint": "/etc/passwd"}, "nobody asked for 'checkpoint'"),
    "a long name": ({"x" * 9999: 1}, f"nobody asked for '{'x' * 60}'"),
    "a number for words": ({"prompt": 3}, "'prompt' must be text, got int"),
    "bytes for words": ({"motion": b"left"}, "'motion' must be text, got bytes"),
    "a goal of another size": ({"goal_image": IMAGE[:2]}, r"'goal_image/front' must be \(4, 6, 3"),
    "a goal elsewhere": ({"goal_image": {"side": IMAGE}}, "goal_image must be a map of images"),
    "a broken seed": ({"reset": 1.5}, "'reset' must be a whole number"),
    "a negative seed": ({"reset": -1}, "'reset' must be a whole number"),
    "a seed too large": ({"reset": 2**63}, "'reset' must be a whole number"),
    "a word to cancel": ({"cancel": "yes"}, "'cancel' must be true or false"),
    "no time": ({"deadline_ms": 0}, "'deadline_ms' must be a number above 0"),
    "NaN for time": ({"deadline_ms": math.nan}, "'deadline_ms' must be a number above 0"),
    "a truth for a number": ({"request_id": True}, "'request_id' must be a whole number"),
    "words for a time": ({"obs_time": "now"}, "'obs_time' must be a whole number"),
    "a sketch": ({"sketch": SKETCH}, "sketch: the policy was trained without sketches"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_request_that_does_not_fit_is_refused_with_its_field(name: str) -> None:
    fields, problem = BAD[name]
    with pytest.raises(RequestError, match=f"^E_SERVE_FEATURE: .*{problem}") as found:
        CONTRACT.request(observation(**fields))
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 250


def test_a_request_is_a_map() -> None:
    with pytest.raises(RequestError, match="E_SERVE_FEATURE: a request is a map, got one of list"):
        CONTRACT.request([1])


def bad_sketch(**fields: Any) -> dict[str, Any]:
    return {key: x for key, x in {**SKETCH, **fields}.items() if x is not None}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (3, "sketch must be a map of points, size"),
        (bad_sketch(size=None), "sketch must be a map of points, size"),
        (bad_sketch(colour=3), "sketch must be a map of points, size"),
        (bad_sketch(points=3), "sketch: object of type 'int' has no len"),
        (bad_sketch(points=b"\x00\x01"), "sketch: Object of type bytes is not JSON serializable"),
        (bad_sketch(points=[[0, 0], [np.nan, 1]]), "sketch: a trace needs finite points"),
        (bad_sketch(points=[]), "sketch: a trace needs 1 to"),
        (bad_sketch(heights=[1.0]), "sketch: a trace needs 1 to .* as many heights"),
        (bad_sketch(closes=2), "sketch: a trace needs 1 to .* marks among them"),
        (bad_sketch(size=[4, 0]), "sketch: a trace needs a size"),
        (
            bad_sketch(points=[[0, 0], [6, 0]]),
            r"sketch has at most 1000 points, in its image \(4, 6\)",
        ),
        (bad_sketch(points=[[0, 0]] * (MAX_POINTS + 1)), "sketch has at most 1000 points"),
    ],
)
def test_a_sketch_that_is_none_is_refused(given: Any, problem: str) -> None:
    with pytest.raises(RequestError, match=f"^E_SERVE_FEATURE: {problem}"):
        DRAWN.request(observation(sketch=given))


# Sessions


def test_an_answer_has_actions_and_what_they_obey_and_gives_numbers_back() -> None:
    session, _ = started()
    found = answer(session, first=2.0, prompt=" push \n it ", request_id=7, obs_time=2**62)
    assert found["actions"].tolist() == [[3.0, 3.0]] * HORIZON
    assert found["actions"].dtype == np.float32
    assert found.pop("server_timing").keys() == {"infer_ms"}
    assert (found["instruction"], found["motion"]) == ("push it", "")
    assert (found["request_id"], found["obs_time"]) == (7, 2**62)
    assert "refused" not in found


def test_a_mind_is_told_what_changes_and_nothing_twice() -> None:
    session, mind = started(instruction="wait")
    for prompt in (None, None, "go", "go", None):
        answer(session, **({} if prompt is None else {"prompt": prompt}))
    assert mind.words == ["wait", "go", "wait"]


def test_an_empty_prompt_asks_nothing() -> None:
    session, mind = started(instruction="wait")
    answer(session, prompt="")
    assert mind.told == [[]]


def test_goal_images_are_told_and_left_out_again() -> None:
    session, mind = started()
    for goal in (IMAGE, IMAGE.copy(), IMAGE + 1, None):
        answer(session, goal_image=goal)
    kinds = [[type(part) for part in row] for row in mind.told]
    assert kinds == [[GoalImage], [GoalImage], []]
    (part,) = mind.told[1]
    assert isinstance(part, GoalImage)
    assert part.images["front"].tolist() == (IMAGE + 1).tolist()


def test_a_sketch_is_drawn_as_in_training() -> None:
    session, mind = started(DRAWN)
    for _ in range(2):
        answer(session, DRAWN, sketch=SKETCH, prompt="follow")
    assert [[type(part) for part in row] for row in mind.told] == [[Language, Sketch]]
    trace = Trace(np.array([[0.0, 0.0], [5.0, 3.0]]), np.zeros(2), (4, 6)).scaled((8, 12))
    part = mind.told[0][1]
    assert isinstance(part, Sketch)
    assert part.image.tolist() == draw(trace, width=1).tolist()


def test_a_drawing_may_be_sent_in_place_of_its_points() -> None:
    session, mind = started(DRAWN)
    drawing = np.full((8, 12, 3), 7, np.uint8)
    answer(session, DRAWN, sketch=drawing)
    (part,) = mind.told[0]
    assert isinstance(part, Sketch)
    assert part.image.tolist() == drawing.tolist()
    with pytest.raises(
        RequestError, match=r"^E_SERVE_FEATURE: 'sketch' must be \(8, 12, 3\) of uin"
    ):
        DRAWN.request(observation(sketch=drawing[1:]))


def test_a_sketch_is_as_large_as_the_camera_where_training_did_not_say() -> None:
    spec = replace(SPEC, cameras={"front": (4, 6), "side": (10, 12)})
    for camera, size in (("side", (10, 12)), (None, (4, 6))):
        contract = Contract(spec, HORIZON, sketch_style=SketchStyle(camera=camera))
        session, mind = started(contract)
        images = {"observation/front": IMAGE, "observation/side": np.zeros((10, 12, 3), np.uint8)}
        request = {"observation/state": [0, 0, 0], **images, "sketch": SKETCH}
        session.answer(contract.request(request))
        part = mind.told[0][0]
        assert isinstance(part, Sketch)
        assert part.image.shape == (*size, 3)


def test_a_motion_stands_in_for_the_policy_s_own_until_it_is_left_out() -> None:
    session, mind = started()
    mind.said = "move down"
    found = [answer(session, motion=m)["motion"] for m in (None, "move left", "move left", None)]
    assert found == ["move down", "move left", "move left", "move down"]
    assert mind.corrected == ["move left", None]


def test_a_motion_that_the_policy_does_not_know_is_said_so_and_the_robot_goes_on() -> None:
    contract = replace(CONTRACT, phrases=("move left", "lift the arm"))
    session, mind = started(contract)
    answer(session, motion="move left")
    for _ in range(2):
        found = answer(session, motion="fly left")
        assert found["refused"] == (
            "E_SERVE_MOTION: the policy does not know 'fly left'; the nearest that it knows is "
            "'move left'"
        )
        assert found["motion"] == ""
        assert found["actions"].shape == (HORIZON, 2)
    assert mind.corrected == ["move left", None]
    assert "refused" not in answer(session)


def test_a_motion_that_could_not_be_told_is_told_with_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session, mind = started()
    with monkeypatch.context() as patch:
        patch.setattr(mind, "correct", Mock(side_effect=RuntimeError("out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            answer(session, motion="move left")
    assert answer(session, motion="move left")["motion"] == "move left"


def test_a_reset_begins_an_episode_with_the_server_s_seed_or_its_own() -> None:
    session, mind = started(seed=3)
    counts = []
    for reset in (None, None, True, 8, False):
        answer(session, first=1.0, reset=reset, motion="move left")
        counts.append(mind.count)
    assert mind.seeds == [3, 3, 8]
    assert counts == [1, 2, 1, 1, 2]
    assert mind.corrected == ["move left"] * 3  # an episode begins without corrections


@pytest.mark.parametrize("spoilt", [np.zeros((HORIZON, 3)), np.full((HORIZON, 2), np.nan)])
def test_actions_that_nobody_could_execute_are_not_sent(
    spoilt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, mind = started()
    monkeypatch.setattr(mind, "infer", lambda observation: spoilt)
    with pytest.raises(PolicyFailed, match="actions must be finite and"):
        answer(session)


def test_the_search_for_a_near_phrase_is_short_for_long_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def near(word: str, *args: Any, **kwargs: Any) -> list[str]:
        asked.append(word)
        return []

    monkeypatch.setattr(session_module.difflib, "get_close_matches", near)
    session, _ = started()
    answer(session, motion="fly" + "x" * 5000)
    assert [len(word) for word in asked] == [80]


def test_a_policy_without_cameras_needs_no_images() -> None:
    blind = Contract(Spec(3, 2, (-1.0,) * 2, (1.0,) * 2, 10.0), HORIZON)
    request = blind.request({"observation/state": [1, 2, 3]})
    assert list(request.observation) == ["state"]
    with pytest.raises(RequestError, match="goal_image must be a map of images"):
        blind.request({"observation/state": [1, 2, 3], "goal_image": IMAGE})
