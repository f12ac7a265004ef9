"""Pixels after the fact: recorded episodes of states, run again with cameras on.

An episode of a deterministic suite follows from its assignment and its actions. Both are recorded,
so that its images need not be: they are drawn when somebody wants them, from any camera, in any
size and profile. Each state is compared with the recorded one on the way.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied.suites import Suite
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.files import read_json, write_json
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.lerobot_catalog import read_catalog
from embodied_datasets.lerobot_writer import record
from embodied_datasets.recording import fill, settle, spec_of
from embodied_datasets.scripted_rollout import camera_facts

_CONFIG = "rendering.json"
_COLLECTION = "collection.json"
_REMEDY = (
    "Its images would not be those of the recorded episode: use the suite and the versions that "
    "it was recorded with"
)
_ASSIGNED = ("task", "goal", "benchmark_seed", "seed")


@dataclass(frozen=True)
class Recorded:
    """An episode of the source by its key and its place in it."""

    key: str
    index: int


def with_cameras(
    suite: Suite, cameras: Sequence[str | int], image_size: Sequence[int], render_profile: str
) -> Suite:
    """The suite with images beside the states that it shows.

    Raises ValueError where the suite does not show its whole state, or knows no cameras.
    """
    known: Any = suite
    fields = {field.name for field in dataclasses.fields(known)}
    if not {"cameras", "image_size"} <= fields:
        raise ValueError(f"{suite.name} has no cameras to choose from: it cannot be drawn")
    changes: dict[str, Any] = {"cameras": tuple(cameras), "image_size": tuple(image_size)}
    if "observation" in fields:
        if known.observation == "pixels":
            raise ValueError(
                "task.suite.observation is 'pixels', which shows too little of the state to check "
                "an episode by: name the suite as the data were recorded, with 'state'"
            )
        changes["observation"] = "mixed"
    if "render_profile" in fields:
        changes["render_profile"] = render_profile
    changed: Suite = dataclasses.replace(known, **changes)
    return changed


def render(
    suite: Suite,
    source: str | Path,
    root: str | Path,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> int:
    """Writes the episodes of `source` to `root` with the images of the suite, or what is missing.

    All but the images, and the info's `cameras`, is the source's, byte for byte; the images are
    those that collecting in the suite would have recorded.

    Args:
        suite: the suite that the source was collected in, with cameras (see `with_cameras`).
        workers: processes; None means one per core, and with 1 all runs in this process.

    Returns the number of episodes. Raises ValueError naming the episode and the step where a state
    is not the recorded one, and where `root` was rendered from other data.
    """
    source, root = Path(source), Path(root)
    recorded = LeRobotDataset(source)
    _check_source(source, recorded, suite)
    spec = spec_of(suite)
    _check_alike(source, recorded.spec, suite, spec)
    settle(root, _CONFIG, {"source": recorded.fingerprint}, "rendered")
    if not (root / schema.INFO_PATH).exists():
        _copy_collection(source, root, spec)
        entries = read_catalog(source).entries
        jobs = [Recorded(entry.key, index) for index, entry in enumerate(entries)]
        start = functools.partial(_Recorder, suite, source, spec)
        fill(root, spec, jobs, start, workers=workers, progress=progress)
    _check_result(root, spec)
    return len(recorded)


def _check_source(source: Path, recorded: LeRobotDataset, suite: Suite) -> None:
    if recorded.spec.cameras:
        raise ValueError(f"{source} has images already; render from a data set of states")
    entries = read_catalog(source).entries
    for index, entry in enumerate(entries):
        info = json.loads(entry.info)
        missing = [name for name in _ASSIGNED if name not in info] + ["key"] * (not entry.key)
        if missing:
            raise ValueError(
                f"episode {index} of {source} does not tell its {', '.join(missing)}: only "
                "episodes that scripts/collect.py recorded can be run again"
            )
        if info["task"] not in suite.tasks:
            raise ValueError(
                f"episode {entry.key} of {source} is of {info['task']}, which {suite.name} does "
                "not have: name the task that the data were collected for"
            )


def _check_alike(source: Path, recorded: Spec, suite: Suite, spec: Spec) -> None:
    ours = dataclasses.asdict(dataclasses.replace(spec, cameras={}, render_profile=None))
    theirs = dataclasses.asdict(recorded)
    wrong = [
        f"{name}: {theirs[name]} and {ours[name]}" for name in ours if ours[name] != theirs[name]
    ]
    if wrong:
        raise ValueError(
            f"{source} and the suite {suite.name} differ in {'; '.join(wrong)}: name the suite as "
            "the data were collected"
        )


def _copy_collection(source: Path, root: Path, spec: Spec) -> None:
    """So that collecting into `root`, with cameras, finds its work done."""
    if (source / _COLLECTION).exists():
        found = read_json(source / _COLLECTION)
        write_json(root / _COLLECTION, found | {"render_profile": spec.render_profile})


def _check_result(root: Path, spec: Spec) -> None:
    found = LeRobotDataset(root).spec
    for name in ("cameras", "render_profile"):
        if getattr(found, name) != getattr(spec, name):
            raise ValueError(
                f"{root} holds {name} {getattr(found, name)}, not {getattr(spec, name)}; choose "
                "another folder"
            )


class _Recorder:
    """Runs recorded episodes one after the other in one environment."""

    def __init__(self, suite: Suite, source: Path, spec: Spec, incoming: Path) -> None:
        self._recorded = LeRobotDataset(source)
        self._env = suite.make_env()
        self._spec = spec
        self._incoming = incoming

    def run(self, job: Recorded) -> None:
        episode = self._recorded[job.index]
        frames: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in self._spec.cameras}
        for observation in again(self._env, job.key, episode):
            for name, film in frames.items():
                film.append(np.array(observation[name]))
        images = {name: np.stack(each) for name, each in frames.items()}
        info = {**episode.info, **camera_facts(self._env)}
        drawn = dataclasses.replace(episode, images=images, info=info)
        record(self._incoming, job.key, drawn, spec=self._spec)

    def close(self) -> None:
        self._env.close()


def again(env: Any, key: str, episode: Episode) -> Iterator[Mapping[str, Any]]:
    """The observations before each action of an episode that is run again, each checked."""
    names = ("task", "goal", "benchmark_seed")
    options = {name: episode.info[name] for name in names} | {"instruction": episode.instruction}
    observation, _ = env.reset(seed=episode.info["seed"], options=options)
    _check_state(key, 0, observation["state"], episode.state[0])
    yield observation
    for step, action in enumerate(episode.action[:-1], start=1):
        observation, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            reason = info.get("reason", "terminated" if terminated else "truncated")
            raise ValueError(
                f"episode {key} ends at step {step}, recorded {len(episode)} ({reason}). {_REMEDY}"
            )
        _check_state(key, step, observation["state"], episode.state[step])
        yield observation


def _check_state(
    key: str, step: int, state: NDArray[np.float32], wanted: NDArray[np.float32]
) -> None:
    if not np.array_equal(state, wanted):
        worst = int(np.argmax(np.abs(state - wanted)))
        raise ValueError(
            f"episode {key}, step {step}: the state is not the recorded one (number {worst} of it "
            f"is {state[worst]!r}, recorded {wanted[worst]!r}). {_REMEDY}"
        )
