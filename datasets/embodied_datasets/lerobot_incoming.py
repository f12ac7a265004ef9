"""Episodes as a recorder leaves them, one file each, until its set is finalised."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embodied.structs import Annotation
from embodied_datasets import lerobot_info as header
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.files import read_json
from embodied_datasets.lerobot_columns import frame_features, state_features
from embodied_datasets.lerobot_entries import Camera, Catalog, Entry, Options
from embodied_datasets.lerobot_language import in_order
from embodied_datasets.lerobot_layout import make_layout
from embodied_datasets.lerobot_tables import open_table

FLAGS = ("success", "terminated", "truncated")


def read_facts(path: Path) -> tuple[dict[str, Any], int]:
    """What a recorder wrote beside an episode's rows, and their number."""
    parquet = open_table(path)
    try:
        facts = json.loads(parquet.schema_arrow.metadata[schema.METADATA_KEY])
    except (TypeError, KeyError, ValueError) as error:
        message = f"was not written by this recorder ({error!r})"
        schema.fail("E_DATA_UNREADABLE", path, message, "remove it or record it again")
    return facts, parquet.metadata.num_rows


def annotations_of(facts: Mapping[str, Any]) -> tuple[Annotation, ...]:
    """The annotations among an episode's facts."""
    return in_order(Annotation(**each) for each in facts["annotations"])


def read_incoming(root: Path, options: Options) -> Catalog:
    """Reads the metadata of what is recorded so far, by key."""
    recording_path = root / schema.RECORDING_PATH
    recording = read_json(recording_path)
    cameras = {name: (h, w) for name, (h, w) in recording["cameras"].items()}
    entries: list[Entry] = []
    columns: list[str] = []
    extras: dict[str, Any] = {}
    frames = 0
    for path in schema.recorded(root / schema.INCOMING):
        facts, length = read_facts(path)
        columns, extras = columns or facts["columns"], extras or facts["extras"]
        entries.append(_entry(path, facts, length, cameras, (len(entries), frames)))
        frames += length
    if not entries:
        message = f"{root} holds no episode"
        schema.fail("E_DATA_EMPTY", None, message, "record or fetch one")
    parts = recording["state_parts"]
    state = state_features(recording["state_dim"], parts)
    features = frame_features(state, recording["action_dim"], extras, [*state, *columns])
    layout = make_layout(recording_path, features, options, parts=parts)
    films = {name: Camera(schema.IMAGES + name, shape) for name, shape in cameras.items()}
    layout = dataclasses.replace(layout, cameras=films)
    bounds = (tuple(recording["action_low"]), tuple(recording["action_high"]))
    profile = header.render_profile(recording_path, recording)
    rate = recording["rate_hz"]
    known = parts if options.state is None else None
    return Catalog(root, rate, layout, (), entries, [recording_path], bounds, profile, known)


def _entry(
    path: Path,
    facts: Mapping[str, Any],
    length: int,
    cameras: Mapping[str, Any],
    place: tuple[int, int],
) -> Entry:
    number, first = place
    return Entry(
        number=number,
        first=first,
        file=path,
        row=0,
        length=length,
        instruction=facts["instruction"],
        key=facts["key"],
        flags={name: facts[name] for name in FLAGS},
        info=json.dumps(facts["info"]),
        videos={name: (path.parent / name / f"{path.stem}.mp4", 0.0) for name in cameras},
        annotations=annotations_of(facts),
        final=(path, None) if facts["final"] else None,
    )
