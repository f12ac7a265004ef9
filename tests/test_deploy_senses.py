"""Which observations are trusted."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from embodied.deploy.senses import Senses, pose_of, sensed_at
from embodied.deploy.watchdog import Guards
from tests.robots import MS

FEATURES = {
    "x.pos": float,
    "state": (3,),
    "front": (2, 2, 3),
    "state.time_ns": int,
    "front.time_ns": int,
}


def seen(now: int = 0, shade: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "x.pos": 0.5,
        "state": np.zeros(3),
        "front": np.full((2, 2, 3), shade, np.uint8),
        "state.time_ns": now,
        "front.time_ns": now,
        **{_dotted(key): x for key, x in fields.items()},
    }


def _dotted(key: str) -> str:
    return key.replace("_pos", ".pos").replace("_time", ".time_ns")


def senses(frozen_frames: int = 3) -> Senses:
    return Senses(FEATURES, Guards(observation_age_s=0.1, frozen_frames=frozen_frames))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"x_pos": np.nan}, "x.pos is not finite"),
    "infinite": ({"state": np.array([0, np.inf, 0])}, "state is not finite"),
    "shape": ({"state": np.zeros(4)}, r"state has shape \(4,\), not \(3,\)"),
    "text": ({"x_pos": "0.5"}, "x.pos is of type <U3, not numbers"),
    "old camera": ({"front_time": -101 * MS}, "front is 101 ms old, and may be 100"),
    "old state": ({"state_time": -101 * MS}, "state is 101 ms old"),
    "future": ({"state_time": 1}, "state is -0 ms old"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_trusted_is_named(name: str) -> None:
    fields, message = BAD[name]
    problem = senses().problem(seen(**fields), 0, moving=True)
    assert re.match(f"E_ROBOT_OBSERVATION: {message}", problem or "")


def test_a_missing_feature_is_named() -> None:
    found = seen()
    del found["front"]
    assert senses().problem(found, 0, moving=True) == "E_ROBOT_OBSERVATION: front is missing"


def test_a_sound_observation_is_trusted_up_to_its_age() -> None:
    assert senses().problem(seen(), 100 * MS, moving=True) is None
    assert senses().problem(seen(), 100 * MS + 1, moving=True) is not None


def problems(found: Senses, shades: list[int], *, moving: bool = True, step: int = 1) -> list[bool]:
    """Whether each picture of a row is doubted; 10 ms apart, and a new one after `step` looks."""
    answers = []
    for i, shade in enumerate(shades):
        now = 10 * i * MS
        each = seen(now, shade, front_time=now // (10 * step * MS) * 10 * step * MS)
        answers.append(found.problem(each, now, moving=moving) is not None)
    return answers


def test_a_camera_is_frozen_after_so_many_pictures_alike() -> None:
    assert problems(senses(), [1, 2, 2, 2, 2, 2, 3]) == [*[False] * 4, True, True, False]


def test_a_robot_that_stands_may_see_the_same() -> None:
    assert not any(problems(senses(), [1] * 9, moving=False))


def test_a_camera_that_is_slower_than_the_loop_is_not_frozen() -> None:
    assert not any(problems(senses(), [1, 1, 1, 1, 2, 2, 2, 2], step=4))


def test_frozen_cameras_are_not_looked_for_at_zero() -> None:
    assert not any(problems(senses(0), [1] * 20))


def test_what_was_seen_before_arming_does_not_count() -> None:
    found = senses()
    assert problems(found, [1] * 5)[-1]
    found.forget()
    assert not any(problems(found, [1] * 3))


def test_the_time_of_a_driver_that_knows_none_is_now() -> None:
    assert sensed_at({"x.pos": 0.0}, 7) == 7
    assert sensed_at(seen(3), 7) == 3
    assert pose_of(seen(), ["x.pos"]).tolist() == [0.5]
