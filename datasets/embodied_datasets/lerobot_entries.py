"""What is known of a data set and its episodes before any of their data are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embodied.structs import Annotation
from embodied_datasets.lerobot_columns import Feature


@dataclass(frozen=True)
class Options:
    """What a reader may choose of a data set; see `LeRobotDataset`."""

    state: tuple[str, ...] | None = None
    action: str = "action"
    video_folder: str | None = None
    instruction: str | None = None


@dataclass(frozen=True)
class Camera:
    """A stream of images.

    Attributes:
        feature: its name in the files.
        shape: (h, w) in pixels.
        stills: whether each image is encoded by itself in the rows, rather than in a video.
    """

    feature: str
    shape: tuple[int, int]
    stills: bool = False


@dataclass(frozen=True)
class Layout:
    """What the columns of a data set are to a policy.

    Attributes:
        columns: LeRobot's description of each column of numbers that is read, with the type that
            it is read as.
        state: the columns that make up the state, in order.
        action: the column of actions; "next.<column>" for its values one frame later.
        extras: columns that are handed on as they are.
        language: columns of annotations.
        cameras: by name.
    """

    columns: Mapping[str, Feature]
    state: tuple[str, ...]
    action: str
    extras: tuple[str, ...]
    language: tuple[str, ...]
    cameras: Mapping[str, Camera]

    @property
    def state_parts(self) -> dict[str, int]:
        """`Spec.state_parts`: empty for a state of one column."""
        sizes = {name: self.columns[name]["shape"][0] for name in self.state}
        parts = {name.removeprefix("observation."): size for name, size in sizes.items()}
        return parts if len(parts) > 1 else {}


@dataclass(frozen=True)
class Entry:
    """One episode's place and facts.

    Attributes:
        number: its `episode_index`.
        first: the `index` of its first frame.
        file: what holds its rows: a Parquet file, or a folder of Arrow streams. Episodes of one
            file follow each other.
        row: its first row there.
        length: number of rows.
        instruction: None where the rows' `task_index` tells it.
        key: its name, by which episodes are sorted; empty where none is recorded.
        flags: success, terminated and truncated, as far as they are recorded.
        info: a JSON object.
        videos: camera -> (file, time of the first frame in s).
        annotations: None where the rows tell them.
        final: (file, row) where `Episode.final` is kept, row None for the file's own metadata.
    """

    number: int
    first: int
    file: Path
    row: int
    length: int
    instruction: str | None = None
    key: str = ""
    flags: Mapping[str, bool] = field(default_factory=dict)
    info: str = "{}"
    videos: Mapping[str, tuple[Path, float]] = field(default_factory=dict)
    annotations: tuple[Annotation, ...] | None = None
    final: tuple[Path, int | None] | None = None


@dataclass(frozen=True)
class Catalog:
    """A whole data set's metadata.

    Attributes:
        action_bounds: (low, high), where they are recorded.
        render_profile: how a simulator drew the images, where that is recorded.
        state_parts: `Spec.state_parts`, where our writer recorded them.
        tasks: instructions by `task_index`.
        files: the metadata files that determine the content.
    """

    root: Path
    fps: float
    layout: Layout
    tasks: Sequence[str]
    entries: Sequence[Entry]
    files: Sequence[Path]
    action_bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    render_profile: str | None = None
    state_parts: Mapping[str, int] | None = None


def info_of(entry: Entry) -> dict[str, Any]:
    """`Episode.info`."""
    try:
        info = json.loads(entry.info)
    except (ValueError, RecursionError):
        info = None
    return info if isinstance(info, dict) else {"info": entry.info}
