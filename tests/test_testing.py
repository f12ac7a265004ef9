"""The contracts accept what is right and name what is wrong, each with its own message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from embodied.suites import NoExpertError, Texts
from embodied.testing import check_env
from embodied_envs.point import PointEnv, PointSuite


def test_the_point_world_keeps_the_contract() -> None:
    check_env(PointSuite(cameras=("top",), image_size=(8, 8)))


class Orphan(PointSuite):
    def expert(self, task: str, *, seed: int = 0) -> Any:
        raise NoExpertError("nobody")


def test_a_world_without_experts_keeps_the_contract() -> None:
    check_env(Orphan())


@dataclass(frozen=True)
class BrokenSuite(PointSuite):
    """A point world with one fault."""

    fault: str = ""

    def make_env(self, *, render_size: tuple[int, int] | None = None) -> PointEnv:
        return BrokenEnv(self, render_size)

    def texts(self, task: str) -> Texts:
        texts = super().texts(task)
        return replace(texts, held_out=texts.paraphrases) if self.fault == "texts" else texts

    def expert(self, task: str, *, seed: int = 0) -> Any:
        act = super().expert(task)
        return (lambda state: act(state) + 2) if self.fault == "expert" else act


def _dirty(observation: dict[str, Any]) -> dict[str, Any]:
    return {**observation, "state": observation["state"] * np.float32(np.nan)}


STEP_FAULTS: dict[str, Callable[..., Any]] = {
    "nan": lambda o, r, e, t, i: (_dirty(o), r, e, t, i),
    "float64": lambda o, r, e, t, i: ({"state": o["state"].astype(float)}, r, e, t, i),
    "reward": lambda o, r, e, t, i: (o, float("nan"), e, t, i),
    "info": lambda o, r, e, t, i: (o, r, e, t, {"unstable": False}),
}


class BrokenEnv(PointEnv):
    resets = 0

    @property
    def fault(self) -> str:
        assert isinstance(self._suite, BrokenSuite)
        return self._suite.fault

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        self.resets += 1
        return super().reset(seed=self.resets if self.fault == "seed" else seed, options=options)

    def step(self, action: Any) -> Any:
        return STEP_FAULTS.get(self.fault, lambda *result: result)(*super().step(action))

    def _observation(self) -> dict[str, Any]:
        return {"state": self._state} if self.fault == "memory" else super()._observation()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("texts", "reach-red holds out what is trained on"),
        ("expert", "the expert's action for reach-red is not in Box"),
        ("nan", "the observation at step 1 of reach-red does not lie in observation_space"),
        ("float64", "the observation at step 1 of reach-red does not lie in observation_space"),
        ("reward", "the reward at step 1 of reach-red is nan"),
        ("info", r"info\['success'\] is no bool: None"),
        ("seed", "must give the same trajectory whatever ran before, but 'state' differs"),
        ("memory", "an observation changed after it was returned"),
    ],
)
def test_a_faulty_world_is_named(fault: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_env(BrokenSuite(fault=fault))
