"""What can be said of recorded episodes in hindsight; each class is a `Labeller`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.data.motions import Axis, MotionGrammar
from embodied.data.sketch_sources import hindsight
from embodied.data.sketches import columns
from embodied.structs import Annotation, Episode, Spec
from embodied.suites import Hand
from embodied_datasets.labels import Labels, digest


@dataclass(frozen=True)
class Motions:
    """Language motions (`embodied.data.motions`): one annotation wherever the phrase changes.

    Args:
        axes: words and threshold of each dimension, in order.
        columns: which numbers of the state the axes measure.
        horizon: steps that a phrase looks ahead.
    """

    axes: Sequence[Mapping[str, Any]]
    columns: Sequence[int]
    horizon: int = 4

    def __call__(self, episode: Episode, spec: Spec) -> Labels:
        grammar = MotionGrammar([Axis(**axis) for axis in self.axes])
        phrases = grammar.label(columns(episode.state, self.columns), self.horizon)
        changes = [t for t in range(len(phrases)) if t == 0 or phrases[t] != phrases[t - 1]]
        return Labels(annotations=tuple(Annotation("motion", phrases[t], t) for t in changes))


@dataclass(frozen=True)
class Sketches:
    """The whole path of the hand in a camera's image, as a `trace` on the first step.

    Args:
        camera: whose image it is drawn on.
        position: which three numbers of the state are the hand's position, in m, in the frame of
            the camera's extrinsics.
        gripper: which number of the state is the gripper's opening; None draws no marks.
        command: which number of the action closes the gripper, the larger the further.
        closed: the gripper's opening when it is closed on nothing.
        threshold: how much wider it must stay, told to close, to hold something.
        matrices: the camera's `intrinsics`, `extrinsics` and `size` where the episodes do not
            have them in `info["cameras"]`.
    """

    camera: str
    position: Sequence[int] = (0, 1, 2)
    gripper: int | None = None
    command: int = -1
    closed: float = 0.0
    threshold: float = 0.1
    matrices: Mapping[str, Any] | None = None

    def __call__(self, episode: Episode, spec: Spec) -> Labels:
        hand = Hand(self.position, self.gripper, self.command, self.closed, self.threshold)
        trace = hindsight(episode, self.camera, hand, matrices=self.matrices)
        return Labels(annotations=(Annotation("trace", trace.to_json(), 0, self.camera),))


@dataclass(frozen=True)
class Subtasks:
    """What a scripted player pursued (`info["subtasks"]`): an annotation wherever that changes.

    Before the first pursuit begins, its words hold already.
    """

    def __call__(self, episode: Episode, spec: Spec) -> Labels:
        pursuits = [(int(step), str(words)) for step, words in episode.info.get("subtasks", ())]
        within = [(step, words) for step, words in pursuits if step < len(episode)]
        if not within:
            raise ValueError(
                'these episodes do not say what was pursued (info["subtasks"]); collect them with '
                "experts that are players"
            )
        steps = [0, *(step for step, _ in within[1:])]
        return Labels(
            annotations=tuple(
                Annotation("subtask", words, step)
                for step, (_, words) in zip(steps, within, strict=True)
            )
        )


@dataclass(frozen=True)
class Spoken:
    """Of the phrases in corrected episodes those alone that a person said, to learn from.

    Elsewhere the phrase is empty, which asks for nothing: what the policy chose itself there was
    good enough to be let pass, and no more. `embodied.people.narration.Early` has them hold from
    some time before they were said.

    Args:
        style: "motion" or "subtask".
    """

    style: str

    def __call__(self, episode: Episode, spec: Spec) -> Labels:
        marks = [each for each in episode.annotations if each.style == self.style]
        words = [""] * len(episode)
        for mark in sorted(marks, key=lambda each: each.step):
            said = mark.content if mark.role == "user" else ""
            words[mark.step :] = [said] * (len(episode) - mark.step)
        changes = [t for t in range(len(words)) if t == 0 or words[t] != words[t - 1]]
        return Labels(
            annotations=tuple(Annotation(self.style, words[t], t, role="user") for t in changes)
        )


@dataclass(frozen=True)
class Paraphrases:
    """Other wordings of the instruction, for training to draw from.

    Args:
        wordings: instruction -> its other wordings. Instructions without any are left as they are.
    """

    wordings: Mapping[str, Sequence[str]]

    def __call__(self, episode: Episode, spec: Spec) -> Labels:
        others = self.wordings.get(episode.instruction, ())
        return Labels(annotations=tuple(Annotation("task_aug", text) for text in others))


@dataclass(frozen=True)
class Success:
    """Whether the task was solved, by the reward.

    Args:
        at_least: reward that solves it.
        when: "any" step, the "final" one, or the "sum" over the episode.
    """

    at_least: float
    when: str = "any"

    def __call__(self, episode: Episode, spec: Spec) -> Labels:
        reward = _reward(episode)
        measures = {"any": reward.max(), "final": reward[-1], "sum": reward.sum()}
        if self.when not in measures:
            raise ValueError(f"when must be one of {sorted(measures)}, got {self.when!r}")
        return Labels(success=bool(measures[self.when] >= self.at_least))


@dataclass(frozen=True)
class Rewards:
    """Rewards that follow from success.

    Args:
        kind: "sparse" is 1 at the last step of a success, else 0; "steps" is -1 at each step but
            the last one of a success, which is 0 (as OGBench's goal-conditioned reward).
    """

    kind: str = "sparse"

    def __call__(self, episode: Episode, spec: Spec) -> Labels:
        if self.kind not in ("sparse", "steps"):
            raise ValueError(f"kind must be 'sparse' or 'steps', got {self.kind!r}")
        reward = np.full(len(episode), 0.0 if self.kind == "sparse" else -1.0, np.float32)
        reward[-1] += float(episode.success)
        return Labels(reward=reward)


@dataclass(frozen=True)
class ReturnsToGo:
    """The discounted sum of rewards from each step on, as the extra `return_to_go` (L,).

    What would have followed a truncated episode is not in it.
    """

    discount: float = 1.0

    def __call__(self, episode: Episode, spec: Spec) -> Labels:
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount must lie in [0, 1], got {self.discount}")
        total, returns = 0.0, np.zeros(len(episode), np.float32)
        for step, reward in reversed(list(enumerate(_reward(episode).tolist()))):
            returns[step] = total = reward + self.discount * total
        return Labels(extras={"return_to_go": returns})


@dataclass(frozen=True)
class HindsightGoals:
    """A step of the same episode that each step is taken to have led to, as the extra `goal_step`.

    Its state and images are the goal (Andrychowicz et al. 2017, arXiv:1707.01495, Sec. 3.3).

    Args:
        law: "final", "uniform" over the steps after it, or "geometric" with `discount`; a goal
            past the end is the final step, whose goal is itself.
        seed: of the draws, together with the episode's content.
    """

    law: str = "final"
    discount: float = 0.99
    seed: int = 0

    def __call__(self, episode: Episode, spec: Spec) -> Labels:
        steps, last = np.arange(len(episode)), len(episode) - 1
        random = np.random.default_rng([self.seed, int(digest(episode), 16) % 2**63])
        if self.law == "final":
            goals = np.full(len(episode), last)
        elif self.law == "uniform":
            goals = steps + 1 + np.floor(random.random(len(episode)) * (last - steps)).astype(int)
        elif self.law == "geometric":
            goals = steps + random.geometric(1 - self.discount, len(episode))
        else:
            laws = ["final", "geometric", "uniform"]
            raise ValueError(f"law must be one of {laws}, got {self.law!r}")
        return Labels(extras={"goal_step": np.minimum(goals, last).astype(np.int64)})


def _reward(episode: Episode) -> NDArray[np.float32]:
    if episode.reward is None:
        raise ValueError("these episodes have no reward; label rewards first")
    return episode.reward
