"""What makes the episodes of any suite harder: perturbations with names and strengths.

`Perturbed(PointSuite(), ActionDelay(steps=2))` is the suite with every action two steps late. What
a perturbation draws comes from the episode's own seed, in a stream apart from the environment's:
the episode underneath stays what it was, and is the same in any number of slots. Rewards and
success are of the true state. At strength 0 the environment is not wrapped at all.

Gymnasium's `StickyAction` and `DelayObservation` would not do: the one draws from the generator of
the environment, which changes the episode underneath, and the other begins with zeros for a state.
"""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied.suites import Assignment, Expert, Perturbation, Suite, Texts, image_profile

Action = NDArray[np.float32]
Observations = dict[str, Any]  # of arrays; gymnasium types a Dict space so
Env = gymnasium.Env[Observations, Action]
Random = np.random.Generator


def _as_it_is(value: Any) -> Any:
    return value


class Effect(NamedTuple):
    """What happens to each action and to each observation of one episode, in their order."""

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
        """What happens within an episode that begins now."""
        return Effect()

    def stream(self, seed: int | None) -> Random:
        """The perturbation's generator for an episode's seed; None draws a seed."""
        # NumPy pads seeds with zeros: the second number keeps this from being the episode's stream.
        own = zlib.crc32(self.name.encode())
        return np.random.default_rng(None if seed is None else [seed, own])


@dataclass(frozen=True)
class ObservationNoise(Strength):
    """Gaussian noise on the state, drawn anew for each number and step; images stay as they are.

    Attributes:
        std: standard deviation in the state's own units, the same for all its numbers: in
            Meta-World metres (and parts of a quaternion), in the point world halves of the table's
            side. A noisy state is kept within the bounds of the observation space.
    """

    name = "observation-noise"
    std: float

    def begin(self, env: Env, random: Random) -> Effect:
        space = _spaces(env)["state"]

        def observation(true: Observations) -> Observations:
            noise = self.std * random.standard_normal(space.shape)
            state = (true["state"] + noise).astype(np.float32)
            return {**true, "state": np.clip(state, space.low, space.high)}

        return Effect(observation=observation)


@dataclass(frozen=True)
class ActionNoise(Strength):
    """Gaussian noise on the executed action, drawn anew for each number and step.

    Attributes:
        std: standard deviation as a share of half the range of each number of the action: 1 is full
            speed where the range is [-1, 1]. What is executed is kept within the range.
    """

    name = "action-noise"
    std: float

    def begin(self, env: Env, random: Random) -> Effect:
        space = _action_space(env)
        low, high = space.low, space.high
        scale = self.std * (high - low) / 2

        def action(asked: Action) -> Action:
            # Clipped first, so that an action far out of range does not drown the noise.
            noisy = np.clip(asked, low, high) + scale * random.standard_normal(space.shape)
            return np.clip(noisy, low, high).astype(np.float32)

        return Effect(action=action)


@dataclass(frozen=True)
class ActionDelay(Strength):
    """Each action is executed some steps after it was asked for.

    Attributes:
        steps: environment steps. Until the first action arrives, zeros are executed (or the bound
            nearest to zero).
    """

    name = "action-delay"
    whole = True
    steps: int

    def begin(self, env: Env, random: Random) -> Effect:
        space = _action_space(env)
        nothing = np.clip(np.zeros(space.shape, np.float32), space.low, space.high)
        waiting = deque([nothing] * self.steps)

        def action(asked: Action) -> Action:
            waiting.append(np.array(asked))
            return waiting.popleft()

        return Effect(action=action)


@dataclass(frozen=True)
class DroppedFrames(Strength):
    """Now and then the observation shown before is shown again, the state and all images together.

    Attributes:
        probability: of a repeat at each step, independently; the first observation always arrives.
    """

    name = "dropped-frames"
    most = 1.0
    probability: float

    def begin(self, env: Env, random: Random) -> Effect:
        shown: Observations = {}

        def observation(true: Observations) -> Observations:
            if not shown or random.random() >= self.probability:
                shown.update(true)
            return {name: x.copy() for name, x in shown.items()}

        return Effect(observation=observation)


@dataclass(frozen=True)
class ColourJitter(Strength):
    """Another light in each episode: images brighter or darker, and tinted.

    Attributes:
        spread: s; the brightness of an episode and the tint of each of its three channels are
            factors drawn uniformly from [1 - s, 1 + s], the same for all cameras and steps.
    """

    name = "colour-jitter"
    most = 1.0
    spread: float

    def check(self, env: Env) -> None:
        if len(_spaces(env)) == 1:
            raise ValueError(
                "ColourJitter needs images, but this suite shows the state alone: leave it out, or "
                "evaluate on a suite with cameras"
            )

    def begin(self, env: Env, random: Random) -> Effect:
        span = 1 - self.spread, 1 + self.spread
        gain = random.uniform(*span) * random.uniform(*span, size=3)

        def observation(true: Observations) -> Observations:
            return {name: x if name == "state" else _lit(x, gain) for name, x in true.items()}

        return Effect(observation=observation)


@dataclass(frozen=True)
class HeldOutWords(Strength):
    """Instructions in words that were never trained on; the world itself stays as it is.

    Attributes:
        share: of the episodes that are told a held-out paraphrase, drawn by their seeds; the task's
            paraphrases take turns by goal, as in a protocol with `wording: held_out`.
    """

    name = "held-out-words"
    most = 1.0
    share: float

    def assign(self, assignment: Assignment, texts: Texts) -> Assignment:
        if self.stream(assignment.seed).random() >= self.share:
            return assignment
        if not texts.held_out:
            raise ValueError(
                f"HeldOutWords needs held-out texts, {assignment.task} has none: leave it out"
            )
        told = texts.held_out[assignment.goal % len(texts.held_out)]
        return replace(assignment, instruction=told)


@dataclass(frozen=True)
class Perturbed:
    """A suite whose episodes suffer a perturbation; a `Suite`, and so can be perturbed again.

    Tasks, goals, texts and experts are those of the suite within.
    """

    suite: Suite
    perturbation: Strength

    @property
    def name(self) -> str:
        return f"{self.suite.name}+{self.perturbation.label}"

    @property
    def image_profile(self) -> str | None:
        return image_profile(self.suite)

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
        """The expert of the suite within, which knows nothing of the perturbation."""
        return self.suite.expert(task, seed=seed)

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
        observation, info = self.env.reset(seed=seed, options=options)
        self._effect = self._perturbation.begin(self.env, self._perturbation.stream(seed))
        return self._effect.observation(observation), info

    def step(self, action: Action) -> tuple[Observations, Any, bool, bool, dict[str, Any]]:
        outcome = self.env.step(self._effect.action(action))
        return (self._effect.observation(outcome[0]), *outcome[1:])


def _lit(image: NDArray[np.uint8], gain: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An image (h, w, 3) under a light that scales its channels by `gain` (3,)."""
    return np.clip(np.rint(image * gain), 0, 255).astype(np.uint8)


def _spaces(env: Env) -> dict[str, Any]:
    space = env.observation_space
    assert isinstance(space, gymnasium.spaces.Dict)
    return dict(space.spaces)


def _action_space(env: Env) -> gymnasium.spaces.Box:
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    return space
