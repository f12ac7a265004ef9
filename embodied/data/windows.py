"""Training windows over recorded episodes: flat arrays and one gather for a whole batch."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from embodied.data.asked import Asked, Notes, Told
from embodied.data.cache import Recording, record
from embodied.data.pieces import Column
from embodied.data.runs import Spans
from embodied.data.sampling import any_frame, by_weight, keep_shares
from embodied.data.table import Table
from embodied.data.words import Words
from embodied.structs import Batch, Condition, Episodes, Observation

_NUMBER = 4  # column of a frame's facts that has the number of its episode


class Windows:
    """N frames of whole episodes, end to end, gathered as windows that never cross episodes.

    Attributes:
        columns: "state" (N, S), "action" (N, A), "images.<camera>" (N, 3, h, w) uint8; tensors in
            memory, on a device, or memory-mapped.
        lengths, starts: (E,) of the episodes that are drawn from, all or those of `select`.
        weights: (E,) how often each is drawn, relative to the others; None draws all alike.
        first, last: (N,) index of the first and last frame of each frame's episode.
        texts: the distinct instructions and their rewordings; text_index (N,) points into them.
        sources: names of the data sets that were mixed, whose episodes follow one another;
            episode_source (E,) and source_index (N,) point into them.
        notes, scenes: of each episode, its annotations and its arrangement; see `asking`.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        lengths: Tensor,
        instructions: Sequence[str],
        rewordings: Mapping[str, Sequence[str]] | None = None,
        *,
        weights: Tensor | None = None,
        sources: tuple[str, ...] = ("",),
        episode_source: Tensor | None = None,
        notes: Sequence[Notes] = (),
        scenes: Sequence[str] = (),
    ) -> None:
        if len(lengths) != len(instructions):
            raise ValueError(f"{len(lengths)} episodes but {len(instructions)} instructions")
        self._table = Table(columns)
        self.weights, self.sources = weights, sources
        self.notes = tuple(notes) or ((),) * len(lengths)
        self.scenes = tuple(scenes) or tuple(map(str, range(len(lengths))))
        self.asked: Asked | None = None
        self.words = Words(instructions, rewordings)
        self.texts = self.words.texts
        self.episode_text = self.words.index(instructions)
        if episode_source is None:
            episode_source = torch.zeros(len(lengths), dtype=torch.int64)
        self._arrange(lengths, episode_source)

    def _arrange(self, lengths: Tensor, episode_source: Tensor) -> None:
        """Lays the episodes out from frame 0."""
        ends = lengths.cumsum(0)
        self.lengths, self.starts, self.episode_source = lengths, ends - lengths, episode_source
        number = torch.arange(len(lengths))
        texts, sources = self.episode_text, episode_source
        facts = torch.stack([self.starts, ends - 1, texts, sources, number], dim=1)
        # Side by side, so that a random frame costs one look at memory and not five.
        self._facts = facts.repeat_interleave(lengths, dim=0)
        self.first, self.last, self.text_index, self.source_index = self._facts.unbind(1)[:4]
        self._spans = Spans(self.starts, lengths)

    def __len__(self) -> int:
        return int(self.lengths.sum())

    @property
    def columns(self) -> Mapping[str, Column]:
        return self._table.columns

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(x.nbytes for x in self.columns.values())

    @property
    def told(self) -> tuple[str, ...]:
        """What the episodes drawn from may be told: their instructions or rewordings of them."""
        texts = self.episode_text
        if self.asked is not None:
            texts = texts[self.asked.labelled[self._facts[self.starts, _NUMBER]]]
        return self.words.reached(texts)

    @property
    def phrases(self) -> tuple[str, ...] | None:
        """What the episodes may be asked to do next; None where they are not asked so."""
        return self.asked.phrases if self.asked is not None and self.asked.phrases else None

    @classmethod
    def load(
        cls,
        episodes: Episodes,
        *,
        label: str = "expert_action",
        rewordings: Mapping[str, Sequence[str]] | None = None,
        cache: Path | None = None,
    ) -> Windows:
        """Reads all episodes that have steps.

        Args:
            label: which recorded action is the target.
            rewordings: instruction -> the wordings that `gather` may give instead of it.
            cache: see `embodied.data.cache.record`.
        """
        return cls.of(record(episodes, label=label, cache=cache), rewordings)

    @classmethod
    def of(cls, found: Recording, rewordings: Mapping[str, Sequence[str]] | None = None) -> Windows:
        """Over what was recorded."""
        return cls(
            found.columns,
            torch.tensor(found.lengths),
            found.instructions,
            rewordings,
            notes=found.notes,
            scenes=found.scenes,
        )

    def asking(self, told: Told | None) -> Self:
        """The same windows, of all episodes, asked as `told` says; None leaves them as they are."""
        if told is None:
            return self
        found = copy.copy(self)
        meanings = self.words.meaning(self.episode_text).tolist()
        instructions = [self.texts[i] for i in meanings]
        found.asked = Asked(told, instructions, self.lengths, self.notes, self.scenes)
        found.weights = found.asked.weights(self.weights)
        return found

    def select(self, episodes: Sequence[int] | Tensor) -> Self:
        """The same frames, of which only these episodes are drawn from; nothing is copied."""
        chosen = torch.as_tensor(episodes, dtype=torch.int64).sort().values
        if not len(chosen):
            raise ValueError("select needs at least one episode, got none")
        found = copy.copy(self)
        found.lengths, found.starts = self.lengths[chosen], self.starts[chosen]
        found.episode_text = self.episode_text[chosen]
        found.episode_source = self.episode_source[chosen]
        if self.weights is not None:
            found.weights = keep_shares(
                self.weights, self.episode_source, len(self.sources), chosen
            )
        return found

    def read(self, episodes: Tensor, weights: Tensor) -> Self:
        """These episodes copied into memory, as windows of their own with the given weights."""
        found = copy.copy(self)
        found.episode_text = self.episode_text[episodes]
        starts, lengths = self.starts[episodes].tolist(), self.lengths[episodes].tolist()
        rows = [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        found._table = self._table.read(rows)
        found.weights = weights
        if self.asked is not None:
            frames = torch.cat([torch.arange(each.start, each.stop) for each in rows])
            found.asked = self.asked.read(self._facts[self.starts[episodes], _NUMBER], frames)
        found._arrange(self.lengths[episodes], self.episode_source[episodes])
        return found

    def to(self, device: torch.device) -> Self:
        """The same windows with the data on a device, so that gathers run there."""
        found = copy.copy(self)
        found._table = self._table.to(device)
        return found

    def laid_out(self, *, obs_horizon: int, pred_horizon: int) -> Self:
        """The same windows with states and actions stored a second time, in the way that windows
        of these horizons are copied fastest."""
        found = copy.copy(self)
        found._table = self._table.laid_out(
            self._spans, obs_horizon=obs_horizon, pred_horizon=pred_horizon
        )
        return found

    def at(self, position: int) -> Self:
        """What the batch at a position is gathered from: always these."""
        return self

    @property
    def law(self) -> dict[str, Any]:
        """What a batch depends on besides seed and position."""
        return {}

    def close(self) -> None:
        """Nothing works in the background."""

    def frames(self) -> Tensor:
        """(len(self),) index of every frame of the episodes drawn from."""
        offset = self.lengths.cumsum(0) - self.lengths
        return torch.arange(len(self)) + (self.starts - offset).repeat_interleave(self.lengths)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """`size` frames: an episode uniformly or by weight, then a frame of it; a CPU generator.

        Of mixed data sets, any run of n rows holds each in its share to within about one row.
        """
        if self.weights is None:
            episode = torch.randint(len(self.lengths), (size,), generator=generator)
        else:
            source, count = self.episode_source, len(self.sources)
            episode = by_weight(self.weights, source, count, size, generator)
        if self.asked is not None and self.asked.told.same_scene:
            numbers = self._facts[self.starts, _NUMBER]
            episode = self.asked.paired(episode, numbers, generator)
        place = torch.rand(size, generator=generator, dtype=torch.float64)
        # `index_select` throughout: x[index] takes several times as long for a few hundred numbers.
        lengths = self.lengths.index_select(0, episode)
        return self.starts.index_select(0, episode) + place.mul_(lengths).long()

    def any_frame(self, index: Tensor, place: Tensor) -> Tensor:
        """Frames of the data sets that the frames `index` (B,) are of, all equally likely.

        Args:
            place: (B,) in [0, 1).
        """
        among = self.source_index[index]
        count = len(self.sources)
        episode, step = any_frame(self.lengths, self.episode_source, count, among, place)
        return self.starts[episode] + step

    def gather(
        self,
        index: Tensor,
        *,
        obs_horizon: int,
        pred_horizon: int,
        image_horizon: int | None = None,
        past_actions: bool = False,
        wording: Tensor | None = None,
        goal: Tensor | None = None,
        goal_parts: Collection[str] = ("state", "images"),
    ) -> Batch:
        """Windows around the frames `index` (B,), on the host: the last `obs_horizon`
        observations up to each and the `pred_horizon` actions from it on.

        Before an episode's start the first observation repeats and no action was done; past its
        end the last action repeats and `mask` is False.

        Args:
            image_horizon: how many of the observations have images; None means all.
            past_actions: whether the observation also tells what was done between its steps.
            wording: (B,) in [0, 1), which of each instruction's rewordings is given; None gives
                the recorded one.
            goal: (B,) frames to reach; None asks for no goal.
            goal_parts: of "state" and "images", what is seen of them.
        """
        table = self._table
        first, last, text, source, number = self._facts.index_select(0, index).unbind(1)
        ahead = index[:, None] + _steps(0, pred_horizon)
        past = torch.maximum(index[:, None] + _steps(1 - obs_horizon, 1), first[:, None])
        condition, phrase, meaning = Condition(language=self.words.say(text, wording)), None, None
        if goal is not None:
            condition = self._with_goal(condition, goal, goal_parts)
        if self.asked is not None:
            condition, phrase = self.asked.put_on(condition, index, last, number)
            meaning = self.words.meaning(text)
            if self.asked.told.start:
                start = table.frame(first, ("state", "images"))
                condition = dataclasses.replace(condition, start=start)
        images = table.images(past[:, -(image_horizon or obs_horizon) :])
        return Batch(
            observation=Observation(
                table.window("state", past, index, number),
                images,
                *(table.history(index, past, first) if past_actions else ()),
            ),
            condition=condition,
            action=table.window("action", torch.minimum(ahead, last[:, None]), index, number),
            mask=table.bring(ahead <= last[:, None]),
            source=self._named(source),
            phrase=phrase,
            meaning=meaning,
        )

    def _with_goal(self, condition: Condition, goal: Tensor, parts: Collection[str]) -> Condition:
        seen = self._table.frame(goal, parts)
        given = {"goal_state": "state" in parts, "goal_image": bool(seen.images)}
        present = {
            name: torch.full((len(goal),), here, device=self._table.device)
            for name, here in given.items()
        }
        return dataclasses.replace(condition, goal=seen, present={**condition.present, **present})

    def labelled(self, index: Tensor) -> Tensor:
        """(B,) bool, whether the instruction of the frames `index` (B,) is known."""
        if self.asked is None:
            return torch.ones(len(index), dtype=torch.bool)
        return self.asked.labelled[self._facts[index, _NUMBER]]

    def _named(self, source: Tensor) -> tuple[str, ...] | None:
        return None if len(self.sources) == 1 else tuple(self.sources[i] for i in source.tolist())


@functools.cache
def _steps(start: int, stop: int) -> Tensor:
    return torch.arange(start, stop)
