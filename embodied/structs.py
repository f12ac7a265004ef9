"""The records that cross the borders between modules.

Shape letters, used everywhere in the project:
B batch, N parallel environments, L episode length, T obs_horizon, H pred_horizon,
A action_dim, S state_dim, D context width, E text embedding width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # whoever only reads and checks episodes must not wait for torch
    import torch
    from torch import Tensor

    from embodied.feedback import Attempts, Pairs, SegmentBatch, Session

Metrics: TypeAlias = "dict[str, float | Tensor]"
"""Named scalars; tensors stay on their device until they are logged, so no step waits for them."""


def _map(value: Any, fn: Callable[[Any], Any], leaves: tuple[type, ...]) -> Any:
    if isinstance(value, leaves):
        return fn(value)
    if isinstance(value, Struct):
        return value._replace_leaves(fn, leaves)
    if isinstance(value, Mapping):
        return {key: _map(item, fn, leaves) for key, item in value.items()}
    return value


class Struct:
    """Base of the frozen records: applies a function to every tensor, however deep."""

    def _replace_leaves(self, fn: Callable[[Any], Any], leaves: tuple[type, ...]) -> Self:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return type(self)(**{f.name: _map(getattr(self, f.name), fn, leaves) for f in fields})

    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        from torch import Tensor

        return self._replace_leaves(fn, (Tensor,))

    def rows(self, start: int, stop: int) -> Self:
        """Rows [start, stop) of every tensor and of every tuple of strings."""
        from torch import Tensor

        return self._replace_leaves(lambda x: x[start:stop], (Tensor, tuple))

    def taken(self, index: Tensor) -> Self:
        """The rows `index` (n,) int64 of every tensor and of every tuple of strings."""
        from torch import Tensor

        rows = index.tolist()

        def take(x: Any) -> Any:
            return x[index] if isinstance(x, Tensor) else tuple(x[i] for i in rows)

        return self._replace_leaves(take, (Tensor, tuple))

    def repeated(self, times: int) -> Self:
        """Every row of every tensor and tuple of strings `times` times, one after the other."""
        from torch import Tensor

        def repeat(x: Any) -> Any:
            if isinstance(x, Tensor):
                return x.repeat_interleave(times, 0)
            return tuple(each for each in x for _ in range(times))

        return self._replace_leaves(repeat, (Tensor, tuple))

    def to(self, device: torch.device | str) -> Self:
        return self.map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        return self.map(lambda x: x.pin_memory())


@dataclass(frozen=True)
class Observation(Struct):
    """What the robot senses over the last T steps, oldest first.

    Attributes:
        state: (B, T, S) float32, environment units.
        images: camera name -> (B, T, 3, h, w) uint8.
        action: (B, T - 1, A) what was done between them, environment units; zeros where nothing was
            yet. None where that is not known.
        steps: (B,) int64, how many of the T are of the episode; those before repeat its first.
    """

    state: Tensor
    images: Mapping[str, Tensor] = field(default_factory=dict)
    action: Tensor | None = None
    steps: Tensor | None = None


@dataclass(frozen=True)
class Condition(Struct):
    """What is asked, in any mix of modalities. A field is None where no row has it.

    Attributes:
        language: B strings; frozen text encoders cache by string.
        goal: an observation with T = 1: goal images, goal state, or both.
        sketch: (B, 3, h, w) uint8 trajectory sketch.
        motion: B language motions, or other phrases that say what to do next.
        start: what was sensed when the task was given, with T = 1; what goal and words change.
        present: modality -> (B,) bool, so that rows with and without it mix in one batch.
            A modality that is given but has no entry counts as present in every row.
    """

    language: tuple[str, ...] | None = None
    goal: Observation | None = None
    sketch: Tensor | None = None
    motion: tuple[str, ...] | None = None
    start: Observation | None = None
    present: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch(Struct):
    """Training windows.

    Attributes:
        action: (B, H, A) float32, environment units.
        mask: (B, H) bool, False past the episode's end.
        source: B names of the data sets that the rows are of; None where there is one.
        phrase: B phrases to be predicted, of the kind of `Condition.motion`.
        meaning: (B,) int64; rows that are told the same, in any words, share a number.
        reward: (B,) what the valid steps earned, each counted less by the discount than the one
            before. This and what follows are None unless policies learn from rewards.
        discount: (B,) what the value of `next_observation` counts: the discount to the power of the
            valid steps, and 0 where the last of them terminated the episode.
        next_observation: what was sensed after them; after a termination it means nothing.
        return_to_go: (B,) discounted rewards from here to the episode's end; -inf where not known.
        reached: a state that the episode came to later: a goal that the action is an example for,
            while `reward` and `discount` refer to the one in `condition`.
        subgoal: a state on the way there, a fixed number of steps on or `reached` itself.
        continues: (B,) bool, of segments that lie end to end: whether the next row is the step that
            followed; False where an episode ended, or the segment did.
        objectives: (B, K) what the step earned in each of several objectives.
        pairs: comparisons to learn from, as many as there are; their number need not be B.
        held_out: comparisons to be judged by, the same ones in every batch.
        segments: stretches that nobody compared.
        attempts: the episodes that all rows are decisions of. Actions are then as they were drawn,
            beyond the spec's bounds too, and the mask tells which were executed.
        visited: (M, S) all states so far, while nobody has been asked yet and novelty is all there
            is to learn from.
        session: of a batch at which questions are asked.
    """

    observation: Observation
    condition: Condition
    action: Tensor
    mask: Tensor
    source: tuple[str, ...] | None = None
    phrase: tuple[str, ...] | None = None
    meaning: Tensor | None = None
    reward: Tensor | None = None
    discount: Tensor | None = None
    next_observation: Observation | None = None
    return_to_go: Tensor | None = None
    reached: Observation | None = None
    subgoal: Observation | None = None
    continues: Tensor | None = None
    objectives: Tensor | None = None
    pairs: Pairs | None = None
    held_out: Pairs | None = None
    segments: SegmentBatch | None = None
    attempts: Attempts | None = None
    visited: Tensor | None = None
    session: Session | None = None


@dataclass(frozen=True)
class Spec:
    """Sizes and rates that a policy is built for; saved with it.

    Attributes:
        state_dim: S.
        action_dim: A.
        action_low, action_high: (A,) bounds, environment units.
        cameras: camera name -> (h, w) in pixels.
        rate_hz: control rate in Hz.
        state_parts: name -> size of the features that lie end to end in a state, in order; empty
            where it is one. Readers that join features name them, so that writers can part them.
        render_profile: how a simulator drew the images; None where a camera or nobody did.
    """

    state_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    rate_hz: float
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    render_profile: str | None = None
    state_parts: Mapping[str, int] = field(default_factory=dict)


def place(spec: Spec, part: str) -> range | None:
    """Where in a state a part of `state_parts` lies; None where there is no such part."""
    start = 0
    for name, size in spec.state_parts.items():
        if name == part:
            return range(start, start + size)
        start += size
    return None


@dataclass(frozen=True)
class Annotation:
    """Words, or a mark in an image, that belong to an episode from some step on.

    Attributes:
        style: what it is, in LeRobot's words: "motion", "subtask", "plan", "memory" and "task_aug"
            (another wording of the instruction) hold until the next of their style;
            "interjection", "trace" and "vqa" belong to their step alone.
        content: the words; of a trace, JSON.
        step: the first step that it belongs to, in [0, L).
        camera: the image that it speaks of; traces have one.
        role: who says it: "user" or "assistant".
    """

    style: str
    content: str
    step: int = 0
    camera: str | None = None
    role: str = "assistant"


@dataclass(frozen=True)
class Episode:
    """One recorded episode of L steps, as NumPy arrays.

    Attributes:
        state: (L, S) float32, before each action.
        action: (L, A) float32, what was executed.
        instruction: what was asked.
        images: camera -> (L, h, w, 3) uint8.
        reward: (L,) float32 after each action.
        expert_action: (L, A) float32, what the expert would have done, where noise was added.
        success: whether the task was solved at any step.
        terminated, truncated: how the last step ended; never merged.
        info: further JSON-able facts (task, goal, seed, noise, ...).
        extras: name -> (L, ...) numbers, whatever else was recorded at each step.
        final: what was seen after the last action, where that is recorded: "state" (S,),
            "images.<camera>" (h, w, 3), and extras by their names.
        annotations: words and marks on steps, by step.
    """

    state: NDArray[np.float32]
    action: NDArray[np.float32]
    instruction: str
    reward: NDArray[np.float32] | None = None
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    expert_action: NDArray[np.float32] | None = None
    success: bool = False
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    final: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    annotations: tuple[Annotation, ...] = ()

    def __len__(self) -> int:
        return len(self.action)

    def between(self, start: int, stop: int) -> Episode:
        """The steps [start, stop), without annotations; all else is as in the whole episode."""

        def part(values: NDArray[Any]) -> Any:
            return np.asarray(values)[start:stop]

        return dataclasses.replace(
            self,
            state=part(self.state),
            action=part(self.action),
            reward=None if self.reward is None else part(self.reward),
            images={name: part(frames) for name, frames in self.images.items()},
            expert_action=None if self.expert_action is None else part(self.expert_action),
            extras={name: part(values) for name, values in self.extras.items()},
            annotations=(),
        )


class Episodes(Protocol):
    """All that a data adapter has to offer."""

    @property
    def spec(self) -> Spec: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Episode: ...
    def __iter__(self) -> Iterator[Episode]: ...
