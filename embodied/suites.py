"""What the core asks of a simulator: a suite of tasks, each with instructions and goals.

This module holds types only and imports neither torch nor a simulator, so that environments,
data collectors and the core can share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from numpy.typing import NDArray

Expert = Callable[[NDArray[np.floating[Any]]], NDArray[np.float32]]


@dataclass(frozen=True)
class Texts:
    """How a task may be put in words. The held-out paraphrases are never trained on."""

    canonical: str
    paraphrases: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def trained(self) -> tuple[str, ...]:
        """The wordings that may be trained on."""
        return (self.canonical, *self.paraphrases)


@dataclass(frozen=True)
class Assignment:
    """One episode, fixed before it runs: what is asked, where, and with which randomness.

    Attributes:
        task: the suite's name of the scene and of its success test.
        goal: index of the goal, in [0, suite.num_goals).
        benchmark_seed: the seed that the list of goals is drawn with.
        seed: seed of everything random within the episode (simulator and policy).
        instruction: what the policy is told; may be another task's.
    """

    task: str
    goal: int
    benchmark_seed: int
    seed: int
    instruction: str


class SlotError(RuntimeError):
    """Some slots of a vector environment failed: a simulator raised, or its process died or hung.

    Attributes:
        slots: the failed slots; their episodes are lost, and a reset makes them work again.
        result: what the call would have returned; it holds for all other slots.
    """

    slots: tuple[int, ...]
    result: Any


class NoExpertError(ValueError):
    """A suite has no scripted expert for a task; its message says where to get demonstrations."""


class Suite(Protocol):
    """A picklable description of a set of tasks; cheap to build, opens no simulator by itself.

    `make_env()` gives a `gymnasium.Env` with a Dict observation space `{"state": (S,) float32,
    <camera>: (h, w, 3) uint8}` and a Box action space. `env.reset(seed=..., options={"task": str,
    "goal": int, "benchmark_seed": int, "instruction": str})` starts an episode of any task of the
    suite. `step` returns `info` with `success` (bool), `unstable` (bool) and, where unstable,
    `reason` (str); it may hold `metrics`, a dict of further measures of the episode so far (finite
    floats), whose last values an evaluation reports. `expert` gives a new one for each episode,
    since it may keep state, and draws its ways of doing the task with the seed; it raises
    NoExpertError where nobody can demonstrate.
    """

    @property
    def name(self) -> str: ...
    @property
    def tasks(self) -> tuple[str, ...]: ...
    @property
    def num_goals(self) -> int: ...
    @property
    def max_steps(self) -> int: ...
    @property
    def rate_hz(self) -> float: ...
    def texts(self, task: str) -> Texts: ...
    def make_env(
        self, *, render_size: tuple[int, int] | None = None
    ) -> gymnasium.Env[Any, Any]: ...
    def expert(self, task: str, *, seed: int = 0) -> Expert: ...


@runtime_checkable
class Player(Protocol):
    """An expert that pursues one sub-task after the other within an episode."""

    @property
    def pursuits(self) -> Sequence[tuple[int, str]]:
        """Each sub-task so far: the number of its first action, from 0, and what it is in words."""
        ...

    def __call__(self, observation: NDArray[np.floating[Any]], /) -> NDArray[np.float32]: ...


@runtime_checkable
class Staged(Protocol):
    """An expert that can tell from an observation alone which of its task's parts is due, whoever
    has been acting."""

    def subtask(self, observation: NDArray[np.floating[Any]], /) -> str:
        """That part in words."""
        ...

    def __call__(self, observation: NDArray[np.floating[Any]], /) -> NDArray[np.float32]: ...


@runtime_checkable
class Playful(Protocol):
    """A suite with a place to play, where nothing in particular is asked (Lynch et al. 2020)."""

    def playground(self, steps: int) -> Suite:
        """A suite of one task that is never solved, with the spaces of this one.

        Its episodes begin in random scenes, do not terminate and last `steps` steps; its expert is
        a `Player`; its words are general ones, such as "play".
        """
        ...


@runtime_checkable
class Drawn(Protocol):
    """A suite that can draw what its policies observe in several ways."""

    @property
    def image_profile(self) -> str | None:
        """The name of the way; None where the policy observes no images."""
        ...


def image_profile(suite: Suite) -> str | None:
    """How the images that a policy observes are drawn; None where there are none, or one way."""
    return suite.image_profile if isinstance(suite, Drawn) else None


@runtime_checkable
class Perturbation(Protocol):
    """One thing that makes the episodes of any suite harder, with a strength.

    `perturb` gives the suite in which it happens; `assign` says what the policy is told there.
    """

    @property
    def label(self) -> str:
        """Name and strength, such as "action-delay=2": part of the name of a protocol."""
        ...

    def perturb(self, suite: Suite) -> Suite: ...
    def assign(self, assignment: Assignment, texts: Texts) -> Assignment: ...


@dataclass(frozen=True)
class Hand:
    """Where a state and an action tell of the hand.

    Attributes:
        position: which three numbers of the state are its position, in m, in the frame of the
            cameras' extrinsics; the third is its height.
        gripper: which number of the state is the gripper's opening; None where there is none.
        command: which number of the action closes the gripper, the larger the further.
        closed: the gripper's opening when it is closed on nothing.
        threshold: how much wider it must stay, told to close, to hold something.
    """

    position: Sequence[int] = (0, 1, 2)
    gripper: int | None = None
    command: int = -1
    closed: float = 0.0
    threshold: float = 0.1


@runtime_checkable
class Handy(Protocol):
    """A suite whose states tell where the hand is."""

    @property
    def hand(self) -> Hand | None: ...


def hand_of(suite: Suite) -> Hand | None:
    """Where a suite's states tell of the hand; None where they do not."""
    return suite.hand if isinstance(suite, Handy) else None


def has_experts(suite: Suite) -> bool:
    """Whether every task of the suite has a scripted expert."""
    try:
        check_experts(suite)
    except NoExpertError:
        return False
    return True


def check_experts(suite: Suite) -> None:
    """Raises NoExpertError unless every task of the suite has a scripted expert."""
    for task in suite.tasks:
        suite.expert(task)


def rewordings(suite: Suite) -> dict[str, tuple[str, ...]]:
    """Each wording that may be trained on -> all wordings of its task."""
    groups = [suite.texts(task).trained for task in suite.tasks]
    return {text: group for group in groups for text in group}
