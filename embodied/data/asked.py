"""What training windows are asked besides their instruction, and which of them have one."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from embodied.data.sketches import Trace, draw
from embodied.structs import Annotation, Condition

STYLES = ("motion", "subtask", "trace")
"""The annotations that windows can be asked by."""

Notes = Sequence[Annotation]


@dataclass(frozen=True)
class SketchStyle:
    """How recorded paths are drawn.

    Attributes:
        camera: whose traces; None takes the first that an episode has.
        size: (h, w) in pixels; None draws at the size that the path was recorded in.
        with_height: whether green tells the height (2.5-D).
        width: of the line, in pixels.
    """

    camera: str | None = None
    size: tuple[int, int] | None = None
    with_height: bool = True
    width: int = 2


@dataclass(frozen=True)
class Told:
    """What policies are told in training; the default is each episode's instruction alone.

    Attributes:
        labels: how many episodes keep their instruction, drawn with the seed; None means all. The
            others are shown goals, sketches or phrases alone, as videos that nobody described.
        evenly: whether the labels are shared out among the instructions, as by somebody who sees
            what they describe; else some instruction may get hardly any of few labels.
        never: instructions that no episode keeps, in any wording; where wordings are known, each
            by the first of them.
        labelled_share: how much of each batch is drawn from the episodes that keep theirs, in
            (0, 1]; 1 leaves the others out. None draws all episodes alike.
        same_scene: how much of each batch is drawn in pairs of episodes that began alike, of which
            either both or none keep their words: negatives that a look at the scene does not tell
            apart (GRIF, Sec. 4.3).
        start: whether the first observation of the episode is given as `Condition.start`.
        phrases: style of the annotations that become `Condition.motion`: "motion" or "subtask".
        ahead: how many steps later the phrase is that is to be predicted (`Batch.phrase`); RT-H
            looks one step ahead, so that both its queries run at once.
        sketches: how recorded paths are drawn; None shows none.
        seed: of the choice of episodes.
    """

    labels: int | None = None
    evenly: bool = False
    never: tuple[str, ...] = ()
    labelled_share: float | None = None
    same_scene: float = 0.0
    start: bool = False
    phrases: str | None = None
    ahead: int = 0
    sketches: SketchStyle | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels < 0:
            raise ValueError(f"told.labels must be 0 or more, or null, got {self.labels}")
        if self.labelled_share is not None and not 0 < self.labelled_share <= 1:
            raise ValueError(
                f"told.labelled_share must lie in (0, 1], or be null, got {self.labelled_share}"
            )
        if not 0 <= self.same_scene <= 1:
            raise ValueError(f"told.same_scene must lie in [0, 1], got {self.same_scene}")
        if self.phrases not in (None, "motion", "subtask"):
            raise ValueError(
                f"told.phrases must be 'motion', 'subtask' or null, got {self.phrases!r}"
            )
        if self.ahead < 0:
            raise ValueError(f"told.ahead must be 0 steps or more, got {self.ahead}")


class Asked:
    """What each of E episodes, and each of their N frames, is asked besides its words.

    Attributes:
        labelled: (E,) bool, whose instruction is known.
        phrases: the distinct phrases of all episodes.
    """

    def __init__(
        self,
        told: Told,
        instructions: Sequence[str],
        lengths: Tensor,
        notes: Sequence[Notes],
        scenes: Sequence[str],
    ) -> None:
        self.told = told
        ranks = {scene: i for i, scene in enumerate(dict.fromkeys(scenes))}
        self._scene = torch.tensor([ranks[each] for each in scenes])
        self.labelled = _choose(told, instructions)
        self.phrases: tuple[str, ...] = ()
        self._phrase = torch.zeros(0, dtype=torch.int64)
        if told.phrases is not None:
            self._take_phrases(told.phrases, lengths.tolist(), notes)
        drawn = [_sketch(told.sketches, each) for each in notes] if told.sketches else []
        self._has_sketch = torch.tensor([x is not None for x in drawn], dtype=torch.bool)
        self._sketches = _stack(drawn) if told.sketches else torch.zeros(0)

    def _take_phrases(self, style: str, lengths: list[int], notes: Sequence[Notes]) -> None:
        spoken = [_spoken(style, length, each) for length, each in zip(lengths, notes, strict=True)]
        self.phrases = tuple(sorted({text for each in spoken for text in each}))
        number = {text: i for i, text in enumerate(self.phrases)}
        self._phrase = torch.tensor([number[text] for each in spoken for text in each])

    def weights(self, before: Tensor | None) -> Tensor | None:
        """(E,) float64, how often each episode is drawn, given how often before; as
        `Windows.weights`."""
        share = self.told.labelled_share
        if share is None:
            return before
        found = torch.ones(len(self.labelled), dtype=torch.float64) if before is None else before
        total, labelled = found.sum(), found[self.labelled].sum()
        if labelled == 0 or (share < 1 and labelled == total):
            raise ValueError(
                f"told.labelled_share={share} needs episodes of both kinds, got "
                f"{int(self.labelled.sum())} labelled of {len(self.labelled)}"
            )
        factors = torch.where(self.labelled, share / labelled, (1 - share) / (total - labelled))
        return found * factors.nan_to_num(posinf=0.0)

    def paired(self, episode: Tensor, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """The drawn episodes (B,), of which every other one of the first rows is drawn anew among
        those that began as the one before it did.

        Args:
            numbers: (E',) the number of each episode that can be drawn; `episode` points into it.
        """
        alike = 2 * self._scene[numbers] + self.labelled[numbers]
        order = alike.argsort(stable=True)
        first = torch.searchsorted(alike[order], alike)
        count = torch.searchsorted(alike[order], alike, right=True) - first
        pairs = int(self.told.same_scene * len(episode) / 2)
        leading, following = episode[0 : 2 * pairs : 2], slice(1, 2 * pairs, 2)
        place = torch.rand(pairs, generator=generator, dtype=torch.float64)
        found = episode.clone()
        found[following] = order[first[leading] + (place * count[leading]).long()]
        return found

    def read(self, episodes: Tensor, frames: Tensor) -> Self:
        """The same of these episodes, whose frames are these, in a new order."""
        found = copy.copy(self)
        found.labelled, found._scene = self.labelled[episodes], self._scene[episodes]
        found._phrase = self._phrase[frames] if len(self._phrase) else self._phrase
        found._has_sketch = (
            self._has_sketch[episodes] if len(self._has_sketch) else self._has_sketch
        )
        found._sketches = self._sketches[episodes] if len(self._sketches) else self._sketches
        return found

    def put_on(
        self, condition: Condition, index: Tensor, last: Tensor, number: Tensor
    ) -> tuple[Condition, tuple[str, ...] | None]:
        """The condition of the frames `index` (B,) with all this, and the phrases to predict.

        Args:
            condition: has their words.
            last, number: (B,) last frame and number of their episodes.
        """
        labelled = self.labelled[number]
        present = {**condition.present, "language": labelled}
        # Without their words, and not only unmarked: nothing may learn from what it is not told.
        heard = zip(condition.language or (), labelled.tolist(), strict=True)
        condition = replace(condition, language=tuple(x if has else "" for x, has in heard))
        if len(self._sketches):
            present["sketch"] = self._has_sketch[number]
            condition = replace(condition, sketch=self._sketches[number])
        phrase = None
        if self.phrases:
            condition = replace(condition, motion=self._say(index))
            phrase = self._say(torch.minimum(index + self.told.ahead, last))
        return replace(condition, present=present), phrase

    def _say(self, frames: Tensor) -> tuple[str, ...]:
        return tuple(self.phrases[i] for i in self._phrase[frames].tolist())


def _choose(told: Told, instructions: Sequence[str]) -> Tensor:
    allowed = torch.tensor([text not in told.never for text in instructions])
    if told.labels is None:
        return allowed
    places = allowed.nonzero()[:, 0]
    if told.labels > len(places):
        raise ValueError(
            f"told.labels={told.labels} asks for more than the {len(places)} episodes that may "
            "keep their instruction; lower it, or collect more"
        )
    order = np.random.default_rng(told.seed).permutation(len(places))
    drawn = places[torch.from_numpy(order)].tolist()
    if told.evenly:
        drawn = _in_rounds(drawn, instructions)
    chosen = torch.zeros(len(instructions), dtype=torch.bool)
    chosen[drawn[: told.labels]] = True
    return chosen


def _in_rounds(drawn: Sequence[int], instructions: Sequence[str]) -> list[int]:
    """Of each instruction the first one that was drawn, then of each the second, and so on."""
    seen: Counter[str] = Counter()
    rounds = {}
    for episode in drawn:
        seen[instructions[episode]] += 1
        rounds[episode] = seen[instructions[episode]]
    return sorted(drawn, key=rounds.__getitem__)


def _spoken(style: str, length: int, notes: Notes) -> list[str]:
    """The phrase at each step: each holds until the next."""
    marks = sorted((each.step, each.content) for each in notes if each.style == style)
    if not marks or marks[0][0] != 0:
        raise ValueError(
            f"told.phrases={style!r} needs a {style} annotation from step 0 of every episode on; "
            "label the data: scripts/relabel.py"
        )
    ends = [step for step, _ in marks[1:]] + [length]
    return [text for (step, text), end in zip(marks, ends, strict=True) for _ in range(step, end)]


def _sketch(style: SketchStyle, notes: Notes) -> Tensor | None:
    cameras = (None, style.camera) if style.camera is None else (style.camera,)
    traces = [
        each
        for each in notes
        if each.style == "trace" and (each.camera in cameras or None in cameras)
    ]
    if not traces:
        return None
    trace = Trace.from_json(traces[0].content)
    if style.size is not None:
        trace = trace.scaled((style.size[0], style.size[1]))
    image = draw(trace, with_height=style.with_height, width=style.width)
    return torch.from_numpy(image.copy()).movedim(-1, 0)


def _stack(drawn: Sequence[Tensor | None]) -> Tensor:
    shapes = sorted({tuple(x.shape[1:]) for x in drawn if x is not None})
    if len(shapes) != 1:
        raise ValueError(
            "told.sketches needs paths (annotations of style 'trace') of one size, "
            + (f"got {shapes}; set its size" if shapes else "but no episode has one; label them")
        )
    blank = torch.zeros((3, *shapes[0]), dtype=torch.uint8)
    return torch.stack([blank if x is None else x for x in drawn])


def told_by(node: Mapping[str, object] | None, seed: int) -> Told | None:
    """What a config asks for; None where that is each episode's instruction alone."""
    if node is None:
        return None
    settings: dict[str, Any] = {**node, "seed": seed}
    if isinstance(settings.get("sketches"), Mapping):
        settings["sketches"] = SketchStyle(**settings["sketches"])
    settings["never"] = tuple(settings.get("never") or ())
    found = Told(**settings)
    return None if found == Told(seed=seed) else found
