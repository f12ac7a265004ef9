"""Episodes in another form: features, cameras, sizes, action spaces and rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from embodied.data.actions import ActionSpace, ActionSpaceError
from embodied.data.adapted import Adapted, resize
from embodied.data.windows import Windows
from embodied.structs import Annotation, Episode, Spec
from embodied.testing import check_episodes

CAMERAS = {"front": (4, 6), "wrist": (2, 2)}


class Rich:
    """Episodes with all that can be recorded: states of two parts, extras and two cameras."""

    def __init__(self, lengths: tuple[int, ...] = (7, 4)) -> None:
        parts = {"joints": 2, "object": 3}
        self.spec = Spec(5, 3, (-9.0,) * 3, (9.0,) * 3, 30.0, CAMERAS, state_parts=parts)
        self.fingerprint = "rich"
        self.episodes = [_episode(i, length) for i, length in enumerate(lengths)]

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]

    def __iter__(self) -> Iterator[Episode]:
        return iter(self.episodes)


def _episode(seed: int, length: int) -> Episode:
    random = np.random.default_rng(seed)

    def numbers(*shape: int) -> Any:
        return random.uniform(-1, 1, shape).astype(np.float32)

    def pixels(*shape: int) -> Any:
        return random.integers(0, 256, shape, np.uint8)

    return Episode(
        state=numbers(length, 5),
        action=numbers(length, 3),
        expert_action=numbers(length, 3),
        reward=np.ones(length, np.float32),
        instruction="go",
        images={name: pixels(length, h, w, 3) for name, (h, w) in CAMERAS.items()},
        extras={"force": numbers(length, 2), "contact": np.arange(length) % 2 == 0},
        final={
            "state": numbers(5),
            "images.front": pixels(4, 6, 3),
            "images.wrist": pixels(2, 2, 3),
            "force": numbers(2),
        },
        annotations=(Annotation("motion", "left", step=5),),
    )


def test_nothing_asked_changes_nothing() -> None:
    episodes = Rich()
    adapted = Adapted(episodes)
    check_episodes(adapted)
    assert adapted.spec == episodes.spec
    for ours, theirs in zip(adapted, episodes, strict=True):
        assert np.array_equal(ours.state, theirs.state)
        assert ours.action is theirs.action
        assert ours.annotations == theirs.annotations
        assert ours.final.keys() == theirs.final.keys()


def test_features_make_the_state() -> None:
    episodes = Rich()
    adapted = Adapted(episodes, state=["contact", "joints", "force"])
    check_episodes(adapted)
    assert adapted.spec.state_parts == {"contact": 1, "joints": 2, "force": 2}
    first = episodes[0]
    assert adapted[0].state[:, 0].tolist() == [1, 0, 1, 0, 1, 0, 1]
    np.testing.assert_array_equal(adapted[0].state[:, 1:3], first.state[:, :2])
    np.testing.assert_array_equal(adapted[0].state[:, 3:], first.extras["force"])
    assert "state" not in adapted[0].final  # of the old form
    with pytest.raises(ValueError, match=r"no feature 'speed' .* 'joints', 'object', 'force'"):
        Adapted(episodes, state=["speed"])[0]


def test_cameras_are_renamed_left_out_and_resized() -> None:
    episodes = Rich()
    adapted = Adapted(episodes, cameras={"top": "front"}, image_size=(2, 3))
    check_episodes(adapted)
    assert adapted.spec.cameras == {"top": (2, 3)}
    found = adapted[1].images["top"]
    # Twice as small: bilinear with antialiasing weighs 1, 3, 3, 1 where no edge is near.
    assert found.shape == (4, 2, 3, 3)
    assert adapted[1].final["images.top"].shape == (2, 3, 3)
    assert "images.front" not in adapted[1].final
    with pytest.raises(ValueError, match=r"no cameras \['side'\]; there are \['front', 'wrist'\]"):
        Adapted(episodes, cameras={"top": "side"})


def test_resizing_keeps_flat_pictures_and_their_size_where_it_is_the_same() -> None:
    flat = np.full((2, 8, 8, 3), 77, np.uint8)
    assert (resize(flat, (3, 5)) == 77).all()
    assert resize(flat, (8, 8)) is flat
    halves = np.zeros((1, 4, 4, 3), np.uint8)
    halves[:, :, 2:] = 200
    shrunk = resize(halves, (1, 2))[0, 0, :, 0].astype(int)
    assert shrunk[0] < 40
    assert shrunk[1] > 160
    assert shrunk.sum() == pytest.approx(200, abs=1)


def test_images_are_not_touched_until_they_are_looked_at() -> None:
    class Lazy(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise AssertionError("decoded")

        def __iter__(self) -> Iterator[str]:
            return iter(CAMERAS)

        def __len__(self) -> int:
            return 2

    episodes = Rich()
    episodes.episodes = [replace(each, images=Lazy()) for each in episodes]
    adapted = Adapted(episodes, image_size=(2, 2))
    assert list(adapted[0].images) == ["front", "wrist"]
    with pytest.raises(AssertionError, match="decoded"):
        adapted[0].images["front"]


FAST = ActionSpace("joint", "absolute", gripper_dim=1, rate_hz=30.0)
SLOW = ActionSpace("joint", "delta", gripper_dim=1, rate_hz=10.0)


def test_actions_and_rate_are_converted_together() -> None:
    episodes = Rich()
    adapted = Adapted(episodes, action_space=FAST, to=SLOW, pose=[0, 1])
    check_episodes(adapted)
    assert adapted.spec.rate_hz == 10.0
    before, after = episodes[0], adapted[0]
    assert len(after) == 3  # of 7 steps: 3, 3 and the one that is left
    np.testing.assert_array_equal(after.state, before.state[::3])
    expected = before.action[2, :2] - before.state[0, :2]
    np.testing.assert_allclose(after.action[0, :2], expected, atol=1e-6)
    assert after.action[:, 2].tolist() == before.action[[2, 5, 6], 2].tolist()
    assert after.reward is not None
    assert after.reward.tolist() == [3.0, 3.0, 1.0]
    assert after.annotations[0].step == 1
    np.testing.assert_array_equal(after.images["wrist"], before.images["wrist"][::3])
    np.testing.assert_array_equal(after.final["state"], before.final["state"])
    assert after.expert_action is not None


def test_bounds_are_those_of_the_converted_actions() -> None:
    adapted = Adapted(Rich(), action_space=FAST, to=SLOW, pose=[0, 1])
    actions = np.concatenate([each.action for each in adapted])
    np.testing.assert_allclose(adapted.spec.action_low, actions.min(0))
    np.testing.assert_allclose(adapted.spec.action_high, actions.max(0))


def test_what_cannot_be_converted_is_refused_at_once() -> None:
    with pytest.raises(ActionSpaceError, match=r"cannot turn actions .* needs `pose`"):
        Adapted(Rich(), action_space=FAST, to=SLOW)
    with pytest.raises(ActionSpaceError, match="actions of 3 numbers cannot be"):
        Adapted(Rich(), action_space=ActionSpace("end_effector", "delta"))
    with pytest.raises(ValueError, match="action_space must say what the recorded actions mean"):
        Adapted(Rich(), to=SLOW)


def test_every_change_has_a_fingerprint_of_its_own() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"state": ["joints"]},
        {"cameras": {"front": "front"}},
        {"cameras": {"front": "wrist"}},
        {"image_size": (2, 2)},
        {"action_space": FAST, "to": replace(FAST, rate_hz=10.0)},
        {"action_space": FAST, "to": SLOW, "pose": [0, 1]},
        {"action_space": FAST, "to": SLOW, "pose": [1, 0]},
    ]
    assert len({Adapted(Rich(), **change).fingerprint for change in changes}) == len(changes)


def test_windows_of_adapted_episodes_hold_what_was_asked() -> None:
    windows = Windows.load(Adapted(Rich(), state=["joints"], cameras={"eye": "wrist"}))
    shapes = {name: tuple(x.shape) for name, x in windows.columns.items()}
    assert shapes == {"state": (11, 2), "action": (11, 3), "images.eye": (11, 3, 2, 2)}


def test_the_previous_action_is_a_feature_and_no_step_is_told_its_own() -> None:
    episodes = Rich()
    adapted = Adapted(episodes, state=["joints", "previous_action"])
    check_episodes(adapted)
    assert adapted.spec.state_parts == {"joints": 2, "previous_action": 3}
    assert adapted.spec.state_dim == 5
    for ours, theirs in zip(adapted, episodes, strict=True):
        assert len(ours) == len(theirs) - 1
        np.testing.assert_array_equal(ours.action, theirs.action[1:])
        np.testing.assert_array_equal(ours.state[:, :2], theirs.state[1:, :2])
        np.testing.assert_array_equal(ours.state[:, 2:], theirs.action[:-1])
        assert theirs.reward is not None
        np.testing.assert_array_equal(ours.reward, theirs.reward[1:])
        assert theirs.expert_action is not None
        np.testing.assert_array_equal(ours.expert_action, theirs.expert_action[1:])
        np.testing.assert_array_equal(ours.images["wrist"], theirs.images["wrist"][1:])
        np.testing.assert_array_equal(ours.extras["force"], theirs.extras["force"][1:])
        assert ours.final.keys() == theirs.final.keys() - {"state"}
    assert adapted[0].annotations[0].step == 4


def test_the_previous_action_is_in_the_space_and_at_the_rate_of_the_new_actions() -> None:
    new: dict[str, Any] = {"action_space": FAST, "to": SLOW, "pose": [0, 1]}
    plain = Adapted(Rich(), **new)
    adapted = Adapted(Rich(), state=["previous_action", "contact"], **new)
    check_episodes(adapted)
    assert adapted.spec.state_parts == {"previous_action": 3, "contact": 1}
    for ours, theirs in zip(adapted, plain, strict=True):
        np.testing.assert_array_equal(ours.state[:, :3], theirs.action[:-1])
        np.testing.assert_array_equal(ours.action, theirs.action[1:])
        assert ours.state[:, 3].tolist() == theirs.extras["contact"][1:].tolist()
        np.testing.assert_array_equal(ours.images["front"], theirs.images["front"][1:])
    assert adapted[0].reward is not None
    assert adapted[0].reward.tolist() == [3.0, 1.0]


def test_the_previous_action_has_the_size_of_what_actions_are_turned_into() -> None:
    random = np.random.default_rng(0)
    pose = random.uniform(-1, 1, (7, 6)).astype(np.float32)
    episode = replace(_episode(0, 7), state=pose, action=pose, expert_action=None, final={})
    episodes = Rich()
    episodes.spec = Spec(6, 6, (-9.0,) * 6, (9.0,) * 6, 30.0, CAMERAS)
    episodes.episodes = [episode]
    euler = ActionSpace("end_effector", "absolute", "euler_xyz", gripper_dim=0, rate_hz=30.0)
    six = replace(euler, rotation="rotation_6d")
    adapted = Adapted(episodes, state=["state", "previous_action"], action_space=euler, to=six)
    check_episodes(adapted)
    assert adapted.spec.state_parts == {"state": 6, "previous_action": 9}


def test_words_that_last_outlive_the_step_that_is_left_out_and_moments_do_not() -> None:
    episodes = Rich((7,))
    marks = (
        Annotation("motion", "left", step=0),
        Annotation("interjection", "stop", step=0),
        Annotation("interjection", "go on", step=3),
    )
    episodes.episodes = [replace(episodes[0], annotations=marks)]
    found = Adapted(episodes, state=["previous_action"])[0].annotations
    assert [(each.content, each.step) for each in found] == [("left", 0), ("go on", 2)]


def test_an_episode_of_one_step_has_none_with_a_previous_action() -> None:
    adapted = Adapted(Rich((1, 4)), state=["joints", "previous_action"])
    assert len(adapted[0]) == 0
    assert Windows.load(adapted).lengths.tolist() == [3]
