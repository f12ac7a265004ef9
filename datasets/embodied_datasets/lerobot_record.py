"""Writing one finished episode, so that it exists whole or not at all.

Each episode becomes one Parquet file in `incoming/`, its videos before it; the file's rename to
its final name is what makes the episode exist.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets import lerobot_language
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.files import write_atomically
from embodied_datasets.lerobot_columns import (
    NUMBERS,
    Feature,
    extra_feature,
    frame_features,
    state_features,
    to_column,
)
from embodied_datasets.lerobot_finals import encode_final
from embodied_datasets.lerobot_stats import histogram
from embodied_datasets.lerobot_video import encode

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_TAKEN = {
    schema.ACTION,
    schema.EXPERT_ACTION,
    schema.REWARD,
    schema.DONE,
    schema.SUCCESS,
    schema.TERMINATED,
    schema.TRUNCATED,
    schema.TIMESTAMP,
    schema.PERSISTENT,
    schema.EVENTS,
    *schema.COUNTERS,
}


def record(incoming: Path, key: str, episode: Episode, *, spec: Spec) -> None:
    """Writes one episode into the `incoming` folder of a writer that the caller, or its parent
    process, keeps open.

    The last step of a successful episode gets `next.success`; `info` must be JSON-able. Raises
    DataError for an episode that does not fit the spec or that LeRobot's layout cannot hold.
    """
    episode = dataclasses.replace(episode, images=dict(episode.images))  # decodes lazy ones once
    _check(key, episode, spec)
    facts = _facts(key, episode)
    for camera, frames in episode.images.items():
        _write_video(incoming / camera / f"{key}.mp4", frames, spec.rate_hz)
    columns = _columns(episode, spec)
    state = state_features(spec.state_dim, spec.state_parts)
    features = frame_features(state, spec.action_dim, facts["extras"], columns)
    arrays = [to_column(columns[name], feature) for name, feature in features.items()]
    table = pa.Table.from_arrays(arrays, names=list(features))
    metadata = {schema.METADATA_KEY: json.dumps(facts).encode()}
    if episode.final:
        metadata[schema.FINAL_KEY] = encode_final(episode.final).encode()
    table = table.replace_schema_metadata(metadata)
    write_atomically(incoming / f"{key}.parquet", lambda path: pq.write_table(table, path))


def columns_of(episode: Episode) -> tuple[list[str], dict[str, Feature]]:
    """The columns that an episode has beside its state, and the features of its extras: the same
    for all episodes of a data set."""
    optional = {schema.EXPERT_ACTION: episode.expert_action, schema.REWARD: episode.reward}
    fixed = [schema.ACTION, schema.DONE, schema.SUCCESS, schema.TIMESTAMP, "frame_index"]
    given = [name for name, values in optional.items() if values is not None]
    extras = {name: extra_feature(np.asarray(x)) for name, x in episode.extras.items()}
    return [*fixed, *given, *extras], extras


def _write_video(path: Path, frames: NDArray[np.uint8], rate_hz: float) -> None:
    write_atomically(path, lambda temporary: encode(temporary, frames, rate_hz))


def _columns(episode: Episode, spec: Spec) -> dict[str, NDArray[Any]]:
    steps = np.arange(len(episode))
    last = steps == len(episode) - 1
    sizes = state_features(spec.state_dim, spec.state_parts)
    ends = np.cumsum(list(sizes.values()))
    parts = dict(zip(sizes, np.split(episode.state, ends[:-1], axis=1), strict=True))
    columns: dict[str, NDArray[Any] | None] = {
        **parts,
        schema.ACTION: episode.action,
        schema.EXPERT_ACTION: episode.expert_action,
        schema.REWARD: episode.reward,
        schema.DONE: last,
        schema.SUCCESS: last & episode.success,
        **{name: np.asarray(values) for name, values in episode.extras.items()},
        schema.TIMESTAMP: steps / spec.rate_hz,
        "frame_index": steps,
    }
    return {name: values for name, values in columns.items() if values is not None}


def _facts(key: str, episode: Episode) -> dict[str, Any]:
    columns, extras = columns_of(episode)
    facts = {
        "key": key,
        "instruction": episode.instruction,
        "success": bool(episode.success),
        "terminated": bool(episode.terminated),
        "truncated": bool(episode.truncated),
        "info": dict(episode.info),
        "columns": columns,
        "extras": extras,
        "annotations": [dataclasses.asdict(each) for each in episode.annotations],
        "final": bool(episode.final),
        "histograms": {name: histogram(f).tolist() for name, f in episode.images.items()},
    }
    try:
        json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        message = f"info of episode {key!r} must be JSON-able ({error})"
        _refuse(message, "turn its values into plain finite numbers, strings, lists and dicts")
    return facts


def _refuse(message: str, remedy: str) -> NoReturn:
    schema.fail("E_DATA_EPISODE", None, message, remedy)


def _check(key: str, episode: Episode, spec: Spec) -> None:
    for name in (key, *episode.images, *episode.extras):
        if not NAME.fullmatch(name):
            _refuse(f"{name!r} cannot name a file", "use letters, digits, '_', '-', '.'")
    if not len(episode):
        _refuse(f"episode {key!r} has no steps", "an episode needs at least one")
    if episode.images.keys() != spec.cameras.keys():
        message = (
            f"images of episode {key!r} must be of the spec's cameras {sorted(spec.cameras)}, "
            f"got {sorted(episode.images)}"
        )
        _refuse(message, "record them all")
    for field, values, shape in _wanted(episode, spec):
        _check_array(f"{field} of episode {key!r}", np.asarray(values), shape)
    state = state_features(spec.state_dim, spec.state_parts)
    for name, values in episode.extras.items():
        _check_extra(f"extras[{name!r}] of episode {key!r}", name, values, {*state, *_TAKEN})
    lerobot_language.check(episode.annotations, len(episode), spec.cameras)


def _wanted(episode: Episode, spec: Spec) -> list[tuple[str, Any, tuple[int, ...]]]:
    """Each array of an episode with its name and the shape that it must have."""
    length = len(episode)
    wanted: list[tuple[str, Any, tuple[int, ...]]] = [
        ("state", episode.state, (length, spec.state_dim)),
        ("action", episode.action, (length, spec.action_dim)),
    ]
    if episode.expert_action is not None:
        wanted.append(("expert_action", episode.expert_action, (length, spec.action_dim)))
    if episode.reward is not None:
        wanted.append(("reward", episode.reward, (length,)))
    for camera, frames in episode.images.items():
        wanted.append((f"images[{camera!r}]", frames, (length, *spec.cameras[camera], 3)))
        if frames.dtype != np.uint8:
            _refuse(f"images[{camera!r}] must be uint8, got {frames.dtype}", "convert them")
    for name, values in episode.extras.items():
        wanted.append((f"extras[{name!r}]", values, (length, *np.shape(values)[1:])))
    shapes: dict[str, tuple[int, ...]] = {"state": (spec.state_dim,)}
    shapes |= {f"images.{name}": (*shape, 3) for name, shape in spec.cameras.items()}
    shapes |= {name: np.shape(values)[1:] for name, values in episode.extras.items()}
    for name, values in episode.final.items():
        if name not in shapes:
            _refuse(f"final[{name!r}] is not among {sorted(shapes)}", "name it as it was recorded")
        wanted.append((f"final[{name!r}]", values, shapes[name]))
    return wanted


def _check_array(name: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    if values.dtype.name not in NUMBERS:
        _refuse(f"{name} must hold numbers, got {values.dtype}", "leave it out or convert it")
    if values.shape != shape:
        message = f"{name} must have shape {shape} as the spec says, got {values.shape}"
        _refuse(message, "record it as the spec says")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        _refuse(
            f"{name} is not finite at frame {next(iter(bad[0]), 0)}", "drop or repair the episode"
        )


def _check_extra(who: str, name: str, values: NDArray[Any], taken: set[str]) -> None:
    if name in taken or name.startswith(schema.IMAGES):
        _refuse(f"{who} has a name that LeRobot uses itself", "give it another")
    if values.ndim > 6 or 0 in values.shape:
        message = f"{who} has shape {values.shape}, but a row holds one to five dimensions"
        _refuse(message, "reshape it")
