"""LeRobot v1: Arrow streams as Hugging Face's library saves them, and no list of episodes.

What later versions write down is gathered from the rows: features from the schema, the rate from
the times, the sides of images from the first of them. There are no tasks: an instruction is given
by the caller, or else is the folder's name in words.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from embodied_datasets import lerobot_schema as schema
from embodied_datasets.files import inside
from embodied_datasets.lerobot_columns import feature
from embodied_datasets.lerobot_entries import Catalog, Entry, Options
from embodied_datasets.lerobot_layout import make_layout
from embodied_datasets.lerobot_schema import fail
from embodied_datasets.lerobot_tables import read_arrow
from embodied_datasets.lerobot_video import size_of

FOLDER = "train"
_INDEX_PATH = "meta_data/episode_data_index.safetensors"
_logger = logging.getLogger(__name__)


def read(root: Path, options: Options) -> Catalog:
    """Gathers the metadata from the rows."""
    folder = inside(root, FOLDER)
    try:
        return _read(root, folder, options)
    except pa.ArrowException as error:
        message = f"holds columns of unexpected types ({error})"
        fail("E_DATA_COLUMNS", folder, message, "fetch it again")


def _read(root: Path, folder: Path, options: Options) -> Catalog:
    for path in folder.glob("*.arrow"):
        inside(root, str(path.relative_to(root)))
    table = read_arrow(folder)
    numbers = _numbers(folder, table)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    lengths = np.diff(np.append(starts, len(numbers)))
    kinds = {name: _kind(table.schema.field(name).type) for name in table.column_names}
    videos = {
        name: _videos(root, folder, table, name, starts, lengths, options)
        for name, kind in kinds.items()
        if kind == "video"
    }
    features = _features(folder, table, kinds, videos)
    layout = make_layout(folder, features, options)
    cameras = {name: c.feature for name, c in layout.cameras.items() if not c.stills}
    instruction = options.instruction or root.resolve().name.replace("_", " ")
    entries = [
        Entry(
            number=i,
            first=int(start),
            file=folder,
            row=int(start),
            length=int(length),
            instruction=instruction,
            videos={name: videos[key][i] for name, key in cameras.items()},
        )
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]
    _warn_if_cut(root, len(entries))
    files = sorted(folder.glob("*.arrow"))
    return Catalog(root, _rate(folder, table, starts), layout, (instruction,), entries, files)


def _numbers(folder: Path, table: Any) -> Any:
    """The episode of each row, which must come in order."""
    for name in (schema.TIMESTAMP, "frame_index", "episode_index"):
        if name not in table.column_names or table[name].null_count or not len(table):
            message = f"must have rows with {name!r}"
            fail("E_DATA_COLUMNS", folder, message, "fetch it again", field=name)
    return table["episode_index"].to_numpy()


def _kind(kind: Any) -> str:
    names = {field.name for field in kind} if pa.types.is_struct(kind) else set()
    if "timestamp" in names:
        return "video"
    return "image" if "bytes" in names else "number"


def _features(
    folder: Path, table: Any, kinds: Mapping[str, str], videos: Mapping[str, Any]
) -> dict[str, Any]:
    found = {}
    for name, kind in kinds.items():
        column = table.schema.field(name).type
        if kind == "video":
            found[name] = feature("video", (*_video_size(videos[name]), 3))
        elif kind == "image":
            found[name] = feature("image", (*_image_size(folder, table, name), 3))
        elif pa.types.is_fixed_size_list(column):
            found[name] = feature(_dtype(column.value_type), (column.list_size,))
        else:
            found[name] = feature(_dtype(column), (1,))
    return found


def _dtype(kind: Any) -> str:
    """NumPy's name of an Arrow type; "" for what is no number."""
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return np.dtype(kind.to_pandas_dtype()).name if numeric else ""


def _image_size(folder: Path, table: Any, name: str) -> tuple[int, int]:
    data = table[name][0]["bytes"].as_py()
    try:
        with Image.open(io.BytesIO(data or b""), formats=("PNG", "JPEG")) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError) as error:
        message = f"holds an image that cannot be read ({error})"
        fail("E_DATA_IMAGE", folder, message, "fetch it again", field=name, episode=0, frame=0)


def _video_size(places: list[tuple[Path, float]]) -> tuple[int, int]:
    """The sides of the first video that there is."""
    files = [path for path, _ in places]
    return size_of(next((path for path in files if path.is_file()), files[0]))


def _videos(
    root: Path, folder: Path, table: Any, name: str, starts: Any, lengths: Any, options: Options
) -> list[tuple[Path, float]]:
    """Each episode's video, and the time in it of the episode's first frame."""
    column = table[name].combine_chunks()
    paths, times = pc.struct_field(column, "path"), pc.struct_field(column, "timestamp")
    offsets = pc.subtract(times, table[schema.TIMESTAMP].combine_chunks()).to_numpy(False)
    found = []
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        names = pc.unique(paths.slice(start, length)).to_pylist()
        spread = np.ptp(offsets[start : start + length])
        if len(names) != 1 or not isinstance(names[0], str) or not spread < 1e-3:
            message = "the frames of an episode must follow each other in one video"
            fail("E_DATA_COLUMNS", folder, message, "fetch it again", field=name, episode=number)
        path = names[0]
        if options.video_folder is not None:
            path = "/".join([options.video_folder, *path.split("/")[1:]])
        found.append((inside(root, path), float(offsets[start])))
    return found


def _rate(folder: Path, table: Any, starts: Any) -> float:
    """The rate in Hz that the times show, whole where it nearly is."""
    times = table[schema.TIMESTAMP].to_numpy().astype(np.float64)
    steps = np.diff(times)[np.setdiff1d(np.arange(len(times) - 1), starts[1:] - 1)]
    step = float(np.median(steps)) if len(steps) else 0.0
    if not step > 0:
        message = f"timestamp must grow from frame to frame, found steps of {step} s"
        fail("E_DATA_TIME", folder, message, "fetch it again", field=schema.TIMESTAMP)
    rate = 1 / step
    return float(round(rate)) if abs(rate - round(rate)) < 0.01 * rate else rate


def _warn_if_cut(root: Path, num_episodes: int) -> None:
    """Says so where the index lists more episodes than there are rows for."""
    path = root / _INDEX_PATH
    if not path.is_file():
        return
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(min(size, 2**16))
    try:
        listed = json.loads(text)["from"]["shape"][0]
    except (ValueError, LookupError, TypeError):
        fail("E_DATA_UNREADABLE", path, "is no whole index of episodes", "fetch it again")
    if listed != num_episodes:
        _logger.warning("%s lists %s episodes, rows are of %s", path, listed, num_episodes)
