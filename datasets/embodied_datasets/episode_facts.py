"""What our writers add to formats that only know arrays: one JSON line for each episode.

The first line tells of the whole set: its spec, and the role of each array, such as "state",
"images/front", "extras/qpos" or "final/state". Lines are parsed one at a time, when asked for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Annotation, Episode, Spec
from embodied_datasets.budget import damaged

NAME = "embodied"
"""Of the array, or member, that holds the lines."""
VERSION = 1
_MAX_LINE = 2**22
_FLAGS = ("success", "terminated", "truncated")


def roles(episode: Episode) -> dict[str, NDArray[Any]]:
    """The arrays of an episode by role, without those that it lacks."""
    plain = {name: getattr(episode, name) for name in ("state", "action", "reward")}
    plain["expert_action"] = episode.expert_action
    arrays = {name: np.asarray(x) for name, x in plain.items() if x is not None}
    for group in ("images", "extras", "final"):
        values = getattr(episode, group)
        arrays |= {f"{group}/{name}": np.asarray(values[name]) for name in values}
    return arrays


def describe(key: str, episode: Episode, names: Iterable[str]) -> dict[str, Any]:
    """The facts of an episode besides its arrays, whose roles are `names`.

    Raises ValueError if its `info` is not JSON-able.
    """
    facts = {
        "key": key,
        "instruction": episode.instruction,
        **{name: bool(getattr(episode, name)) for name in _FLAGS},
        "info": dict(episode.info),
        "annotations": [dataclasses.asdict(each) for each in episode.annotations],
        "roles": sorted(names),
    }
    try:
        json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"info of episode {key!r} must be JSON-able ({error}); "
            "turn its values into plain finite numbers, strings, lists and dicts"
        ) from error
    return facts


def unseen(episode: Episode, *shown: str) -> list[str]:
    """What of an episode stands in our facts alone, where no other reader looks.

    Args:
        shown: fields that others find in the format itself.
    """
    fields = ("instruction", *_FLAGS, "expert_action", "info", "final", "annotations")
    texts = [f"{name}: others do not see it" for name in fields]
    return [
        text
        for name, text in zip(fields, texts, strict=True)
        if name not in shown and getattr(episode, name) is not None and _any(getattr(episode, name))
    ]


def _any(value: Any) -> bool:
    return bool(value.size) if isinstance(value, np.ndarray) else bool(value)


def to_bytes(
    spec: Spec, columns: Mapping[str, str], episodes: Iterable[Mapping[str, Any]]
) -> bytes:
    """The lines; `columns` says which array of the file has which role."""
    head = {"version": VERSION, "spec": dataclasses.asdict(spec), "columns": dict(columns)}
    return "\n".join(json.dumps(each) for each in [head, *episodes]).encode()


class Facts:
    """The lines of a file.

    Attributes:
        spec: that the set was written with.
        columns: array name -> role.

    Raises DataError where the lines do not say what they should.
    """

    def __init__(self, data: bytes | NDArray[np.uint8], file: Path) -> None:
        self._file = file
        self._bytes = np.frombuffer(bytes(data), np.uint8)
        ends = np.append(np.flatnonzero(self._bytes == ord("\n")), len(self._bytes))
        self._ends, self._starts = ends, np.append(0, ends[:-1] + 1)
        head = self._line(0)
        try:
            if head["version"] != VERSION:
                raise ValueError(f"version {head['version']}; this is version {VERSION}")
            self.columns = {str(name): str(role) for name, role in head["columns"].items()}
            self.spec = _spec(head["spec"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(file, f"misdescribes itself ({error!r})", field=NAME) from error

    def __len__(self) -> int:
        return len(self._ends) - 1

    def key(self, index: int) -> str:
        """The key under which an episode was added."""
        return str(self._line(index + 1).get("key"))

    def roles(self, index: int) -> frozenset[str]:
        """Which arrays an episode has; those of the others are filled with zeros."""
        return frozenset(map(str, self._line(index + 1).get("roles", ())))

    def fields(self, index: int) -> dict[str, Any]:
        """The fields of an `Episode` besides its arrays."""
        line = self._line(index + 1)
        try:
            return {
                "instruction": _typed(str, line["instruction"]),
                **{name: _typed(bool, line[name]) for name in _FLAGS},
                "info": _typed(dict, line["info"]),
                "annotations": tuple(Annotation(**each) for each in line["annotations"]),
            }
        except (KeyError, TypeError) as error:
            message = f"misdescribes the episode ({error!r})"
            raise damaged(self._file, message, field=NAME, episode=index) from error

    def _line(self, number: int) -> dict[str, Any]:
        start, end = int(self._starts[number]), int(self._ends[number])
        if end - start > _MAX_LINE:
            raise damaged(self._file, f"has a line of {end - start} bytes", field=NAME)
        try:
            line: dict[str, Any] = _typed(dict, json.loads(self._bytes[start:end].tobytes()))
        except (ValueError, TypeError, RecursionError) as error:
            message = f"line {number} is no JSON object ({error})"
            raise damaged(self._file, message, field=NAME) from error
        return line


def _typed(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def _spec(value: Mapping[str, Any]) -> Spec:
    known = {field.name for field in dataclasses.fields(Spec)}
    facts = {name: x for name, x in value.items() if name in known}
    facts["cameras"] = {name: (int(h), int(w)) for name, (h, w) in facts["cameras"].items()}
    for name in ("action_low", "action_high"):
        facts[name] = tuple(float(x) for x in facts[name])
    return Spec(**facts)
