"""Reading LeRobot data sets of any version, finalised or still being recorded."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Annotation, Episode, Spec
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.faults import Report, refuse
from embodied_datasets.lerobot_arrays import check_arrays, ends_of, join, load_arrays, starts_of
from embodied_datasets.lerobot_catalog import read_catalog
from embodied_datasets.lerobot_entries import Entry, Options, info_of
from embodied_datasets.lerobot_finals import Final
from embodied_datasets.lerobot_images import Clip, Film, Images, Stills
from embodied_datasets.lerobot_language import from_columns
from embodied_datasets.lerobot_tables import read_slice

_logger = logging.getLogger(__name__)


class LeRobotDataset:
    """The episodes of a LeRobot folder, v1, v2.0, v2.1 or v3.0; implements
    `embodied.structs.Episodes`.

    All numbers are read and checked at once; images are decoded whenever an episode's `images`
    are asked for one. The state is `observation.state` together with all other vectors of floats
    called `observation.*`; whatever else is numeric becomes `Episode.extras`. Action bounds are
    those that our writer recorded, else the extremes of the data. Where the set does not record
    `success`, it is whether `next.success` is ever true.

    Args:
        root: the folder that holds `meta/` (v1: `train/`), or one that a `LeRobotWriter` records
            to.
        only_success: leaves failures out. Episodes in which another task's expert acted
            (`info["expert"]` differs from `info["task"]`) were not judged, and stay.
        tasks: keeps the episodes whose `info["task"]`, or else instruction, is one of these.
        cameras: offers only these of the recorded cameras; None means all.
        state: the columns that are the state, in this order; () for images alone.
        action: the column of actions. "next.<column>" takes that column's values one frame later,
            the last repeated: "next.observation.state" for sets that record no action.
        video_folder: where the videos are, instead of `videos`; their sides are then those of the
            files and not those in the metadata.
        skip_missing_videos: leaves out the episodes that lack the video of an offered camera, and
            names them in a warning.
        instruction: of all episodes of a set that records none (v1); None takes the folder's name.
        max_bytes: refuses to hold more than this in memory: all numbers, or one episode's images.
        report: what is done with faults that leave something to be read; others are raised.

    Attributes:
        catalog: the metadata.
        arrays: all numbers, by the names that `lerobot_arrays.join` gives them.
        all_entries: the places and facts of the episodes that the arrays are of.
        entries: those of the episodes that are offered.

    Raises DataError naming file, episode, frame and field where the data is not what it says.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        only_success: bool = False,
        tasks: Collection[str] | None = None,
        cameras: Sequence[str] | None = None,
        state: Sequence[str] | None = None,
        action: str = schema.ACTION,
        video_folder: str | None = None,
        skip_missing_videos: bool = False,
        instruction: str | None = None,
        max_bytes: int = 8 * 2**30,
        report: Report = refuse,
    ) -> None:
        self.root = Path(root)
        self._max_bytes = max_bytes
        chosen = None if state is None else tuple(state)
        options = Options(chosen, action, video_folder, instruction)
        report = schema.reporter(report, self.root)
        with schema.relative_to(self.root):
            self.catalog = read_catalog(self.root, options, report)
            self.all_entries, arrays = load_arrays(self.catalog, max_bytes, report)
            check_arrays(self.catalog, self.all_entries, arrays, report)
        self._starts = starts_of(self.all_entries)
        self.arrays = join(self.catalog.layout, arrays, self._starts)
        self._cameras = self._choose_cameras(cameras)
        self._selection = self._select(only_success, tasks)
        if skip_missing_videos:
            self._skip_missing_videos()
        self.spec = self._make_spec()

    def __len__(self) -> int:
        return len(self._selection)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        number = self._selection[index]
        entry = self.all_entries[number]
        columns = {name: values[self._rows(number)] for name, values in self.arrays.items()}
        terminated, truncated = ends_of(entry, columns)
        extras = self.catalog.layout.extras
        return Episode(
            state=columns["state"],
            action=columns["action"],
            instruction=self._instruction(number),
            reward=columns.get(schema.REWARD),
            images=self._images(entry, columns[schema.TIMESTAMP]),
            expert_action=columns.get(schema.EXPERT_ACTION),
            success=self._success(number),
            terminated=terminated,
            truncated=truncated,
            info=info_of(entry),
            extras={name: columns[name] for name in extras},
            final={} if entry.final is None else Final(self.root, entry.final, self._max_bytes),
            annotations=self._annotations(entry),
        )

    @property
    def entries(self) -> list[Entry]:
        return [self.all_entries[i] for i in self._selection]

    def place(self, index: int) -> tuple[int, Path]:
        """The number in the set, and the file relative to the root, of an episode offered."""
        entry = self.all_entries[self._selection[index]]
        return entry.number, entry.file.relative_to(self.root)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all files that the offered episodes come from, and which were chosen."""
        files = {*self.catalog.files, *(e.file for e in self.all_entries if e.file.is_file())}
        for entry in self.entries:
            films = (entry.videos[name][0] for name in self._cameras if name in entry.videos)
            files |= {path for path in films if path.is_file()}
        layout = self.catalog.layout
        chosen = [self._selection, self._cameras, layout.state, layout.action]
        digest = hashlib.sha256(json.dumps(chosen).encode())
        for path in sorted(files):
            digest.update(path.relative_to(self.root).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _rows(self, number: int) -> slice:
        return slice(int(self._starts[number]), int(self._starts[number + 1]))

    def _choose_cameras(self, cameras: Sequence[str] | None) -> list[str]:
        known = list(self.catalog.layout.cameras)
        unknown = sorted(set(cameras or ()) - set(known))
        if unknown:
            raise ValueError(f"{self.root} has no cameras {unknown}; it has {known}")
        return known if cameras is None else list(cameras)

    def _make_spec(self) -> Spec:
        action = self.arrays["action"]
        low, high = self.catalog.action_bounds or (
            tuple(np.fmin.reduce(action).tolist()),  # which pass over NaN
            tuple(np.fmax.reduce(action).tolist()),
        )
        layout = self.catalog.layout
        recorded = self.catalog.state_parts
        return Spec(
            state_dim=self.arrays["state"].shape[1],
            action_dim=action.shape[1],
            action_low=low,
            action_high=high,
            rate_hz=self.catalog.fps,
            cameras={name: layout.cameras[name].shape for name in self._cameras},
            render_profile=self.catalog.render_profile,
            state_parts=layout.state_parts if recorded is None else recorded,
        )

    def _select(self, only_success: bool, tasks: Collection[str] | None) -> list[int]:
        selection = list(range(len(self.all_entries)))
        if tasks is None and not only_success:
            return selection
        infos = [info_of(entry) for entry in self.all_entries]
        names = [info.get("task", self._instruction(i)) for i, info in enumerate(infos)]
        unknown = sorted(set(tasks or ()) - set(names))
        if unknown:
            raise ValueError(f"{self.root} has no tasks {unknown}; it has {sorted(set(names))}")
        judged = [info.get("expert", name) == name for info, name in zip(infos, names, strict=True)]
        return [
            i
            for i in selection
            if (tasks is None or names[i] in tasks)
            and not (only_success and judged[i] and not self._success(i))
        ]

    def _skip_missing_videos(self) -> None:
        missing = [i for i in self._selection if not self._has_videos(self.all_entries[i])]
        if len(missing) == len(self._selection):
            message = f"{self.root} has the videos of no episode"
            schema.fail("E_DATA_VIDEO_MISSING", None, message, "name another video_folder")
        if missing:
            names = ", ".join(str(self.all_entries[i].number) for i in missing)
            _logger.warning("%s: left out episodes without video: %s", self.root, names)
            self._selection = [i for i in self._selection if i not in set(missing)]

    def _has_videos(self, entry: Entry) -> bool:
        return all(
            entry.videos[name][0].is_file() for name in self._cameras if name in entry.videos
        )

    def _instruction(self, number: int) -> str:
        recorded = self.all_entries[number].instruction
        if recorded is not None:
            return recorded
        tasks, task = self.catalog.tasks, int(self.arrays["task_index"][self._starts[number]])
        return tasks[task] if 0 <= task < len(tasks) else f"task {task}"  # which was reported

    def _success(self, number: int) -> bool:
        found = self.arrays.get(schema.SUCCESS, np.zeros(0, bool))[self._rows(number)]
        return self.all_entries[number].flags.get("success", bool(found.any()))

    def _images(self, entry: Entry, times: NDArray[np.float32]) -> Mapping[str, NDArray[np.uint8]]:
        films: dict[str, Film] = {}
        for name in self._cameras:
            camera = self.catalog.layout.cameras[name]
            if camera.stills:
                place = (entry.row, entry.length)
                films[name] = Stills(entry.file, camera.feature, *place, camera.shape, entry.number)
            else:
                path, start = entry.videos[name]
                shown = start + times.astype(np.float64)
                films[name] = Clip(path, shown, camera.shape, self.spec.rate_hz, entry.number)
        return Images(self.root, films, self._max_bytes)

    def _annotations(self, entry: Entry) -> tuple[Annotation, ...]:
        language = self.catalog.layout.language
        if entry.annotations is not None or not language:
            return entry.annotations or ()
        lengths = {schema.PERSISTENT: 1, schema.EVENTS: entry.length}
        with schema.relative_to(self.root):
            columns = {
                name: read_slice(
                    entry.file, name, entry.row, lengths[name], self._max_bytes
                ).to_pylist()
                for name in language
            }
        return from_columns(columns, self.catalog.fps)
