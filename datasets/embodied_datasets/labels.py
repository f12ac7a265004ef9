"""Labels beside a data set: made after the fact, kept apart from what was recorded.

A layer of labels is a folder of its own, so that adding one changes nothing of the data and
removing it undoes it. Labels belong to episodes by the content of these, whatever their order and
however many of them are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from tqdm import tqdm

from embodied.structs import Annotation, Episode, Episodes, Spec
from embodied_datasets.faults import Fault, refuse
from embodied_datasets.files import move_into_place, read_json, write_json

VERSION = 1
_LABELS, _ARRAYS = "labels.json", "arrays.safetensors"


@dataclass(frozen=True)
class Labels:
    """What is said of one episode in hindsight; what is None or empty stays as recorded.

    Attributes:
        instruction, success: instead of the recorded ones.
        reward: (L,) instead of the recorded one.
        extras: name -> (L, ...), added to the recorded ones.
        annotations: take the place of all those of their styles.
    """

    instruction: str | None = None
    success: bool | None = None
    reward: NDArray[np.float32] | None = None
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    annotations: tuple[Annotation, ...] = ()

    def put_on(self, episode: Episode) -> Episode:
        """The episode with these labels."""
        styles = {each.style for each in self.annotations}
        kept = (each for each in episode.annotations if each.style not in styles)
        said = sorted((*kept, *self.annotations), key=lambda each: each.step)
        changes = {
            name: value
            for name in ("instruction", "success", "reward")
            if (value := getattr(self, name)) is not None
        }
        return dataclasses.replace(
            episode,
            extras={**episode.extras, **self.extras},
            annotations=tuple(said),
            **changes,
        )


class Labeller(Protocol):
    """Says something about episodes; a frozen dataclass, whose fields are written down."""

    def __call__(self, episode: Episode, spec: Spec) -> Labels: ...


def digest(episode: Episode) -> str:
    """What tells an episode from others, and no label changes: its states and actions."""
    content = hashlib.sha256()
    for array in (episode.state, episode.action):
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()[:32]


def folder(path: Path) -> Path:
    """Where the layers of a data set lie: in its folder, or beside its file."""
    return path / "labels" if path.is_dir() else path.with_name(f"{path.name}.labels")


def layers(path: Path) -> list[str]:
    """The names of a data set's layers, the oldest first."""
    found = [file.parent for file in folder(path).glob(f"*/{_LABELS}")]
    return [each.name for each in sorted(found, key=lambda each: (_order(each), each.name))]


def add_layer(
    path: Path, name: str, labeller: Labeller, episodes: Episodes, *, progress: bool = True
) -> None:
    """Labels all episodes and writes the layer; a layer of that name is replaced.

    Raises ValueError where the labeller cannot label an episode.
    """
    if not name.isidentifier():
        raise ValueError(f"a layer's name must be letters, digits and '_', got {name!r}")
    order = 1 + max((_order(folder(path) / each) for each in layers(path)), default=0)
    arrays: dict[str, NDArray[Any]] = {}
    said: dict[str, Any] = {}
    for episode in tqdm(episodes, total=len(episodes), unit="episode", disable=not progress):
        labels = labeller(episode, episodes.spec)
        key = digest(episode)
        check(labels, episode)
        said[key] = _words(labels)
        numbers = {f"extras/{each}": x for each, x in labels.extras.items()}
        numbers |= {} if labels.reward is None else {"reward": labels.reward}
        arrays |= {f"{key}/{each}": np.ascontiguousarray(x) for each, x in numbers.items()}
    facts = {"version": VERSION, "order": order, "labeller": describe(labeller), "episodes": said}
    _write(folder(path) / name, facts, arrays)


def remove_layer(path: Path, name: str) -> None:
    """Undoes a layer. Raises ValueError where there is none of that name."""
    if name not in layers(path):
        raise ValueError(f"{path} has no labels {name!r}; it has {layers(path)}")
    gone = folder(path) / f".removed-{name}"
    (folder(path) / name).rename(gone)
    shutil.rmtree(gone)


class Labelled:
    """Episodes with some layers of labels; implements `embodied.structs.Episodes`.

    Raises DataError where a layer does not know an episode, which must then have changed.
    """

    def __init__(self, path: Path, episodes: Episodes, names: Sequence[str]) -> None:
        unknown = sorted(set(names) - set(layers(path)))
        if unknown:
            raise ValueError(f"{path} has no labels {unknown}; it has {layers(path)}")
        self._episodes = episodes
        self._layers = [_Layer(folder(path) / name) for name in names]

    @property
    def spec(self) -> Spec:
        return self._episodes.spec

    @property
    def fingerprint(self) -> str:
        parts = [self._episodes.fingerprint, *(layer.fingerprint for layer in self._layers)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int) -> Episode:
        recorded = episode = self._episodes[index]
        key = digest(recorded)
        for layer in self._layers:
            episode = layer.labels(key, index).put_on(episode)
        return episode

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))


class _Layer:
    """A layer that was written."""

    def __init__(self, root: Path) -> None:
        self._root = root
        facts = read_json(root / _LABELS)
        if facts.get("version") != VERSION:
            raise ValueError(
                f"{root / _LABELS} has version {facts.get('version')!r}, expected {VERSION}; "
                "make the labels anew"
            )
        self._said = facts["episodes"]
        content = (root / _ARRAYS).read_bytes()
        self._arrays = safetensors.numpy.load(content)
        whole = hashlib.sha256((root / _LABELS).read_bytes() + content)
        self.fingerprint = whole.hexdigest()

    def labels(self, key: str, index: int) -> Labels:
        if key not in self._said:
            refuse(
                Fault(
                    "E_DATA_LABELS_STALE",
                    f"the labels {self._root.name!r} do not know this episode: it was changed or "
                    "added after they were made",
                    "make them anew",
                    file=self._root / _LABELS,
                    episode=index,
                )
            )
        words = dict(self._said[key])
        said = tuple(Annotation(**each) for each in words.pop("annotations", ()))
        own = {
            name.removeprefix(f"{key}/"): x
            for name, x in self._arrays.items()
            if name.startswith(f"{key}/")
        }
        reward = own.pop("reward", None)
        extras = {name.removeprefix("extras/"): x for name, x in own.items()}
        return Labels(reward=reward, extras=extras, annotations=said, **words)


def _order(layer: Path) -> int:
    return int(read_json(layer / _LABELS).get("order", 0))


def _words(labels: Labels) -> dict[str, Any]:
    words: dict[str, Any] = {}
    if labels.instruction is not None:
        words["instruction"] = labels.instruction
    if labels.success is not None:
        words["success"] = bool(labels.success)
    if labels.annotations:
        words["annotations"] = [dataclasses.asdict(each) for each in labels.annotations]
    return words


def describe(labeller: Labeller) -> dict[str, Any]:
    """Class and settings of a labeller, JSON-able."""
    kind = type(labeller)
    settings: Any = labeller
    return {"class": f"{kind.__module__}.{kind.__qualname__}"} | dataclasses.asdict(settings)


def check(labels: Labels, episode: Episode) -> None:
    """Raises ValueError where labels do not fit the episode."""
    for name, x in {"reward": labels.reward, **labels.extras}.items():
        if x is not None and (len(x) != len(episode) or not np.isfinite(x).all()):
            raise ValueError(
                f"label {name!r} must be {len(episode)} finite values, one for each step, got "
                f"shape {x.shape}"
            )
    outside = [each for each in labels.annotations if not 0 <= each.step < len(episode)]
    if outside:
        raise ValueError(f"annotation {outside[0]} is not on a step of {len(episode)}")


def _write(root: Path, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    temporary = root.with_name(f".tmp-{root.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    safetensors.numpy.save_file(dict(arrays), temporary / _ARRAYS)
    write_json(temporary / _LABELS, facts)
    if root.exists():
        shutil.rmtree(root)
    move_into_place(temporary, root)
