"""What Minari's storages have in common: columns of an episode, and the files beside them."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied_datasets import hdf5_facts as facts_
from embodied_datasets.faults import DataError, Fault
from embodied_datasets.minari_spaces import Leaf

_MAX_JSON = 16 * 2**20

Array = NDArray[Any]


class Columns(ABC):
    """What is recorded of one episode. Columns are named by group and path in the space; Arrow
    pads all of them to the number of observations."""

    @abstractmethod
    def array(self, group: str, leaf: Leaf) -> Array:
        """(rows, *shape) of a leaf of numbers."""

    @abstractmethod
    def frames(self, group: str, leaf: Leaf, start: int, stop: int) -> Array:
        """(stop - start, *shape) uint8 of an image, decoded where it is JPEG."""

    @abstractmethod
    def scalars(self, name: str) -> Array:
        """(rows,) of rewards, terminations or truncations."""

    @abstractmethod
    def text(self, group: str, leaf: Leaf) -> str | None:
        """The first of a leaf of texts."""

    @abstractmethod
    def infos(self) -> dict[str, Array]:
        """All numbers of infos, by names joined with slashes."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What our writer added; empty where another wrote it."""

    @abstractmethod
    def seed(self) -> int | None:
        """The seed of its reset."""

    @abstractmethod
    def error(self, code: str, message: str, field: str) -> DataError:
        """An error about this episode; raise it."""

    def column(self, name: str, rows: int) -> Array:
        """The first `rows` of rewards, terminations or truncations; DataError if there are less."""
        values = self.scalars(name).reshape(-1)
        if len(values) < rows:
            raise self.error("E_DATA_SHAPE", f"has {len(values)} rows, expected {rows}", name)
        return values[:rows]


def decode(data: bytes, leaf: Leaf, columns: Columns) -> Array:
    """The pixels in a JPEG file; DataError if they are not what the space says."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            size, mode = image.size, image.mode
            wanted = (leaf.shape[1], leaf.shape[0])
            if size != wanted or mode != ("RGB" if leaf.is_camera else "L"):
                message = f"holds a {mode} image of {size} pixels, expected {wanted}"
                raise columns.error("E_DATA_SHAPE", message, leaf.name)
            return np.asarray(image).reshape(leaf.shape)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        message = f"holds an image that cannot be decoded ({error})"
        raise columns.error("E_DATA_UNREADABLE", message, leaf.name) from error


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused if a link leads out of the root."""
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        message, remedy = "leads out of the data set's folder", "copy the file into the folder"
        raise DataError(Fault("E_DATA_PATH", message, remedy, file=Path(relative)))
    return path


def read_json(path: Path, name: Path) -> dict[str, Any]:
    """The JSON object in a file that errors call `name`."""

    def wrong(message: str) -> DataError:
        remedy = "fetch or write the file again"
        return DataError(Fault("E_DATA_UNREADABLE", message, remedy, file=name))

    if not path.is_file() or path.stat().st_size > _MAX_JSON:
        raise wrong(f"is missing or larger than {_MAX_JSON} bytes")
    return facts_.parse(path.read_text(encoding="utf-8", errors="replace"), wrong)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON object."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
