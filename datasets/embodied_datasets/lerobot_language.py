"""Annotations as LeRobot's two language columns, and back.

What holds until it is superseded stands, with the time from which it holds, on every frame of its
episode in `language_persistent`; what belongs to one moment stands on its frame in
`language_events`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from embodied.structs import Annotation
from embodied_datasets import lerobot_schema as schema

LASTING = ("subtask", "plan", "memory", "motion", "task_aug")
MOMENTARY = ("interjection", "vqa", "trace")
_IN_VIEW = ("vqa", "trace")  # a place in an image means nothing without its camera


def in_order(annotations: Iterable[Annotation]) -> tuple[Annotation, ...]:
    """By step, and at the same step what lasts before what does not, as the columns keep them."""
    return tuple(sorted(annotations, key=lambda each: (each.step, each.style not in LASTING)))


def check(annotations: Iterable[Annotation], length: int, cameras: Collection[str]) -> None:
    """Raises DataError naming the first annotation that LeRobot's columns cannot hold."""
    for each in annotations:
        problem = _problem(each, length, cameras)
        if problem:
            message = f"annotation {each.style!r} {problem}"
            remedy = "correct the annotation"
            schema.fail("E_DATA_ANNOTATION", None, message, remedy, frame=each.step)


def _problem(annotation: Annotation, length: int, cameras: Collection[str]) -> str:
    style, camera = annotation.style, annotation.camera
    if style not in (*LASTING, *MOMENTARY):
        return f"is of no known style; there are {[*LASTING, *MOMENTARY]}"
    if not 0 <= annotation.step < length:
        return f"belongs to step {annotation.step}, which must lie in [0, {length})"
    if style in _IN_VIEW and camera not in cameras:
        return f"needs one of the cameras {sorted(cameras)}, got {camera!r}"
    if style not in _IN_VIEW and camera is not None:
        return f"must not name a camera, got {camera!r}"
    return ""


def to_columns(annotations: Sequence[Annotation], length: int, rate_hz: float) -> dict[str, Any]:
    """The two Arrow columns of an episode of `length` frames."""
    lasting = [each for each in annotations if each.style in LASTING]
    events = sorted((a for a in annotations if a.style in MOMENTARY), key=lambda each: each.step)
    counts = np.bincount([each.step for each in events], minlength=length)
    times = np.array([each.step / rate_hz for each in lasting] * length, np.float32)
    return {
        schema.PERSISTENT: _lists(lasting * length, np.full(length, len(lasting)), times),
        schema.EVENTS: _lists(events, counts, None),
    }


def _lists(rows: Sequence[Annotation], counts: Any, times: Any) -> Any:
    text = pa.string()
    cameras = [row.camera and schema.IMAGES + row.camera for row in rows]
    arrays = {
        "role": pa.array([row.role for row in rows], text),
        "content": pa.array([row.content for row in rows], text),
        "style": pa.array([row.style for row in rows], text),
        **({} if times is None else {"timestamp": pa.array(times, pa.float32())}),
        "camera": pa.array(cameras, text),
        "tool_calls": pa.nulls(len(rows), pa.list_(pa.json_())),
    }
    never_null = ("role", "timestamp")
    fields = [pa.field(n, a.type, nullable=n not in never_null) for n, a in arrays.items()]
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(
        offsets, pa.StructArray.from_arrays(list(arrays.values()), fields=fields)
    )


def from_columns(
    columns: Mapping[str, Sequence[Sequence[Mapping[str, Any]] | None]], rate_hz: float
) -> tuple[Annotation, ...]:
    """The annotations in the rows of one episode.

    Rows without words, which hold only calls of tools, are left out.
    """
    found = []
    lasting = columns.get(schema.PERSISTENT) or [None]
    for row in lasting[0] or ():
        found.append(_annotation(row, round(row["timestamp"] * rate_hz)))
    for step, rows in enumerate(columns.get(schema.EVENTS) or ()):
        found += [_annotation(row, step) for row in rows or ()]
    return in_order(each for each in found if each is not None)


def _annotation(row: Mapping[str, Any], step: int) -> Annotation | None:
    if row.get("content") is None:
        return None
    camera = row.get("camera")
    return Annotation(
        style=row.get("style") or "",
        content=row["content"],
        step=step,
        camera=camera and camera.removeprefix(schema.IMAGES),
        role=row.get("role") or "",
    )
