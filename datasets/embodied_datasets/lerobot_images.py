"""The images of one episode, decoded whenever they are looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embodied_datasets.budget import check_budget
from embodied_datasets.faults import DataError
from embodied_datasets.lerobot_schema import fail, relative_to
from embodied_datasets.lerobot_tables import read_slice
from embodied_datasets.lerobot_video import decode
from embodied_datasets.pictures import decode_picture


class Film(Protocol):
    """What can decode the (L, h, w, 3) images of one camera."""

    def read(self, max_bytes: int) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Clip:
    """Images in a video.

    Attributes:
        times: (L,) in s, ascending, in the video.
    """

    path: Path
    times: NDArray[np.float64]
    shape: tuple[int, int]
    fps: float
    episode: int

    def read(self, max_bytes: int) -> NDArray[np.uint8]:
        height, width = self.shape
        try:
            check_budget(self.path, len(self.times) * height * width * 3, max_bytes)
            return decode(self.path, self.times, self.shape, self.fps)
        except DataError as error:
            raise DataError(dataclasses.replace(error.fault, episode=self.episode)) from error


@dataclass(frozen=True)
class Stills:
    """PNG or JPEG images in the rows [start, start + length) of a file."""

    path: Path
    column: str
    start: int
    length: int
    shape: tuple[int, int]
    episode: int

    def read(self, max_bytes: int) -> NDArray[np.uint8]:
        height, width = self.shape
        place: dict[str, Any] = {"field": self.column, "episode": self.episode}
        check_budget(self.path, self.length * height * width * 3, max_bytes, **place)
        column = read_slice(self.path, self.column, self.start, self.length, max_bytes)
        if not pa.types.is_struct(column.type) or column.type.get_field_index("bytes") < 0:
            message = f"must hold images as structs with their bytes, got {column.type}"
            fail("E_DATA_COLUMNS", self.path, message, "fetch it again", **place)
        frames = np.empty((self.length, height, width, 3), np.uint8)
        for i, row in enumerate(column):
            data = row["bytes"].as_py() if row.is_valid else None
            try:
                if data is None:
                    raise ValueError("no bytes are embedded; embed the files that the paths name")
                frames[i] = decode_picture(data, self.shape)
            except ValueError as error:
                message = f"holds an image that cannot be read ({error})"
                fail("E_DATA_IMAGE", self.path, message, "fetch it again", **place, frame=i)
        return frames


class Images(Mapping[str, NDArray[np.uint8]]):
    """One episode's cameras; every look at one decodes its images."""

    def __init__(self, root: Path, films: Mapping[str, Film], max_bytes: int) -> None:
        self._root = root
        self._films = films
        self._max_bytes = max_bytes

    def __getitem__(self, camera: str) -> NDArray[np.uint8]:
        with relative_to(self._root):
            return self._films[camera].read(self._max_bytes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._films)

    def __len__(self) -> int:
        return len(self._films)
