"""Features as `info.json` describes them, and their values as columns of a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embodied_datasets import lerobot_schema as schema

Feature = dict[str, Any]

NUMBERS = frozenset(
    ["bool", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
"""The dtypes of numbers that a feature may have."""


def feature(dtype: str, shape: Iterable[int], names: list[str] | None = None) -> Feature:
    return {"dtype": dtype, "shape": list(shape), "names": names}


def frame_features(
    state: Mapping[str, int], action_dim: int, extras: Mapping[str, Feature], columns: Iterable[str]
) -> dict[str, Feature]:
    """The features of the named columns of a data file, in LeRobot's order.

    Args:
        state: feature -> size of each part of the state.
    """
    known = {
        **{name: feature("float32", (size,)) for name, size in state.items()},
        schema.ACTION: feature("float32", (action_dim,)),
        schema.EXPERT_ACTION: feature("float32", (action_dim,)),
        schema.REWARD: feature("float32", (1,)),
        schema.DONE: feature("bool", (1,)),
        schema.SUCCESS: feature("bool", (1,)),
        **extras,
        schema.TIMESTAMP: feature("float32", (1,)),
        **{name: feature("int64", (1,)) for name in schema.COUNTERS},
        schema.PERSISTENT: feature("language", (1,)),
        schema.EVENTS: feature("language", (1,)),
    }
    return {name: each for name, each in known.items() if name in set(columns)}


def extra_feature(values: NDArray[Any]) -> Feature:
    """The feature of an array (L, ...) of numbers; LeRobot keeps (L, 1) and (L,) alike."""
    found = feature(values.dtype.name, values.shape[1:] or (1,))
    return found | ({"info": {"is_vector": True}} if values.shape[1:] == (1,) else {})


def is_vector(feature: Feature) -> bool:
    """Whether our writer marked an extra of shape [1] as an (L, 1) array."""
    info = feature.get("info")
    return isinstance(info, dict) and bool(info.get("is_vector")) and feature["shape"] == [1]


def state_features(state_dim: int, parts: Mapping[str, int]) -> dict[str, int]:
    """Feature -> size of those that a state is written as.

    A state that was joined from LeRobot's own features is parted again; another stays whole, since
    policies look for `observation.state`.
    """
    if "state" not in parts:
        return {schema.STATE: state_dim}
    return {schema.OBSERVATION + name: size for name, size in parts.items()}


def video_feature(shape: tuple[int, int], fps: float, info: Mapping[str, Any]) -> Feature:
    """The feature of one camera of shape (h, w); `info` describes the encoding."""
    height, width = shape
    facts = {"video.height": height, "video.width": width, "video.channels": 3, "video.fps": fps}
    found = feature("video", (height, width, 3), ["height", "width", "channels"])
    return found | {"info": facts | {"has_audio": False, "is_depth_map": False} | dict(info)}


def to_column(values: NDArray[Any], feature: Feature) -> Any:
    """An (L, ...) array as an Arrow column: a scalar where it holds one number a row, a fixed-size
    list of n numbers, or lists of lists of more dimensions."""
    item = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
    column = pa.array(np.ascontiguousarray(values).reshape(-1), type=item)
    shape = feature["shape"]
    if shape == [1]:
        return column
    if len(shape) == 1:
        kind = pa.list_(pa.field("element", item), shape[0])
        return pa.FixedSizeListArray.from_arrays(column, type=kind)
    for size in reversed(shape):
        offsets = np.arange(0, len(column) + 1, size).astype(np.int32)
        kind = pa.list_(pa.field("element", column.type))
        column = pa.ListArray.from_arrays(pa.array(offsets), column, type=kind)
    return column


def from_column(column: Any, feature: Feature) -> NDArray[Any]:
    """A column of a table as an array (L, ...), or (L,) where the shape is [1]; ValueError if it
    misfits."""
    shape = feature["shape"]
    size = int(np.prod(shape))
    values = column.combine_chunks()
    rows, gaps = len(values), 0
    while pa.types.is_nested(values.type):
        gaps += values.null_count
        values = getattr(values, "storage", values).flatten()
    gaps += values.null_count
    if len(values) != rows * size or gaps:
        raise ValueError(
            f"holds {len(values) - gaps} values in {rows} rows, "
            f"but info.json gives it shape {shape}"
        )
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    array = array.astype(feature["dtype"], copy=False)
    return array if shape == [1] else array.reshape(rows, *shape)


def huggingface_metadata(features: Mapping[str, Feature]) -> dict[bytes, bytes]:
    """The schema metadata by which Hugging Face's library knows the columns again."""
    columns = {name: _huggingface(name, feature) for name, feature in features.items()}
    return {b"huggingface": json.dumps({"info": {"features": columns}}).encode()}


def _huggingface(name: str, feature: Feature) -> Any:
    shape, dtype = feature["shape"], feature["dtype"]
    if dtype == "language":
        return {"feature": _language(name), "_type": "List"}
    if len(shape) > 1:
        return {"shape": shape, "dtype": dtype, "_type": f"Array{len(shape)}D"}
    value = {"dtype": dtype, "_type": "Value"}
    return value if shape == [1] else {"feature": value, "length": shape[0], "_type": "List"}


def _language(name: str) -> Any:
    text = {"dtype": "string", "_type": "Value"}
    time = {"dtype": "float32", "_type": "Value"}
    calls = {"tool_calls": {"feature": {"_type": "Json"}, "_type": "List"}}
    timed = {"timestamp": time} if name == schema.PERSISTENT else {}
    return {n: text for n in ("role", "content", "style")} | timed | {"camera": text} | calls
