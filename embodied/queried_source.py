"""What a policy does, with questions about it at set times; nobody shows it a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from embodied.data.compared import pairs_of
from embodied.data.preferences import Comparisons, Preferences, Segments, join
from embodied.data.queries import disagreement, entropy, uniform
from embodied.data.teachers import Teacher
from embodied.experience import Experience
from embodied.feedback import Pairs
from embodied.own_episodes import OwnEpisodes
from embodied.replay import Replay
from embodied.sources import Source
from embodied.structs import Batch, Metrics

CHOICES = {choose.__name__: choose for choose in (uniform, disagreement, entropy)}
_STREAM = 0xA5C


@dataclass(frozen=True)
class Schedule:
    """When questions are asked: a function of the position alone.

    Attributes:
        first: batches before the first session, in which novelty is the reward.
        every: batches from one session to the next.
        per_session: questions of each; the last one has what is left.
        labels: questions in all, those included that the teacher skips.
        pause: batches after the first session in which the policy does not act: critics that begin
            anew catch up.
    """

    first: int
    every: int
    per_session: int
    labels: int
    pause: int = 0

    def __post_init__(self) -> None:
        least = {"first": 1, "every": 1, "per_session": 1, "labels": 0, "pause": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"source.{name} must be at least {low}, got {getattr(self, name)}")

    def questions(self, position: int) -> int:
        """How many are asked at a batch."""
        if position == self.first:
            return min(self.per_session, self.labels)
        session, rest = divmod(position - self.first - self.pause, self.every)
        if session < 1 or rest:
            return 0
        return max(0, min(self.per_session, self.labels - session * self.per_session))

    def paused(self, position: int) -> int:
        """Before how many of the batches up to a position the policy did not act."""
        return min(max(0, position - self.first), self.pause)


@dataclass(frozen=True)
class Questions:
    """How questions are made.

    Attributes:
        segment_length: T.
        choose: "uniform", "disagreement" or "entropy"; until there are labels it is uniform.
        candidates: for each question.
        recent: newest episodes that questions are about; None for all.
        held_out: pairs drawn at each session to be judged by, which are not among the labels.
        unlabelled: further pairs for each label so far.
    """

    segment_length: int
    choose: str = "disagreement"
    candidates: int = 10
    recent: int | None = 100
    held_out: int = 50
    unlabelled: int = 0

    def __post_init__(self) -> None:
        if self.choose not in CHOICES:
            raise ValueError(f"source.choose must be one of {sorted(CHOICES)}, got {self.choose!r}")
        if self.candidates < 1 or self.held_out < 1 or self.unlabelled < 0:
            raise ValueError(
                "source.candidates and source.held_out must be at least 1 and source.unlabelled 0, "
                f"got {self.candidates}, {self.held_out}, {self.unlabelled}"
            )


class Queried(Source):
    """Another source's batches without their rewards, with a session when it is time for one.

    What is asked at a position depends on it, on the seed, on what the policy did and on what the
    rewards' members think. Answers are kept as segments of the run's episodes, and so in each
    checkpoint; what they are about lies in the replay buffer.

    Args:
        steps: what the policy does; its replay buffer has rows as of `Numbered`.
        told: what all that is compared was to do.
    """

    def __init__(
        self,
        steps: Experience,
        schedule: Schedule,
        questions: Questions,
        teacher: Teacher,
        *,
        told: str,
        seed: int = 0,
    ) -> None:
        assert steps.replay is not None
        self.steps, self.schedule, self.questions = steps, schedule, questions
        self.teacher, self.told, self.seed = teacher, told, seed
        self.replay: Replay = steps.replay
        self.batch_size = steps.batch_size
        self.position, self.asked = 0, 0
        self.answers = _none(questions.segment_length)
        self.pairs: Pairs | None = None

    def __next__(self) -> Batch:
        batch = next(self.steps)
        position, self.position = self.position, self.position + 1
        return replace(
            batch,
            reward=None,  # so that nothing can learn from it
            pairs=self.pairs,
            visited=self._visited() if position < self.schedule.first else None,
            session=self._session(position),
        )

    def _visited(self) -> Tensor:
        newest = self.replay.rows[self.replay.count - len(self.replay) : self.replay.count]
        return newest[:, : self.steps.layout.state_dim].to(self.steps.device)

    def _session(self, position: int) -> Asking | None:
        count = self.schedule.questions(position)
        if not count:
            return None
        rng = np.random.default_rng([self.seed, position, _STREAM])
        return Asking(self, self.episodes(), count, rng)

    def episodes(self) -> OwnEpisodes:
        """All that the policy went through so far."""
        return OwnEpisodes(self.replay.rows[: self.replay.count].numpy(), self.steps.layout)

    def add(self, answers: Preferences, *, asked: int, episodes: OwnEpisodes) -> Pairs | None:
        """Takes in what was answered; all answers so far, None if there are none."""
        self.asked += asked
        self.answers = join([self.answers, answers])
        self._read(episodes)
        return self.pairs

    def _read(self, episodes: OwnEpisodes) -> None:
        self.pairs = self.look(self.answers, episodes) if len(self.answers) else None

    def look(self, preferences: Preferences, episodes: OwnEpisodes) -> Pairs:
        """What was compared."""
        sides = [episodes.take(x) for x in (preferences.first, preferences.second)]
        state, action = (np.stack([getattr(x, n) for x in sides], 1) for n in ("state", "action"))
        found = Comparisons(state, action, preferences.second_better)
        return pairs_of(found, self.told, self.steps.device)

    def take_metrics(self) -> Metrics:
        return {
            **self.steps.take_metrics(),
            "queries/asked": float(self.asked),
            "queries/labels": float(len(self.answers)),
        }

    def state_dict(self) -> dict[str, Any]:
        first, second = (
            np.stack([x.episode, x.start], 1).tolist()
            for x in (self.answers.first, self.answers.second)
        )
        return {
            "position": self.position,
            "seed": self.seed,
            "asked": self.asked,
            "answers": {
                "first": first,
                "second": second,
                "second_better": self.answers.second_better.tolist(),
            },
            "steps": self.steps.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["seed"] != self.seed:
            raise ValueError(f"this source has seed {self.seed}, the saved one {state['seed']}")
        self.steps.load_state_dict(state["steps"])
        self.position, self.asked = state["position"], state["asked"]
        saved, length = state["answers"], self.questions.segment_length
        first, second = (_segments(saved[name], length) for name in ("first", "second"))
        label = np.asarray(saved["second_better"], np.float32)
        self.answers = Preferences(first, second, label, ("teacher",) * len(label))
        if len(label):
            self._read(self.episodes())

    def close(self) -> None:
        self.steps.close()


class Asking:
    """One session; implements `embodied.feedback.Session`."""

    def __init__(
        self, source: Queried, episodes: OwnEpisodes, count: int, rng: np.random.Generator
    ) -> None:
        self.source, self.episodes, self.count, self.rng = source, episodes, count, rng
        questions = source.questions
        self._candidates = self._draw(count * questions.candidates)
        self.candidates = source.look(self._candidates, episodes)
        judged_by = self._label(self._draw(questions.held_out), Teacher())
        self.held_out = source.look(judged_by, episodes)
        more = questions.unlabelled * (len(source.answers) + count)
        self.unlabelled = source.look(self._draw(more), episodes) if more else None

    def ask(self, probability: Tensor) -> Pairs | None:
        """As of `Session`; None while there are no answers at all."""
        choice = self.source.questions.choose if len(self.source.answers) else "uniform"
        rows = CHOICES[choice](probability.detach().cpu().numpy(), self.count, self.rng)
        answers = self._label(self._candidates[rows], self.source.teacher)
        return self.source.add(answers, asked=self.count, episodes=self.episodes)

    def _draw(self, count: int) -> Preferences:
        questions = self.source.questions
        first, second = (
            self.episodes.draw(questions.segment_length, count, questions.recent, self.rng)
            for _ in range(2)
        )
        return Preferences(first, second, np.full(count, 0.5, np.float32), ("nobody",) * count)

    def _label(self, pairs: Preferences, teacher: Teacher) -> Preferences:
        """What a teacher says; skipped questions are left out."""
        sides = (self.episodes.take(x).reward for x in (pairs.first, pairs.second))
        usual = self.episodes.usual_return(pairs.first.length)
        said = teacher.label(np.stack(list(sides), 1), usual_return=usual, rng=self.rng)
        names = ("teacher",) * len(pairs)
        return Preferences(pairs.first, pairs.second, said.second_better, names)[said.answered]


def _segments(places: Sequence[Sequence[int]], length: int) -> Segments:
    """From (N, 2) episodes and first steps."""
    found = np.asarray(places, np.int64).reshape(-1, 2)
    return Segments(found[:, 0], found[:, 1], length)


def _none(length: int) -> Preferences:
    empty = _segments([], length)
    return Preferences(empty, empty, np.zeros(0, np.float32), ())
