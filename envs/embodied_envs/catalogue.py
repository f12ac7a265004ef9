"""What is known of a library's tasks without opening a simulator: sizes, success and words.

Each library has a file in `assets/`, a line for each task. The facts are the library's, and a test
holds them against it; the words and, where the library defines no success, the standard are ours.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

from embodied.suites import Texts

_TRAINED = (
    "make {body} {deed}",
    "have {body} {deed}",
    "get {body} to {deed}",
    "let {body} {deed}",
    "i want {body} to {deed}",
    "{body} should {deed}",
)
_HELD_OUT = ("see to it that {body} manages to {deed}", "it is time for {body} to {deed}")


@dataclass(frozen=True)
class TaskFacts:
    """One task of a library.

    Attributes:
        state_dim: numbers in the library's observation.
        action_dim: numbers in an action.
        goal_dim: how many numbers at the end of the observation are the goal that is to be reached.
        own: where in the observation the robot senses itself; empty where the lengths and
            velocities of its actuators tell that.
        rate_hz: the library's control steps per second.
        max_steps: the library's control steps in an episode.
        measure: what success is judged by: "return" is the sum of the rewards so far, "reward" that
            of the step, and any other word is a value in the library's info.
        threshold: the least measure that counts as success.
    """

    state_dim: int
    action_dim: int
    rate_hz: float
    max_steps: int
    measure: str
    threshold: float
    texts: Texts
    goal_dim: int = 0
    own: tuple[int, ...] = ()

    @property
    def own_dim(self) -> int:
        """How many numbers a robot senses of itself."""
        return len(self.own) or 2 * self.action_dim


class Sizes(NamedTuple):
    """What the tasks of one suite must agree on, since they share a policy."""

    state_dim: int
    action_dim: int
    rate_hz: float
    max_steps: int


@functools.cache
def read_catalogue(name: str) -> Mapping[str, TaskFacts]:
    """Task -> its facts, from `assets/<name>.json`, in the file's order."""
    text = (files("embodied_envs") / "assets" / f"{name}.json").read_text("utf-8")
    return {task: _facts(row) for task, row in json.loads(text).items()}


def _facts(row: Mapping[str, Any]) -> TaskFacts:
    ((measure, threshold),) = row["success"].items()
    return TaskFacts(
        state_dim=row["state"],
        action_dim=row["action"],
        rate_hz=row["hz"],
        max_steps=row["steps"],
        measure=measure,
        threshold=threshold,
        texts=_texts(row["body"], *row["deeds"], held_out=row["held_out"]),
        goal_dim=row.get("goal", 0),
        own=tuple(row.get("own", ())),
    )


def _texts(body: str, deed: str, *synonyms: str, held_out: str) -> Texts:
    """Every frame around every deed; held out are new frames, and a new deed in a known frame."""
    canonical, *paraphrases = (
        frame.format(body=body, deed=each) for each in (deed, *synonyms) for frame in _TRAINED
    )
    return Texts(
        canonical=canonical,
        paraphrases=tuple(paraphrases),
        held_out=(
            *(frame.format(body=body, deed=deed) for frame in _HELD_OUT),
            _TRAINED[0].format(body=body, deed=held_out),
        ),
    )


def common_sizes(sizes: Mapping[str, Sizes]) -> Sizes:
    """The sizes that all tasks have; raises where they differ, and names the odd ones."""
    usual = Counter(sizes.values()).most_common(1)[0][0]
    model = next(task for task, found in sizes.items() if found == usual)
    odd = [task for task, found in sizes.items() if found != usual]
    if odd:
        lines = "; ".join(_differences(task, sizes[task], model, usual) for task in odd)
        raise ValueError(
            f"tasks of one suite share a policy, so their sizes must agree: {lines}. "
            f"Leave {_listed(odd)} out, or make a suite of its own for it"
        )
    return usual


def _differences(task: str, found: Sizes, model: str, usual: Sizes) -> str:
    pairs = zip(Sizes._fields, found, usual, strict=True)
    differing = [f"{name} {a}, not {b}" for name, a, b in pairs if a != b]
    return f"{task} has {', '.join(differing)} as {model} has"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
