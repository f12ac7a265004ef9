"""What makes the episodes of any suite harder: perturbations with names and strengths.

`Perturbed(PointSuite(), ActionDelay(steps=2))` is the suite with every action two steps late.

Gymnasium's `StickyAction` and `DelayObservation` would not do: the one draws from the generator of
the environment, which changes the episode underneath, and the other begins with zeros for a state.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embodied.suites import Assignment, Texts
from embodied_envs.perturbed import Effect, Random, Strength, action_space_of, spaces_of
from embodied_envs.wrapped import Action, Env, Observations


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
        space = spaces_of(env)["state"]

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
        space = action_space_of(env)
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
        space = action_space_of(env)
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
class StartShift(Strength):
    """The episode starts elsewhere: some steps of one random action are taken unseen.

    Attributes:
        steps: environment steps for which the action is held, which is drawn uniformly from the
            range of actions. They are steps of the environment's horizon. An episode that they
            would end starts as it was.
    """

    name = "start-shift"
    whole = True
    steps: int

    def begin(self, env: Env, random: Random) -> Effect:
        space = action_space_of(env)
        push = random.uniform(space.low, space.high).astype(np.float32)
        return Effect(start=[push] * self.steps)


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
        if len(spaces_of(env)) == 1:
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


def _lit(image: NDArray[np.uint8], gain: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An image (h, w, 3) under a light that scales its channels by `gain` (3,)."""
    return np.clip(np.rint(image * gain), 0, 255).astype(np.uint8)
