"""A suite around another one, which it is like in all that it does not change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied.suites import Expert, Hand, Suite, Texts, hand_of, image_profile

Action = NDArray[np.float32]
Observations = dict[str, Any]  # of arrays; gymnasium types a Dict space so
Env = gymnasium.Env[Observations, Action]


@dataclass(frozen=True)
class WrappedSuite(ABC):
    """Has the tasks, words, experts and facts of the suite within, and environments of its own."""

    suite: Suite

    @property
    def name(self) -> str:
        return self.suite.name

    @property
    def image_profile(self) -> str | None:
        return image_profile(self.suite)

    @property
    def hand(self) -> Hand | None:
        return hand_of(self.suite)

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.suite.tasks

    @property
    def num_goals(self) -> int:
        return self.suite.num_goals

    @property
    def max_steps(self) -> int:
        return self.suite.max_steps

    @property
    def rate_hz(self) -> float:
        return self.suite.rate_hz

    def texts(self, task: str) -> Texts:
        """The wordings of a task."""
        return self.suite.texts(task)

    def expert(self, task: str, *, seed: int = 0) -> Expert:
        """The expert of the suite within, who knows of nothing around it."""
        return self.suite.expert(task, seed=seed)

    @abstractmethod
    def make_env(self, *, render_size: tuple[int, int] | None = None) -> Env:
        """An environment of the suite within, changed."""
