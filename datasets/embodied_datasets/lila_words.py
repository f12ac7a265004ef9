"""The files of the set that `formats.lila` reads, and what people said of their episodes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embodied_datasets.budget import damaged
from embodied_datasets.files import read_json_lines
from embodied_datasets.wordings import canonical, hold_out

_FILE = re.compile(r"(il|lila)__([\w-]+)\.npz")
_SEED = 0


@dataclass(frozen=True)
class Source:
    """A file of episodes of one task; `kind` is "il" or "lila"."""

    npz: Path
    kind: str
    task: str

    @property
    def words(self) -> Path:
        return self.npz.with_suffix(".jsonl")


def find_sources(path: Path) -> list[Source]:
    """All files of the set, by name."""
    matches = [(file, _FILE.fullmatch(file.name)) for file in sorted(path.glob("*.npz"))]
    return [Source(file, match[1], match[2]) for file, match in matches if match]


def choose_sources(path: Path, tasks: Sequence[str] | None, files: Sequence[str]) -> list[Source]:
    """Those of some tasks and kinds; ValueError where there are none."""
    found = [source for source in find_sources(path) if source.kind in files]
    known = sorted({source.task for source in found})
    unknown = sorted(set(tasks or ()) - set(known))
    if unknown or not known:
        raise ValueError(f"{path} has no tasks {unknown} in {list(files)}; it has {known}")
    return [source for source in found if tasks is None or source.task in tasks]


def read_utterances(path: Path, tasks: set[str]) -> dict[Source, list[list[str]]]:
    """What people said of each episode, in all files of the tasks: what is held out must not
    depend on which of them are trained on."""
    return {
        source: _utterances(source.words) for source in find_sources(path) if source.task in tasks
    }


def allowed_texts(
    said: Mapping[Source, list[list[str]]], count: int, wording: str
) -> dict[str, set[str]]:
    """Task -> the texts of a view. What any task holds out, no task trains on."""
    texts: dict[str, set[str]] = {}
    for source, lists in said.items():
        texts.setdefault(source.task, set()).update(text for each in lists for text in each)
    held = {task: set(hold_out(sorted(x), count, _SEED, task)[1]) for task, x in texts.items()}
    if wording == "held_out":
        return held
    forms = {canonical(text) for each in held.values() for text in each}
    return {task: {text for text in x if canonical(text) not in forms} for task, x in texts.items()}


def _utterances(path: Path) -> list[list[str]]:
    """A list of texts for each episode."""
    found: list[Any] = [line.get("language") for line in read_json_lines(path)]
    for number, said in enumerate(found, start=1):
        if not isinstance(said, list) or not all(isinstance(x, str) and x for x in said):
            raise damaged(path, f"line {number} has no list of texts as its language")
    return found
