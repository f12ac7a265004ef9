"""What our writers add to formats that have no place for it, and bounded JSON.

An HDF5 group called "embodied" holds `facts`, JSON as bytes (attributes end at 64 KB), and the
arrays that the format does not know. Other readers pass it over.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Annotation, Episode, Spec
from embodied_datasets.faults import DataError, Fault, Report
from embodied_datasets.hdf5 import Hdf5

GROUP = "embodied"
_FLAGS = ("success", "terminated", "truncated")
_MAX_TEXT = 16 * 2**20
_MAX_CONTAINERS = 10**6

Array = NDArray[Any]
Wrong = Callable[[str], DataError]
"""Makes the error that says what is wrong with a file."""


def parse(text: str | None, wrong: Wrong) -> dict[str, Any]:
    """A JSON object, refused before it is parsed if it would take much memory."""
    if text is None or len(text) > _MAX_TEXT:
        raise wrong(f"must be JSON of at most {_MAX_TEXT} bytes")
    if text.count("[") + text.count("{") > _MAX_CONTAINERS:
        raise wrong(f"nests more than {_MAX_CONTAINERS} lists; it is no description")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong(f"is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise wrong(f"must be a JSON object, got {type(value).__name__}")
    return value


def json_attribute(hdf5: Hdf5, item: Any, name: str) -> dict[str, Any]:
    """The JSON object in an attribute; an empty one where there is no text of that name."""
    text = hdf5.attribute(item, name)
    wrong = functools.partial(hdf5.damaged, field=name)
    return parse(text, wrong) if isinstance(text, str) else {}


def arrays_of(episode: Episode) -> dict[str, Array]:
    """The arrays of an episode by role: "state", "images/front", "extras/qpos", "final/state"."""
    names = ("state", "action", "reward", "expert_action")
    arrays = {name: getattr(episode, name) for name in names}
    arrays = {name: np.asarray(values) for name, values in arrays.items() if values is not None}
    for group in ("images", "extras", "final"):
        values = getattr(episode, group)
        arrays |= {f"{group}/{name}": np.asarray(values[name]) for name in values}
    return arrays


def describe(key: str, episode: Episode) -> dict[str, Any]:
    """All of an episode but its arrays, JSON-able; raises ValueError if its info is not."""
    facts = {
        "key": key,
        "instruction": episode.instruction,
        **{name: bool(getattr(episode, name)) for name in _FLAGS},
        "info": dict(episode.info),
        "annotations": [dataclasses.asdict(each) for each in episode.annotations],
        "length": len(episode),
        "reward": episode.reward is not None,
        "final": sorted(episode.final),
    }
    try:
        json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"info of episode {key!r} must be JSON-able ({error}); "
            "turn its values into plain finite numbers, strings, lists and dicts"
        ) from error
    return facts


def fields(facts: Mapping[str, Any], wrong: Wrong) -> dict[str, Any]:
    """The fields of an `Episode` that `describe` wrote."""
    try:
        return {
            "instruction": _typed(str, facts["instruction"]),
            **{name: _typed(bool, facts[name]) for name in _FLAGS},
            "info": _typed(dict, facts["info"]),
            "annotations": tuple(Annotation(**each) for each in facts["annotations"]),
        }
    except (KeyError, TypeError) as error:
        raise wrong(f"misdescribes the episode ({error!r})") from error


def spec_from(facts: Any, wrong: Wrong) -> Spec:
    """The spec whose fields `dataclasses.asdict` gave, checked."""
    try:
        known = {field.name: facts[field.name] for field in dataclasses.fields(Spec)}
        known["cameras"] = {str(k): (int(h), int(w)) for k, (h, w) in known["cameras"].items()}
        known["state_parts"] = {str(k): int(size) for k, size in known["state_parts"].items()}
        for name in ("action_low", "action_high"):
            known[name] = tuple(float(x) for x in known[name])
        return Spec(**known)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise wrong(f"misdescribes the data set ({error!r})") from error


def write_group(parent: Any, facts: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Adds the group to an h5py.Group. Arrays are numbered, since any name is a good one."""
    group = parent.create_group(GROUP)
    text = json.dumps({**facts, "arrays": list(arrays)}, allow_nan=False)
    group["facts"] = np.frombuffer(text.encode(), np.uint8)
    for number, values in enumerate(arrays.values()):
        group[str(number)] = values


class Group:
    """The group that `write_group` added; without facts where there is none."""

    def __init__(self, source: Hdf5, parent: Any, *, episode: int | None = None) -> None:
        self._source = source
        self._episode = episode
        self._group = parent.get(GROUP)
        self.facts = self._parse() if self._group is not None else {}

    def wrong(self, message: str) -> DataError:
        return self._source.damaged(message, field=GROUP, episode=self._episode)

    def arrays(self) -> dict[str, Array]:
        """The arrays by role."""
        return {role: self._source.read(item) for role, item in self.items().items()}

    def items(self) -> dict[str, Any]:
        """The arrays by role, as h5py.Datasets."""
        roles = self.facts.get("arrays", [])
        if self._group is None or not isinstance(roles, list):
            return {}
        items = {str(x): self._group.get(str(i)) for i, x in enumerate(roles)}
        missing = [role for role, item in items.items() if not hasattr(item, "shape")]
        if missing:
            raise self.wrong(f"lacks the arrays {missing[:3]}")
        return items

    def _parse(self) -> dict[str, Any]:
        if not hasattr(self._group, "keys") or "facts" not in self._group:
            raise self.wrong("holds no facts")
        return parse(self._source.read_text(self._group["facts"]), self.wrong)


def grouped(arrays: Mapping[str, Array], group: str) -> dict[str, Array]:
    """The arrays whose role begins with a group, such as "extras", without it."""
    return {k.removeprefix(f"{group}/"): v for k, v in arrays.items() if k.startswith(f"{group}/")}


def split(joined: Array, parts: Mapping[str, int]) -> dict[str, Array]:
    """The parts of states that lie end to end: (..., S) to name -> (..., size)."""
    ends = np.cumsum(list(parts.values()))
    pieces = np.split(joined, ends[:-1], axis=-1) if parts else []
    return dict(zip(parts, pieces, strict=True))


def state_parts(spec: Spec, name: str) -> dict[str, int]:
    """The spec's parts, or one of the given name."""
    return dict(spec.state_parts) or {name: spec.state_dim}


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError unless each name is one level of an HDF5 path, and no two are equal."""
    for name in names:
        if not name or "/" in name or name in (".", "..") or "\0" in name:
            raise ValueError(f"{name!r} cannot name HDF5 data; rename it, without '/'")
    if len(set(names)) != len(names):
        raise ValueError(f"{sorted(names)} name two things alike; rename one")


def check_finite(report: Report, place: Fault, arrays: Mapping[str, Array]) -> None:
    """Reports the first frame of each array that is not finite; `place` says where it lies."""
    for name, values in arrays.items():
        if values.dtype.kind != "f" or np.isfinite(values).all():
            continue
        bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
        report(
            dataclasses.replace(
                place,
                code="E_DATA_NONFINITE",
                message=f"is not finite in {bad.sum()} frames",
                remedy="drop or repair the episode",
                frame=int(bad.argmax()),
                field=name,
                count=int(bad.sum()),
            )
        )


def words(name: str) -> str:
    """A name as words, for sets that record no instruction: "PickPlaceCan" to "pick place can"."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.sub(r"[\s_\-/.]+", " ", apart).strip().lower() or "unknown task"


class Bounds:
    """The extremes of the actions seen so far."""

    def __init__(self, size: int) -> None:
        self._low = np.full(size, np.inf, np.float32)
        self._high = np.full(size, -np.inf, np.float32)

    def add(self, actions: Array) -> None:
        """Actions (n, A); NaN is passed over."""
        actions = actions.astype(np.float32)
        self._low = np.fmin(self._low, np.fmin.reduce(actions, 0, initial=np.inf))
        self._high = np.fmax(self._high, np.fmax.reduce(actions, 0, initial=-np.inf))

    def get(self, *, unit: bool = False) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Lowest and highest; -1 and 1 where `unit` says that these are usual and all fit."""
        if unit and (self._low >= -1).all() and (self._high <= 1).all():
            return (-1.0,) * len(self._low), (1.0,) * len(self._high)
        return tuple(self._low.tolist()), tuple(self._high.tolist())


def _typed(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value
