"""What is said before a run about a policy and a suite that see differently."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from embodied.preflight import check_policy
from embodied_datasets.recording import spec_of
from embodied_envs.point import PointSuite

CONFIG = {
    "eval": {"action_horizon": 1},
    "protocol": {"_target_": "embodied.protocols.Protocol", "name": "point"},
}


@dataclass(frozen=True)
class DrawnPoint(PointSuite):
    image_profile: str | None = "fast"


@pytest.mark.parametrize(("learned", "warns"), [("faithful", True), ("fast", False), (None, False)])
def test_images_of_another_profile_are_pointed_out(
    learned: str | None, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    suite = DrawnPoint(cameras=("top",))
    spec = replace(spec_of(suite), render_profile=learned)
    policy: Any = SimpleNamespace(spec=spec, pred_horizon=4)
    caplog.set_level(logging.WARNING)
    check_policy(CONFIG, policy, suite)
    assert ("drawn with render_profile=faithful and will see fast" in caplog.text) == warns
