"""What our writers add to formats that have no place for it: an episode's facts besides its arrays.

They are JSON: key, instruction, flags, info, annotations, and the roles of the arrays that the
episode has, such as "state", "images/front", "extras/qpos" or "final/state". `fact_lines` puts
those of all episodes into one array, `hdf5_facts` those of each into an HDF5 group.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Annotation, Episode, Spec
from embodied_datasets.files import Wrong

NAME = "embodied"
"""Of the array, group or member that holds the facts."""
_FLAGS = ("success", "terminated", "truncated")


def arrays_of(episode: Episode) -> dict[str, NDArray[Any]]:
    """The arrays of an episode by role, without those that it lacks."""
    names = ("state", "action", "reward", "expert_action")
    plain = {name: getattr(episode, name) for name in names}
    arrays = {name: np.asarray(x) for name, x in plain.items() if x is not None}
    for group in ("images", "extras", "final"):
        values = getattr(episode, group)
        arrays |= {f"{group}/{name}": np.asarray(values[name]) for name in values}
    return arrays


def describe(key: str, episode: Episode, roles: Iterable[str]) -> dict[str, Any]:
    """The facts of an episode; raises ValueError if its `info` is not JSON-able."""
    facts = {
        "key": key,
        "instruction": episode.instruction,
        **{name: bool(getattr(episode, name)) for name in _FLAGS},
        "info": dict(episode.info),
        "annotations": [dataclasses.asdict(each) for each in episode.annotations],
        "roles": sorted(roles),
    }
    try:
        json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"info of episode {key!r} must be JSON-able ({error}); "
            "turn its values into plain finite numbers, strings, lists and dicts"
        ) from error
    return facts


def fields_from(facts: Mapping[str, Any], wrong: Wrong) -> dict[str, Any]:
    """The fields of an `Episode` besides its arrays."""
    try:
        return {
            "instruction": _typed(str, facts["instruction"]),
            **{name: _typed(bool, facts[name]) for name in _FLAGS},
            "info": _typed(dict, facts["info"]),
            "annotations": tuple(Annotation(**each) for each in facts["annotations"]),
        }
    except (KeyError, TypeError) as error:
        raise wrong(f"misdescribes the episode ({error!r})") from error


def roles_from(facts: Mapping[str, Any], wrong: Wrong) -> frozenset[str]:
    """The roles of the arrays that an episode has."""
    roles = facts.get("roles")
    if not isinstance(roles, list):
        raise wrong("misdescribes the episode (it has no list of roles)")
    return frozenset(map(str, roles))


def spec_from(facts: Any, wrong: Wrong) -> Spec:
    """The spec whose fields `dataclasses.asdict` gave."""
    try:
        known = {each.name: facts[each.name] for each in dataclasses.fields(Spec)}
        known["cameras"] = {str(k): (int(h), int(w)) for k, (h, w) in known["cameras"].items()}
        known["state_parts"] = {str(k): int(size) for k, size in known["state_parts"].items()}
        for name in ("action_low", "action_high"):
            known[name] = tuple(float(x) for x in known[name])
        return Spec(**known)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise wrong(f"misdescribes the data set ({error!r})") from error


def unseen(episode: Episode, *shown: str) -> list[str]:
    """What of an episode stands in our facts alone, where no other reader looks.

    Args:
        shown: fields that others find in the format itself.
    """
    names = ("instruction", *_FLAGS, "expert_action", "info", "final", "annotations")
    hidden = [name for name in names if name not in shown]
    return [f"{name}: others do not see it" for name in hidden if _any(getattr(episode, name))]


def _any(value: Any) -> bool:
    return bool(value.size) if isinstance(value, np.ndarray) else bool(value)


def _typed(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value
