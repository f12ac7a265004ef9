"""Writing episodes that somebody has played already as a data set of a suite."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from embodied.structs import Episodes
from embodied.suites import Suite
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.lerobot_writer import LeRobotWriter
from embodied_datasets.recording import settle
from embodied_datasets.scripted import Collection

_CONFIG = "collection.json"


def write(suite: Suite, root: str | Path, *, episodes: Episodes) -> Collection:
    """Writes episodes of a suite's only task to `root`, or what is missing of them.

    They are told the task's canonical instruction.

    Raises ValueError for a suite of several tasks, since who played does not say which, and
    DataError where `root` holds something else.
    """
    if len(suite.tasks) != 1:
        raise ValueError(f"name the task that was played: {suite.name} has {len(suite.tasks)}")
    root, task = Path(root), suite.tasks[0]
    settle(root, _CONFIG, {"suite": suite.name, "played": episodes.fingerprint}, "written")
    if not (root / schema.INFO_PATH).exists():
        with LeRobotWriter(root, spec=episodes.spec, live=False) as writer:
            done = writer.keys
            for number, episode in enumerate(episodes):
                if (key := f"{number:07d}") not in done:
                    words, info = suite.texts(task).canonical, {**episode.info, "task": task}
                    writer.add(key, replace(episode, instruction=words, info=info))
            writer.finalize()
    solved = Counter(episode.success for episode in episodes)
    return Collection(root, len(episodes), {task: solved[True] / len(episodes)}, 0, {})
