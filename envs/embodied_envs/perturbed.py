"""The suite that a perturbation makes of another one, and what every perturbation has.

What a perturbation draws comes from the episode's own seed, in a stream apart from the
environment's: the episode underneath stays what it was, and is the same in any number of slots.
Rewards and success are of the true state. At strength 0 the environment is not wrapped at all.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np

from embodied.suites import Assignment, Perturbation, Suite, Texts
from embodied_envs.wrapped import Action, Env, Observations, WrappedSuite

Random = np.random.Generator


def _as_it_is(value: Any) -> Any:
    return value


class Effect(NamedTuple):
    """What happens in one episode: to each action and to each observation, in their order.

    `start` are actions (K, A) that are executed before the policy sees anything.
    """

    start: Sequence[Action] = ()
    action: Callable[[Action], Action] = _as_it_is
    observation: Callable[[Observations], Observations] = _as_it_is


@dataclass(frozen=True)
class Strength(Perturbation):
    """A perturbation whose only field is its strength, in [0, `most`]; 0 changes nothing."""

    name: ClassVar[str]
    most: ClassVar[float] = math.inf
    whole: ClassVar[bool] = False

    def __post_init__(self) -> None:
        field, value, kind = fields(self)[0].name, self.strength, int if self.whole else int | float
        if not (isinstance(value, kind) and 0 <= value <= self.most and value < math.inf):
            number = "a whole number" if self.whole else "a number"
            span = f"in [0, {self.most:g}]" if self.most < math.inf else "of 0 or more"
            raise ValueError(
                f"{field} of {type(self).__name__} must be {number} {span}, got {value!r}; "
                "0 changes nothing"
            )
        # So that 1 and 1.0 in a configuration carry one label.
        object.__setattr__(self, field, int(value) if self.whole else float(value))

    @property
    def strength(self) -> Any:
        return getattr(self, fields(self)[0].name)

    @property
    def label(self) -> str:
        """Name and strength, such as "action-delay=2"."""
        return f"{self.name}={self.strength}"

    def perturb(self, suite: Suite) -> Perturbed:
        """The suite under this perturbation."""
        return Perturbed(suite, self)

    def assign(self, assignment: Assignment, texts: Texts) -> Assignment:
        """The assignment, told as the perturbation tells it."""
        return assignment

    def check(self, env: Env) -> None:
        """Raises ValueError where the environment has nothing to perturb."""

    def begin(self, env: Env, random: Random) -> Effect:
        """What happens within an episode that is about to be reset."""
        return Effect()

    def stream(self, seed: int | None) -> Random:
        """The perturbation's generator for an episode's seed; None draws a seed."""
        # NumPy pads seeds with zeros: the second number keeps this from being the episode's stream.
        own = zlib.crc32(self.name.encode())
        return np.random.default_rng(None if seed is None else [seed, own])


@dataclass(frozen=True)
class Perturbed(WrappedSuite):
    """A suite whose episodes suffer a perturbation; a `Suite`, and so can be perturbed again.

    Tasks, goals, texts and experts are those of the suite within.
    """

    perturbation: Strength

    @property
    def name(self) -> str:
        return f"{self.suite.name}+{self.perturbation.label}"

    def make_env(self, *, render_size: tuple[int, int] | None = None) -> Env:
        """The perturbed environment; what it renders is not perturbed."""
        env = self.suite.make_env(render_size=render_size)
        try:
            self.perturbation.check(env)
        except ValueError:
            env.close()
            raise
        return PerturbedEnv(env, self.perturbation) if self.perturbation.strength else env


class PerturbedEnv(gymnasium.Wrapper[Observations, Action, Observations, Action]):
    """An environment under a perturbation that begins anew with each episode."""

    def __init__(self, env: Env, perturbation: Strength) -> None:
        super().__init__(env)
        self._perturbation = perturbation
        self._effect = Effect()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        self._effect = self._perturbation.begin(self.env, self._perturbation.stream(seed))
        observation, info = self.env.reset(seed=seed, options=options)
        for action in self._effect.start:
            observation, _, terminated, truncated, _ = self.env.step(action)
            if terminated or truncated:  # nothing would be left to do: it starts as it was
                observation, info = self.env.reset(seed=seed, options=options)
                break
        return self._effect.observation(observation), info

    def step(self, action: Action) -> tuple[Observations, Any, bool, bool, dict[str, Any]]:
        outcome = self.env.step(self._effect.action(action))
        return (self._effect.observation(outcome[0]), *outcome[1:])


def spaces_of(env: Env) -> dict[str, Any]:
    space = env.observation_space
    assert isinstance(space, gymnasium.spaces.Dict)
    return dict(space.spaces)


def action_space_of(env: Env) -> gymnasium.spaces.Box:
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    return space
