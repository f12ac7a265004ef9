"""Reading LeRobot v3.0 data sets, finalised or still being recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.lerobot_arrays import check_arrays, check_budget, load_arrays
from embodied_datasets.lerobot_catalog import Entry, read_catalog
from embodied_datasets.lerobot_video import decode


class LeRobotDataset:
    """The episodes of a LeRobot v3.0 folder; implements `embodied.structs.Episodes`.

    All numbers are read and checked at once; images are decoded whenever an episode's `images`
    are asked for one. Action bounds are those that our writer recorded, else the extremes of the
    data. Where the set does not record `success`, it is whether `next.success` is ever true.

    Args:
        root: the folder that holds `meta/`, or one that a `LeRobotWriter` records to.
        only_success: leaves failures out. Episodes in which another task's expert acted
            (`info["expert"]` differs from `info["task"]`) were not judged, and stay.
        tasks: keeps the episodes whose `info["task"]`, or else instruction, is one of these.
        cameras: offers only these of the recorded cameras; None means all.
        max_bytes: refuses to hold more than this in memory: all numbers, or one episode's images.

    Raises ValueError naming file, episode, frame and field where the data is not what it says.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        only_success: bool = False,
        tasks: Collection[str] | None = None,
        cameras: Sequence[str] | None = None,
        max_bytes: int = 8 * 2**30,
    ) -> None:
        self.root = Path(root)
        self._catalog = read_catalog(self.root)
        self._max_bytes = max_bytes
        self._cameras = self._choose_cameras(cameras)
        lengths = [entry.length for entry in self._catalog.entries]
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._arrays = load_arrays(self._catalog, max_bytes)
        check_arrays(self._catalog, self._arrays, self._starts)
        self._selection = self._select(only_success, tasks)
        self.spec = self._make_spec()

    def __len__(self) -> int:
        return len(self._selection)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        number = self._selection[index]
        entry = self._catalog.entries[number]
        rows = slice(self._starts[number], self._starts[number + 1])
        columns = {name: values[rows] for name, values in self._arrays.items()}
        return Episode(
            state=columns[schema.STATE],
            action=columns[schema.ACTION],
            instruction=self._instruction(number),
            reward=columns.get(schema.REWARD),
            images=self._images(entry, columns[schema.TIMESTAMP]),
            expert_action=columns.get(schema.EXPERT_ACTION),
            success=self._success(number),
            terminated=entry.flags.get("terminated", False),
            truncated=entry.flags.get("truncated", False),
            info=json.loads(entry.info),
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all files that the offered episodes come from, and which were chosen."""
        entries = self._catalog.entries
        files = {*self._catalog.files, *(entry.file for entry in entries)}
        files |= {entry.videos[camera][0] for entry in entries for camera in self._cameras}
        digest = hashlib.sha256(json.dumps([self._selection, self._cameras]).encode())
        for path in sorted(files):
            digest.update(path.relative_to(self.root).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _choose_cameras(self, cameras: Sequence[str] | None) -> list[str]:
        known = list(self._catalog.cameras)
        unknown = sorted(set(cameras or ()) - set(known))
        if unknown:
            raise KeyError(f"{self.root} has no cameras {unknown}; it has {known}")
        return known if cameras is None else list(cameras)

    def _make_spec(self) -> Spec:
        action = self._arrays[schema.ACTION]
        low, high = self._catalog.action_bounds or (
            tuple(action.min(0).tolist()),
            tuple(action.max(0).tolist()),
        )
        return Spec(
            state_dim=self._arrays[schema.STATE].shape[1],
            action_dim=action.shape[1],
            action_low=low,
            action_high=high,
            rate_hz=self._catalog.fps,
            cameras={name: self._catalog.cameras[name] for name in self._cameras},
            render_profile=self._catalog.render_profile,
        )

    def _select(self, only_success: bool, tasks: Collection[str] | None) -> list[int]:
        selection = list(range(len(self._catalog.entries)))
        if tasks is None and not only_success:
            return selection
        infos = [json.loads(entry.info) for entry in self._catalog.entries]
        names = [info.get("task", self._instruction(i)) for i, info in enumerate(infos)]
        unknown = sorted(set(tasks or ()) - set(names))
        if unknown:
            raise KeyError(f"{self.root} has no tasks {unknown}; it has {sorted(set(names))}")
        judged = [info.get("expert", name) == name for info, name in zip(infos, names, strict=True)]
        return [
            i
            for i in selection
            if (tasks is None or names[i] in tasks)
            and not (only_success and judged[i] and not self._success(i))
        ]

    def _instruction(self, number: int) -> str:
        recorded = self._catalog.entries[number].instruction
        if recorded is not None:
            return recorded
        task = int(self._arrays["task_index"][self._starts[number]])
        return self._catalog.tasks[task]

    def _success(self, number: int) -> bool:
        flags = self._catalog.entries[number].flags
        rows = slice(self._starts[number], self._starts[number + 1])
        found = self._arrays.get(schema.SUCCESS, np.zeros(0, bool))[rows]
        return flags.get("success", bool(found.any()))

    def _images(self, entry: Entry, times: NDArray[np.float32]) -> Mapping[str, NDArray[np.uint8]]:
        clips = {}
        for camera in self._cameras:
            path, start = entry.videos[camera]
            shape = self._catalog.cameras[camera]
            clips[camera] = _Clip(path, start + times.astype(np.float64), shape, self.spec.rate_hz)
        return _Images(clips, self._max_bytes)


@dataclass(frozen=True)
class _Clip:
    path: Path
    times: NDArray[np.float64]
    shape: tuple[int, int]
    fps: float


class _Images(Mapping[str, NDArray[np.uint8]]):
    """One episode's cameras; every look at one decodes its video."""

    def __init__(self, clips: Mapping[str, _Clip], max_bytes: int) -> None:
        self._clips = clips
        self._max_bytes = max_bytes

    def __getitem__(self, camera: str) -> NDArray[np.uint8]:
        clip = self._clips[camera]
        height, width = clip.shape
        check_budget(clip.path, len(clip.times) * height * width * 3, self._max_bytes)
        return decode(clip.path, clip.times, clip.shape, clip.fps)

    def __iter__(self) -> Iterator[str]:
        return iter(self._clips)

    def __len__(self) -> int:
        return len(self._clips)
