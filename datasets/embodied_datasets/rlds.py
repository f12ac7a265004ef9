"""The episodes of RLDS records; see `formats.rlds` for their files."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Annotation, Episode, Spec
from embodied_datasets.budget import MAX_BYTES, Budget, damaged
from embodied_datasets.faults import DataError, Fault, Report, refuse
from embodied_datasets.files import fingerprint
from embodied_datasets.flat import check_finite
from embodied_datasets.lazy import Lazy
from embodied_datasets.protobuf import Feature, parse_example
from embodied_datasets.rlds_features import (
    STEPS,
    check_counts,
    count_steps,
    decode_pictures,
    guess_features,
    read_features,
    to_array,
    to_texts,
)
from embodied_datasets.rlds_layout import choose_features, width
from embodied_datasets.tfrecord import Record, find_records, read_record

_MAX_FACT = 4096

Array = NDArray[Any]


class RLDSEpisodes:
    """Episodes of TFRecord files; implements `embodied.structs.Episodes`.

    Opening reads every record once, which verifies all checksums and finds the bounds of the
    actions; afterwards an episode is read when it is asked for, and its images are decoded when
    they are. An episode ends `terminated` if its last step is marked `is_terminal`, else
    `truncated`. Where the instruction changes on the way, each is a "subtask" from its step on.
    Features of no fixed shape, and texts other than the instruction, are left out.

    Args:
        root: for errors.
        files: TFRecord files, in order.
        state: features (N, n) that make up the state, such as "observation/state"; None takes
            that or "observation/proprio", or else all vectors of floats in the observation.
        action: features that make up the action; None takes "action", or all in "action/".
        rate_hz: the control rate in Hz, which no file tells.
        instruction: of episodes that record none; None takes the data set's name.
        action_bounds: (low, high) of the actions; given, opening reads one record alone.
        max_bytes: refuses records and episodes' images that take more.
        report: what is done about numbers that are not finite.

    Raises DataError where the data are not what they say.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        *,
        state: Sequence[str] | None = None,
        action: Sequence[str] | None = None,
        rate_hz: float = 10.0,
        instruction: str | None = None,
        action_bounds: tuple[Sequence[float], Sequence[float]] | None = None,
        max_bytes: int = MAX_BYTES,
        report: Report = refuse,
    ) -> None:
        self.root, self._files, self._max_bytes, self._report = root, files, max_bytes, report
        self._options = [state, action, rate_hz, instruction, action_bounds]
        found = {file: find_records(file) for file in files}
        check_counts(files[0].parent, {file: len(records) for file, records in found.items()})
        self._records = [record for records in found.values() for record in records]
        if not self._records:
            raise damaged(root, "holds no record")
        self._instruction = instruction or files[0].name.partition(".")[0]
        first = self._parse(self._records[0])
        described = files[0].parent / "features.json"
        self._leaves = (
            read_features(described) if described.is_file() else guess_features(first, files[0])
        )
        self._layout = choose_features(root, self._leaves, state, action)
        low, high = action_bounds or self._bounds()
        self.spec = self._make_spec(low, high, rate_hz)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        index = range(len(self))[index]
        record = self._records[index]
        try:
            return self._build(index, record.file, self._parse(record))
        except DataError as error:
            raise DataError(dataclasses.replace(error.fault, episode=index)) from error

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the files, and over the options that choose among what they hold."""
        return fingerprint(self._files, self._options)

    def _parse(self, record: Record) -> dict[str, Feature]:
        try:
            return parse_example(read_record(record, self._max_bytes))
        except (ValueError, UnicodeDecodeError) as error:
            if isinstance(error, DataError):
                raise
            message = f"the record at byte {record.offset} is no tf.train.Example ({error})"
            raise damaged(record.file, message) from error

    def _bounds(self) -> tuple[Array, Array]:
        low, high = np.inf, -np.inf
        for index, record in enumerate(self._records):
            features = self._parse(record)
            steps = count_steps(features, record.file)
            episode = self._numbers(index, record.file, features, steps)
            low = np.minimum(low, episode["action"].min(0))
            high = np.maximum(high, episode["action"].max(0))
        return np.asarray(low), np.asarray(high)

    def _make_spec(self, low: Any, high: Any, rate_hz: float) -> Spec:
        layout, leaves = self._layout, self._leaves
        parts = {name: width(leaves[STEPS + name]) for name in layout.state}
        cameras = {name: leaves[STEPS + path].shape[:2] for name, path in layout.cameras.items()}
        return Spec(
            state_dim=sum(parts.values()),
            action_dim=sum(width(leaves[STEPS + name]) for name in layout.action),
            action_low=tuple(np.asarray(low, np.float32).tolist()),
            action_high=tuple(np.asarray(high, np.float32).tolist()),
            rate_hz=rate_hz,
            cameras={name: (h, w) for name, (h, w) in cameras.items()},
            state_parts=parts if len(parts) > 1 else {},
        )

    def _array(self, file: Path, features: Mapping[str, Feature], name: str, steps: int) -> Array:
        values = features.get(name, [])
        return to_array(name, values, self._leaves[name], steps, file, self._max_bytes)

    def _numbers(
        self, index: int, file: Path, features: Mapping[str, Feature], steps: int
    ) -> dict[str, NDArray[np.float32]]:
        """ "state", "action" and, where it is recorded, "reward"."""
        found = {}
        for role, names in (("state", self._layout.state), ("action", self._layout.action)):
            arrays = [self._array(file, features, STEPS + name, steps) for name in names]
            flat = [array.reshape(steps, -1).astype(np.float32) for array in arrays]
            found[role] = np.concatenate([np.zeros((steps, 0), np.float32), *flat], 1)
        if f"{STEPS}reward" in self._leaves:
            reward = self._array(file, features, f"{STEPS}reward", steps)
            found["reward"] = reward.reshape(steps).astype(np.float32)

        def located(fault: Fault) -> None:
            self._report(dataclasses.replace(fault, episode=index))

        check_finite(file, found, np.zeros(1, np.int64), located)
        return found

    def _build(self, index: int, file: Path, features: Mapping[str, Feature]) -> Episode:
        steps = count_steps(features, file)
        instruction, subtasks = self._language(file, features, steps)
        terminal = self._ending(index, file, features, steps)
        numbers: dict[str, Any] = {**self._numbers(index, file, features, steps)}
        return Episode(
            **numbers,
            instruction=instruction,
            images=Lazy(self._images(file, features, steps)),
            terminated=terminal is True,
            truncated=terminal is False,
            info=self._info(file, features),
            extras={
                name: self._array(file, features, STEPS + name, steps)
                for name in self._layout.extras
            },
            annotations=subtasks,
        )

    def _ending(
        self, index: int, file: Path, features: Mapping[str, Feature], steps: int
    ) -> bool | None:
        """Whether the last step is terminal; None if the set does not say."""
        for name, place in (("is_first", 0), ("is_last", steps - 1)):
            if STEPS + name in self._leaves:
                marks = np.flatnonzero(self._array(file, features, STEPS + name, steps))
                if marks.tolist() not in ([place], []):
                    message = f"marks the steps {marks[:4].tolist()}, expected {place} alone"
                    raise damaged(file, message, field=STEPS + name, episode=index)
        name = f"{STEPS}is_terminal"
        if name not in self._leaves:
            return None
        return bool(self._array(file, features, name, steps)[-1])

    def _language(
        self, file: Path, features: Mapping[str, Feature], steps: int
    ) -> tuple[str, tuple[Annotation, ...]]:
        name = self._layout.text
        if name is None:
            return self._instruction, ()
        texts = to_texts(STEPS + name, features.get(STEPS + name, []), steps, file)
        changes = [i for i in range(steps) if i == 0 or texts[i] != texts[i - 1]]
        subtasks = [Annotation("subtask", texts[i], i) for i in changes if texts[i]]
        return texts[0] or self._instruction, tuple(subtasks) if len(changes) > 1 else ()

    def _images(
        self, file: Path, features: Mapping[str, Feature], steps: int
    ) -> dict[str, Callable[[], Array]]:
        makers: dict[str, Callable[[], Array]] = {}
        for camera, path in self._layout.cameras.items():
            height, width, _ = self._leaves[STEPS + path].shape
            pictures = features.get(STEPS + path, [])
            if not isinstance(pictures, list) or len(pictures) != steps:
                message = f"holds {len(pictures)} pictures, expected {steps}"
                raise damaged(file, message, field=path)
            Budget(self._max_bytes, file).take(steps * height * width * 3, path)
            makers[camera] = functools.partial(
                decode_pictures, pictures, (height, width), file, path
            )
        return makers

    def _info(self, file: Path, features: Mapping[str, Feature]) -> dict[str, Any]:
        info: dict[str, Any] = {}
        for name, leaf in self._leaves.items():
            values = features.get(name, [])
            if name.startswith(STEPS) or not len(values) or leaf.kind == "image":
                continue
            key = name.removeprefix("episode_metadata/")
            if leaf.kind == "text":
                info[key] = to_texts(name, values, 1, file)[0]
            elif len(values) <= _MAX_FACT:
                info[key] = self._array(file, features, name, 1)[0].tolist()
        return info
