"""What the features of an RLDS set mean: shapes and dtypes from `features.json`, or guessed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embodied_datasets.budget import Budget, array_bytes, check_numbers, damaged
from embodied_datasets.chunk_codecs import unpack
from embodied_datasets.faults import DataError, Fault
from embodied_datasets.pictures import decode_picture, is_picture, picture_size
from embodied_datasets.protobuf import Feature

STEPS = "steps/"
_MAX_JSON = 2**22
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_ENCODINGS = ("none", "bytes", "zlib")


@dataclass(frozen=True)
class Leaf:
    """One feature.

    Attributes:
        kind: "number", "image" (PNG or JPEG), or "text".
        shape: of one step's value; of an image (h, w, channels).
        encoding: of numbers, "none" where they are listed one by one.
    """

    kind: Literal["number", "image", "text"]
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] = np.dtype(np.float32)  # noqa: RUF009  (immutable)
    encoding: str = "none"


def read_features(path: Path) -> dict[str, Leaf]:
    """The features by their names in the records, such as "steps/observation/state".

    Those that no step of ours can hold (ragged sequences, unknown kinds) are left out.
    """
    try:
        return dict(_walk(path, _read_json(path), ""))
    except _MALFORMED as error:
        if isinstance(error, DataError):
            raise
        raise damaged(path, f"is no description of features ({error!r})") from error


def check_counts(folder: Path, counts: Mapping[Path, int]) -> None:
    """Raises DataError unless files hold as many records as `dataset_info.json` beside them says.

    Nothing is said of files that it does not name, or without it.
    """
    path = folder / "dataset_info.json"
    if not path.is_file():
        return
    try:
        wanted = {
            f"-{split['name']}.tfrecord-{shard:05d}-of-{len(split['shardLengths']):05d}": int(count)
            for split in _read_json(path)["splits"]
            for shard, count in enumerate(split["shardLengths"])
        }
    except _MALFORMED as error:
        if isinstance(error, DataError):
            raise
        raise damaged(path, f"does not say how long its shards are ({error!r})") from error
    for file, count in counts.items():
        for ending, said in wanted.items():
            if file.name.endswith(ending) and count != said:
                message = f"holds {count} records, but dataset_info.json says {said}"
                raise damaged(file, message)


def _read_json(path: Path) -> Any:
    if path.stat().st_size > _MAX_JSON:
        raise damaged(path, f"takes more than {_MAX_JSON} bytes")
    return json.loads(path.read_text(encoding="utf-8"))


def _walk(path: Path, node: Mapping[str, Any], name: str) -> Iterator[tuple[str, Leaf]]:
    if "featuresDict" in node:
        for key, child in node["featuresDict"]["features"].items():
            yield from _walk(path, child, f"{name}/{key}" if name else key)
    elif "sequence" in node and name == STEPS.rstrip("/"):
        yield from _walk(path, node["sequence"]["feature"], name)
    elif "text" in node:
        yield name, Leaf("text")
    elif "image" in node or "tensor" in node:
        kind = "image" if "image" in node else "number"
        shape = _shape(node[kind if kind == "image" else "tensor"])
        dtype = node[kind if kind == "image" else "tensor"].get("dtype", "uint8")
        encoding = str(node.get("tensor", {}).get("encoding") or "none").lower()
        if dtype == "string" and not shape:
            yield name, Leaf("text")
        elif shape is not None and encoding in _ENCODINGS and dtype in _DTYPES:
            check_numbers(path, name, shape, np.dtype(dtype))
            yield name, Leaf(kind, shape, np.dtype(dtype), encoding)  # type: ignore[arg-type]


_DTYPES = {"bool", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def _shape(node: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape; None where a size is not fixed."""
    sizes = tuple(int(size) for size in node.get("shape", {}).get("dimensions", ()))
    return None if any(size < 0 for size in sizes) else sizes


def guess_features(features: Mapping[str, Feature], file: Path) -> dict[str, Leaf]:
    """Without `features.json`: what the first episode's values look like.

    Numbers that come in multiples of the number of steps are vectors; bytes are pictures if they
    begin like one, else text.
    """
    length = count_steps(features, file)
    leaves: dict[str, Leaf] = {}
    for name, values in features.items():
        steps = length if name.startswith(STEPS) else 1
        if isinstance(values, list):
            if len(values) == steps and is_picture(values[0]):
                sides = _picture_size(values[0], file, name)
                leaves[name] = Leaf("image", (*sides, 3), np.dtype(np.uint8))
            elif len(values) == steps:
                leaves[name] = Leaf("text")
        elif len(values) and not len(values) % steps:
            size = len(values) // steps
            leaves[name] = Leaf("number", () if size == 1 else (size,), values.dtype)
    return leaves


def decode_pictures(
    pictures: Sequence[bytes], size: tuple[int, int], file: Path, field: str
) -> NDArray[np.uint8]:
    """(L, h, w, 3) of pictures of the size (h, w); DataError if one is not what it should be."""
    found = np.empty((len(pictures), *size, 3), np.uint8)
    for frame, data in enumerate(pictures):
        try:
            found[frame] = decode_picture(data, size)
        except ValueError as error:
            message = f"holds an image that cannot be read ({error})"
            place: dict[str, Any] = {"file": file, "field": field, "frame": frame}
            raise DataError(Fault("E_DATA_IMAGE", message, "fetch it again", **place)) from error
    return found


def _picture_size(data: bytes, file: Path, field: str) -> tuple[int, int]:
    try:
        return picture_size(data)
    except ValueError as error:
        message = f"holds an image that cannot be read ({error})"
        raise damaged(file, message, field=field) from error


def count_steps(features: Mapping[str, Feature], file: Path) -> int:
    """The number of steps of an episode."""
    for name in ("is_first", "is_last", "is_terminal"):
        values = features.get(STEPS + name, [])
        if len(values):
            return len(values)
    raise damaged(file, "has an episode without steps/is_first or steps/is_last", field="steps")


def to_array(
    name: str, values: Feature, leaf: Leaf, steps: int, file: Path, max_bytes: int
) -> NDArray[Any]:
    """(steps, ...) numbers of a feature; DataError if there are more or fewer."""
    shape = (steps, *leaf.shape)
    Budget(max_bytes, file).take(array_bytes(shape, leaf.dtype), name)
    if isinstance(values, list) and leaf.encoding != "none":
        size = array_bytes(leaf.shape, leaf.dtype)
        codec = "" if leaf.encoding == "bytes" else "zlib"
        joined = b"".join(unpack(codec, each, size, file, name) for each in values)
        values = np.frombuffer(joined, leaf.dtype)
    if isinstance(values, list) or values.size != np.prod(shape, dtype=np.int64):
        message = f"holds {len(values)} values, expected {shape}"
        raise damaged(file, message, field=name)
    return values.astype(leaf.dtype).reshape(shape)


def to_texts(name: str, values: Feature, count: int, file: Path) -> list[str]:
    """The texts of a feature, one for each step."""
    if not isinstance(values, list) or len(values) != count:
        raise damaged(file, f"holds {len(values)} texts, expected {count}", field=name)
    return [text.decode("utf-8", errors="replace") for text in values]
