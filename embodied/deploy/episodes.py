"""A session's ticks, words and inferences as one episode of data, corrections included.

Columns and records are those of `embodied.people`, so that what trains on its episodes trains on
these. Steps are equally far apart: each is of the tick that is nearest to its time, and a tick
stands for those behind it that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.deploy.clock import SECOND
from embodied.deploy.feed import Moment, command_of
from embodied.deploy.robot import Features
from embodied.deploy.safety import KINDS
from embodied.deploy.senses import policy_view
from embodied.deploy.thinker import Thought
from embodied.deploy.watchdog import State
from embodied.deploy.words import Kind, Word
from embodied.people.interventions import KEY, Intervention, content_of, to_json
from embodied.people.narration import narrate
from embodied.people.recorder import FLAG
from embodied.structs import Annotation, Episode, Spec

SOURCES = ("nobody", "policy", "person", "safety")
"""What the numbers of the column `source` mean."""

_MOVES = (State.RUN, State.HOLD)
_ENDS = (Kind.CORRECTION, Kind.TAKE_OVER, Kind.RELEASE)  # of what was said before


@dataclass(frozen=True)
class Setting:
    """What all of an episode has in common.

    Attributes:
        spec: of the episodes; its rate is that of their steps, its cameras those that are kept.
        level: "motion" or "subtask": what the policy's phrases are.
        actor: of `SOURCES`, whose plans are followed: "policy", or "person" for demonstrations.
        info: further facts, JSON-able.
    """

    spec: Spec
    features: Features
    instruction: str
    level: str = "subtask"
    actor: str = "policy"
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Tape:
    """What was heard of a session so far."""

    moments: list[Moment] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    thoughts: dict[int, Thought] = field(default_factory=dict)

    def note(self, heard: Moment | Word | Thought) -> bool:
        """Keeps something; it always finds room."""
        if isinstance(heard, Moment):
            self.moments.append(heard)
        elif isinstance(heard, Word):
            self.words.append(heard)
        else:
            self.thoughts[heard.request_id] = heard
        return True

    def episode(
        self, setting: Setting, *, success: bool, terminated: bool, info: Mapping[str, Any]
    ) -> Episode | None:
        """The episode, from the first tick that followed a plan to the last that moved or held;
        None where there is none."""
        first = next((i for i, x in enumerate(self.moments) if x.tick.asked is not None), None)
        if first is None:
            return None
        last = max(i for i, x in enumerate(self.moments) if x.tick.state in _MOVES)
        moved = self.moments[first : last + 1]
        grid = _Grid(moved, setting.spec.rate_hz)
        steps = [moved[i] for i in grid.ticks]
        made = _Made(steps, grid, self, setting)
        return Episode(
            state=np.stack([made.view(each)["state"] for each in steps]),
            action=made.actions,
            instruction=setting.instruction,
            images=made.images(),
            expert_action=made.actions.copy(),
            success=success,
            terminated=terminated,
            truncated=not terminated,
            info={**setting.info, **info, **made.info()},
            extras=made.extras(),
            final={} if last + 1 == len(self.moments) else made.final(self.moments[last + 1]),
            annotations=made.annotations(),
        )


class _Grid:
    """Equally distant steps, and the tick of each.

    Attributes:
        ticks: of each step.
        filled: how many steps repeat a tick, since theirs is missing.
    """

    def __init__(self, moments: Sequence[Moment], rate_hz: float) -> None:
        times = np.array([each.tick.time for each in moments], np.int64)
        self.start, self.dt = int(times[0]), SECOND / rate_hz
        length = int((times[-1] - times[0]) / self.dt + 0.5) + 1
        due = self.start + np.round(np.arange(length) * self.dt).astype(np.int64)
        after = np.clip(np.searchsorted(times, due), 1, max(1, len(times) - 1))
        before = after - 1
        after = np.minimum(after, len(times) - 1)
        nearer = np.abs(times[after] - due) < np.abs(times[before] - due)
        # Where ticks are missing, the last one before stands for them.
        nearer &= np.abs(times[after] - due) <= self.dt / 2
        self.ticks = np.where(nearer, after, before).tolist()
        self.filled = length - len(set(self.ticks))

    def step(self, time: int) -> int:
        """The first step that something at a time could have had an effect on."""
        return max(0, int(np.ceil((time - self.start) / self.dt - 0.5)))


class _Made:
    """The columns of an episode with these moments for steps."""

    def __init__(self, steps: Sequence[Moment], grid: _Grid, tape: Tape, setting: Setting) -> None:
        self.steps, self.grid, self.tape, self.setting = steps, grid, tape, setting
        self.actions = np.stack([command_of(each) for each in steps]).astype(np.float32)
        self.numbers = [each.tick.instruction_id for each in steps]
        self.said = [self._said(each) for each in steps]
        self.interventions, self.taken = self._interventions()

    def view(self, moment: Moment) -> dict[str, Any]:
        return policy_view(moment.seen, self.setting.features)

    def images(self) -> dict[str, NDArray[np.uint8]]:
        names = self.setting.spec.cameras
        return {name: np.stack([x.seen.values[name] for x in self.steps]) for name in names}

    def final(self, moment: Moment) -> dict[str, Any]:
        view = self.view(moment)
        cameras = {f"images.{name}": view[name] for name in self.setting.spec.cameras}
        return {"state": view["state"], **cameras}

    def extras(self) -> dict[str, NDArray[Any]]:
        """What is known of each step beside what a policy learns from."""
        ticks = [each.tick for each in self.steps]
        asked = [x.command if t.asked is None else t.asked for t, x in self._pairs()]
        sources = [
            "person" if i in self.taken and tick.sent is not None else tick.source
            for i, tick in enumerate(ticks)
        ]
        sources = [self.setting.actor if each == "policy" else each for each in sources]
        return {
            FLAG: np.isin(np.arange(len(ticks)), sorted(self._corrected())),
            "asked": np.stack(asked).astype(np.float32),
            "source": np.array([SOURCES.index(each) for each in sources], np.int64),
            "clipped": np.array([[kind in t.flags for kind in KINDS] for t in ticks]),
            "holds": np.array([tick.state is not State.RUN for tick in ticks]),
            "chunk_age_s": np.array([t.age / SECOND if t.age >= 0 else -1.0 for t in ticks]),
            "instruction_id": np.array(self.numbers, np.int64),
            "tick_s": np.array([(t.time - self.grid.start) / SECOND for t in ticks]),
        }

    def info(self) -> dict[str, Any]:
        """What is known of the whole."""
        moments = self.tape.moments
        lost = moments[-1].number - moments[0].number + 1 - len(moments)
        delays = [each.delay_s for each in self.tape.thoughts.values()]
        tasks = [[self.grid.step(w.time), w.text] for w in self.tape.words if w.kind is Kind.TASK]
        return {
            KEY: to_json(self.interventions),
            "tasks": tasks,
            "lost_ticks": lost,
            "filled_steps": self.grid.filled,
            "delay_p95_s": float(np.percentile(delays, 95)) if delays else 0.0,
        }

    def annotations(self) -> tuple[Annotation, ...]:
        """What held, and every word."""
        told = {(each.step, each.words) for each in self.interventions}
        others = [
            Annotation("interjection", word.text, min(step, len(self.steps) - 1), role="user")
            for word in self.tape.words
            if word.text
            for step in [self.grid.step(word.time)]
            if not (word.kind is Kind.CORRECTION and (step, word.text) in told)
        ]
        found = [*narrate(self.said, self.interventions, level=self.setting.level), *others]
        return tuple(sorted(found, key=lambda each: (each.step, each.style == "interjection")))

    def _pairs(self) -> list[tuple[Any, Any]]:
        return [(each.tick, each.seen) for each in self.steps]

    def _said(self, moment: Moment) -> str:
        thought = self.tape.thoughts.get(moment.tick.request_id)
        return "" if thought is None else thought.said

    def _interventions(self) -> tuple[list[Intervention], set[int]]:
        """The corrections that came before the end, and the steps at which the person acted."""
        found, taken = [], set[int]()
        for place, word in enumerate(self.tape.words):
            start = self.grid.step(word.time)
            if word.level is None or start >= len(self.steps):
                continue
            after = [w.number for w in self.tape.words[place + 1 :] if w.kind in _ENDS]
            end = min(after, default=word.number + len(self.tape.words) + 1)
            under = [i for i, n in enumerate(self.numbers) if word.number <= n < end]
            taken |= set(under) if word.kind is Kind.TAKE_OVER else set()
            since, last = (under[0], under[-1]) if under else (None, None)
            before = self.said[max(start - 1, 0)]
            content = content_of(word.parts)
            found.append(Intervention(start, since, last, word.level, content, word.who, before))
        return found, taken

    def _corrected(self) -> set[int]:
        return {
            step
            for each in self.interventions
            if each.since is not None and each.last is not None
            for step in range(each.since, each.last + 1)
        }
