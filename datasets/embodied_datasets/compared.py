"""Preferences beside a data set: a file for each set, by the content of what was compared.

As with other labels, nothing of the data is changed, and the order of episodes does not matter. A
file is written whole or not at all, so that labelling may be interrupted at any time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from embodied.data.preferences import Preferences, Segments
from embodied.structs import Episodes
from embodied_datasets.budget import damaged
from embodied_datasets.faults import Fault, refuse
from embodied_datasets.files import parse_json, write_atomically
from embodied_datasets.labels import digest

VERSION = 1
_SUFFIX = ".safetensors"
_COLUMNS = {
    "first_episode": np.int64,
    "first_start": np.int64,
    "second_episode": np.int64,
    "second_start": np.int64,
    "second_better": np.float32,
    "labeller": np.int64,
}


def folder(path: Path) -> Path:
    """Where the preferences of a data set lie: in its folder, or beside its file."""
    return path / "preferences" if path.is_dir() else path.with_name(f"{path.name}.preferences")


def sets(path: Path) -> list[str]:
    """The names of the sets of preferences beside a data set, sorted."""
    return sorted(file.stem for file in folder(path).glob(f"*{_SUFFIX}"))


def save_preferences(path: Path, name: str, preferences: Preferences, episodes: Episodes) -> None:
    """Writes a set of preferences; one of that name is replaced.

    Raises ValueError where a segment does not lie within its episode.
    """
    if not name.isidentifier():
        raise ValueError(f"a set's name must be letters, digits and '_', got {name!r}")
    preferences.check([len(episode) for episode in episodes])
    used = np.unique(np.concatenate([preferences.first.episode, preferences.second.episode]))
    names = sorted(set(preferences.labeller))
    facts = {
        "version": VERSION,
        "length": preferences.first.length,
        "labellers": names,
        "episodes": [digest(episodes[int(i)]) for i in used],
    }
    columns = {
        "first_episode": np.searchsorted(used, preferences.first.episode),
        "first_start": preferences.first.start,
        "second_episode": np.searchsorted(used, preferences.second.episode),
        "second_start": preferences.second.start,
        "second_better": preferences.second_better,
        "labeller": np.array([names.index(each) for each in preferences.labeller], np.int64),
    }
    arrays = {key: np.ascontiguousarray(x, _COLUMNS[key]) for key, x in columns.items()}
    content = safetensors.numpy.save(arrays, {"facts": json.dumps(facts)})
    file = folder(path) / f"{name}{_SUFFIX}"
    write_atomically(file, lambda temporary: temporary.write_bytes(content))


def load_preferences(path: str | Path, name: str, episodes: Episodes) -> Preferences:
    """The set of that name, for the data set as it is now, in any order and with more episodes.

    Raises ValueError where there is no such set, DataError where it is damaged or of episodes that
    are not among these.
    """
    path = Path(path)
    if name not in sets(path):
        raise ValueError(f"{path} has no preferences {name!r}; it has {sets(path)}")
    file = folder(path) / f"{name}{_SUFFIX}"
    facts, columns = _read(file)
    place = _places(file, facts["episodes"], episodes)
    names = facts["labellers"]
    for key, size in (("first_episode", place), ("second_episode", place), ("labeller", names)):
        if ((columns[key] < 0) | (columns[key] >= len(size))).any():
            raise damaged(file, f"must lie in [0, {len(size)})", field=key)
    first, second = (
        Segments(place[columns[f"{side}_episode"]], columns[f"{side}_start"], facts["length"])
        for side in ("first", "second")
    )
    labeller = tuple(names[i] for i in columns["labeller"].tolist())
    try:
        found = Preferences(first, second, columns["second_better"], labeller)
        found.check([len(episode) for episode in episodes])
    except ValueError as error:
        raise damaged(file, f"does not fit together ({error})") from error
    return found


def recorded_preferences(episodes: Episodes, *, label: str = "label_human") -> Preferences:
    """Those of a data set whose episodes are the segments that were compared.

    So are the published human labels of the format `preferences` (Kim et al. 2023,
    arXiv:2303.00957), whose episodes say in `info` which pair and side they are.

    Args:
        label: "label_human" or "label_script".

    Raises ValueError where episodes do not say that, or segments differ in length.
    """
    sides: dict[tuple[int, int], int] = {}
    values: dict[int, float] = {}
    lengths = set()
    for i, episode in enumerate(episodes):
        missing = sorted({"pair", "side", label} - set(episode.info))
        if missing:
            raise ValueError(
                f"episode {i} does not say its {missing}; open a file of the format 'preferences'"
            )
        pair = int(episode.info["pair"])
        sides[pair, int(episode.info["side"])] = i
        values[pair] = float(episode.info[label])
        lengths.add(len(episode))
    alone = sorted(pair for pair in values if not {(pair, 1), (pair, 2)} <= sides.keys())
    if len(lengths) != 1 or alone:
        raise ValueError(
            f"pairs need two segments of one length, got lengths {sorted(lengths)}, and only one "
            f"side of the pairs {alone}"
        )
    pairs = sorted(values)
    first, second = (
        Segments(
            np.array([sides[pair, side] for pair in pairs], np.int64),
            np.zeros(len(pairs), np.int64),
            next(iter(lengths)),
        )
        for side in (1, 2)
    )
    said = np.array([values[pair] for pair in pairs], np.float32)
    return Preferences(first, second, said, (label.removeprefix("label_"),) * len(pairs))


def _places(file: Path, digests: list[str], episodes: Episodes) -> NDArray[np.int64]:
    """Where the episodes that were labelled are among those of today."""
    known = {digest(episode): i for i, episode in enumerate(episodes)}
    if unknown := [each for each in digests if each not in known]:
        refuse(
            Fault(
                "E_DATA_LABELS_STALE",
                "the preferences are of episodes that are not here: they were changed or removed "
                "after they were labelled",
                "take the data that were labelled, or label these",
                file=file,
                count=len(unknown),
            )
        )
    return np.array([known[each] for each in digests], np.int64)


def _read(file: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Facts and columns, of the kinds that they must have."""
    try:
        with safetensors.safe_open(file, framework="numpy") as content:
            facts = parse_json(
                (content.metadata() or {}).get("facts"), lambda message: damaged(file, message)
            )
            columns = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise damaged(file, f"cannot be read ({error})") from error
    kinds = {"version": int, "length": int, "labellers": list, "episodes": list}
    if any(not isinstance(facts.get(key), kind) for key, kind in kinds.items()):
        raise damaged(file, f"must state {sorted(kinds)}, got {sorted(facts)}")
    if facts["version"] != VERSION:
        raise damaged(file, f"has version {facts['version']}, expected {VERSION}")
    fits = all(_COLUMNS.get(key) == x.dtype and x.ndim == 1 for key, x in columns.items())
    if not fits or set(columns) != set(_COLUMNS) or len({len(x) for x in columns.values()}) > 1:
        raise damaged(file, f"must hold the columns {sorted(_COLUMNS)}, of one size")
    return facts, columns
