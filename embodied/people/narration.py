"""What was said during a corrected episode, as annotations, and what may be learned from it.

YAY Robot (Shi et al. 2024, arXiv:2403.12910, Sec. IV-C): who is corrected should have been told so
some seconds earlier, so the steps before a correction carry its words too (`Early`); and what was
done just before it was a mistake, which the low level must not imitate (`Skills`).
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from embodied.people.interventions import KEY, Intervention
from embodied.structs import Annotation, Episode, Episodes, Spec

STYLES = ("motion", "subtask")
"""The levels of words; annotations of these styles say what holds."""

Held = tuple[str, str]
"""The words that hold at a step, "" for none, and who said them: "user" or "assistant"."""


@dataclass(frozen=True)
class Segment:
    """Steps [start, stop) during which the same words held.

    Attributes:
        mistaken: whether a person's correction ended it.
    """

    start: int
    stop: int
    words: str
    role: str
    mistaken: bool = False


def narrate(
    said: Sequence[str], interventions: Sequence[Intervention], *, level: str = "subtask"
) -> tuple[Annotation, ...]:
    """Annotations of an episode of L steps: what a person said, and what held from then on.

    What is said is an "interjection" of the role "user" at its step. What holds is of the style
    "motion" or "subtask", of the role "user" on the steps that were executed under it; where
    nobody says anything the words are empty.

    Args:
        said: L phrases that the policy acted by.
        level: "motion" or "subtask": what the policy's phrases are.
    """
    if level not in STYLES:
        raise ValueError(f"level must be one of {STYLES}, got {level!r}")
    spoken = [each for each in interventions if each.words]
    found = [Annotation("interjection", each.words, each.step, role="user") for each in spoken]
    for style in STYLES:
        rows = [(text if style == level else "", "assistant") for text in said]
        for each in spoken:
            if each.level == style and each.since is not None and each.last is not None:
                rows[each.since : each.last + 1] = [(each.words, "user")] * each.num_steps
        if any(words for words, _ in rows):
            found += _annotations(rows, style)
    return tuple(sorted(found, key=lambda each: (each.step, each.style == "interjection")))


def held(episode: Episode, style: str) -> list[Held]:
    """What holds at each of the L steps of an episode, by its annotations of a style."""
    rows: list[Held] = [("", "assistant")] * len(episode)
    for each in sorted(episode.annotations, key=lambda each: each.step):
        if each.style == style:
            rows[each.step :] = [(each.content, each.role)] * (len(rows) - each.step)
    return rows


def segments(episode: Episode, style: str = "subtask") -> list[Segment]:
    """The episode in pieces of the same words; the instruction stands where nobody said any."""
    rows = [(words or episode.instruction, role) for words, role in held(episode, style)]
    starts = _changes(rows)
    return [
        Segment(start, stop, *rows[start], mistaken=stop < len(rows) and rows[stop][1] == "user")
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True)
    ]


def hastened(episode: Episode, margin: int, style: str = "subtask") -> Episode:
    """The episode with each correction's words on the `margin` steps before it as well.

    They never take the place of what a person said.
    """
    rows = held(episode, style)
    for start in [t for t in _changes(rows) if rows[t][1] == "user"]:
        for t in range(max(0, start - margin), start):
            if rows[t][1] != "user":
                rows[t] = rows[start]
    others = [each for each in episode.annotations if each.style != style]
    lasting = _annotations(rows, style) if any(words for words, _ in rows) else []
    order = sorted([*lasting, *others], key=lambda each: (each.step, each.style == "interjection"))
    return replace(episode, annotations=tuple(order))


class _View(abc.ABC):
    """Episodes that are made of others; an `Episodes`."""

    def __init__(self, episodes: Episodes) -> None:
        self._episodes = episodes

    @property
    def spec(self) -> Spec:
        return self._episodes.spec

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str: ...
    @abc.abstractmethod
    def __len__(self) -> int: ...
    @abc.abstractmethod
    def __getitem__(self, index: int) -> Episode: ...

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))


class Early(_View):
    """Episodes whose corrections hold from some time before they were said; see `hastened`.

    Args:
        margin_s: that time, in s; YAY Robot's 2 s are 100 steps at 50 Hz.
        style: of the corrections.
    """

    def __init__(
        self, episodes: Episodes, *, margin_s: float = 2.0, style: str = "subtask"
    ) -> None:
        super().__init__(episodes)
        if margin_s < 0:
            raise ValueError(f"margin_s must be 0 s or more, got {margin_s}")
        self.margin, self._style = round(margin_s * episodes.spec.rate_hz), style

    @property
    def fingerprint(self) -> str:
        return f"{self._episodes.fingerprint}/early-{self._style}-{self.margin}"

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int) -> Episode:
        return hastened(self._episodes[index], self.margin, self._style)


class Skills(_View):
    """What a low level may imitate: the segments of episodes, each an episode in which its words
    hold throughout.

    The segment directly before a correction is left out, and so are those that are too short.

    Args:
        min_steps: segments with fewer are dropped; YAY Robot's 20 are 0.4 s.
        style: of what holds.
        tasks: cuts the episodes whose `info["task"]` is one of these and leaves the others whole;
            None cuts all.
        told: whether a segment's words are its instruction too, as of somebody who shows a skill by
            itself and does not say what for.
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        min_steps: int = 20,
        style: str = "subtask",
        tasks: Collection[str] | None = None,
        told: bool = False,
    ) -> None:
        super().__init__(episodes)
        self._min_steps, self._style, self._told = min_steps, style, told
        self._tasks = None if tasks is None else tuple(sorted(tasks))
        self._places: list[tuple[int, Segment | None]] = []
        known: set[str] = set()
        for number, episode in enumerate(episodes):
            known.add(task := str(episode.info.get("task")))
            if self._tasks is not None and task not in self._tasks:
                self._places.append((number, None))
                continue
            self._places += [
                (number, each)
                for each in segments(episode, style)
                if not each.mistaken and each.stop - each.start >= min_steps
            ]
        if unknown := sorted(set(self._tasks or ()) - known):
            raise ValueError(f"no episode is of the tasks {unknown}; there are {sorted(known)}")

    @property
    def fingerprint(self) -> str:
        parts = [self._style, str(self._min_steps)]
        parts += [] if self._tasks is None else [",".join(self._tasks)]
        parts += ["told"] if self._told else []
        return f"{self._episodes.fingerprint}/skills-{'-'.join(parts)}"

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Episode:
        number, segment = self._places[index]
        episode = self._episodes[number]
        if segment is None:
            return episode
        part = cut(episode, segment, self._style)
        return replace(part, instruction=segment.words) if self._told else part


def cut(episode: Episode, segment: Segment, style: str = "subtask") -> Episode:
    """The steps of a segment, without interventions; its words are the only annotation."""
    ends = segment.stop == len(episode)
    return replace(
        episode.between(segment.start, segment.stop),
        success=episode.success and ends,
        terminated=episode.terminated and ends,
        truncated=episode.truncated or not ends,
        info={name: fact for name, fact in episode.info.items() if name != KEY},
        final=episode.final if ends else {},
        annotations=(Annotation(style, segment.words, 0, role=segment.role),),
    )


def _changes(rows: Sequence[Held]) -> list[int]:
    return [t for t in range(len(rows)) if t == 0 or rows[t] != rows[t - 1]]


def _annotations(rows: Sequence[Held], style: str) -> list[Annotation]:
    return [Annotation(style, rows[t][0], t, role=rows[t][1]) for t in _changes(rows)]
