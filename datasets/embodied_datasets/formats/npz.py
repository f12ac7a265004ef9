"""Flat npz files with `episode_ends`: what many papers publish, such as hand_dapg's demonstrations.

`observations`, `actions`, `rewards` and whatever else was recorded at each step lie end to end;
`episode_ends` counts up to N. `next_observations` tell what was seen after an episode's last
action, `terminals` and `timeouts` how it ended; arrays with a row per episode, such as
`init_qpos`, become its `info`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Episodes, Spec
from embodied_datasets import npz_layout
from embodied_datasets.budget import MAX_BYTES, damaged
from embodied_datasets.fact_lines import FactLines
from embodied_datasets.facts import NAME, unseen
from embodied_datasets.faults import Report, refuse
from embodied_datasets.flat import (
    Flat,
    FlatEpisodes,
    check_rows,
    check_shapes,
    check_spec,
    make_spec,
    split,
)
from embodied_datasets.formats import Writer
from embodied_datasets.npz_safe import Npz
from embodied_datasets.recorded import group
from embodied_datasets.staged_writer import StagedWriter

_NEEDED = {"observations", "actions", "episode_ends"}
_ENDINGS = ("terminals", "timeouts")
_MAX_FACT = 4096
"""Numbers of one episode that may go into its `info`."""

Array = NDArray[Any]


class NpzFormat:
    name = "npz"

    def matches(self, path: Path) -> bool:
        """Whether it is an npz file with `episode_ends`, or one that cannot be read at all."""
        if path.suffix != ".npz" or not path.is_file():
            return False
        names = npz_layout.member_names(path)
        return names is None or names >= _NEEDED  # opening the unreadable one tells why

    def open(self, path: Path, **options: Any) -> Episodes:
        """The episodes; see `read_npz`."""
        return read_npz(path, **options)

    def create(self, path: Path, spec: Spec, **options: Any) -> Writer:
        """A writer; `compressed=True` makes the file small, and slow to read."""
        return StagedWriter(path, spec, npz_layout.NpzLayout(**options), {"format": self.name})

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        """Nothing; but what stands in the array `embodied`, only this project finds again."""
        return unseen(episode)


FORMAT = NpzFormat()


def read_npz(
    path: Path,
    *,
    rate_hz: float = 10.0,
    instruction: str | None = None,
    max_bytes: int = MAX_BYTES,
    report: Report = refuse,
) -> FlatEpisodes:
    """The episodes of a flat npz file.

    Args:
        rate_hz: the control rate in Hz, which only files of our writer tell.
        instruction: of all episodes of a foreign file; None takes the file's name.
        max_bytes: refuses to hold more than this in memory.
        report: what is done about numbers that are not finite.

    Raises DataError where the file is not what it says.
    """
    npz = Npz(path, max_bytes=max_bytes)
    missing = sorted(_NEEDED - set(npz))
    if missing:
        raise damaged(path, f"lacks the arrays {missing}; it has {sorted(npz)}")
    facts = npz_layout.read_facts(npz)
    if facts is not None:
        flat, spec = _ours(npz, facts), facts.spec
    else:
        flat = _foreign(npz, instruction or path.stem.replace("_", " "))
        spec = make_spec(flat.columns, rate_hz)
    options = [rate_hz, instruction] if facts is None else None
    return FlatEpisodes(path, flat, spec, files=[path], options=options, report=report)


def _ours(npz: Npz, facts: FactLines) -> Flat:
    columns = npz_layout.read_columns(npz, facts.columns)
    final = group(columns, "final/")
    steps = {role: x for role, x in columns.items() if not role.startswith("final/")}
    check_shapes(npz.path, steps)
    check_spec(npz.path, steps, facts.spec)
    starts, lengths = split(npz.path, npz["episode_ends"], steps)
    check_rows(npz.path, {**final, "facts": facts}, len(starts))

    def last(index: int) -> dict[str, Array]:
        known = facts.roles(index)
        return {name: np.array(x[index]) for name, x in final.items() if f"final/{name}" in known}

    return Flat(steps, starts, lengths, facts.fields, last, facts.roles)


def _foreign(npz: Npz, instruction: str) -> Flat:
    ends = npz["episode_ends"]
    once = _per_episode(npz, len(ends), int(ends[-1]) if ends.size else 0)
    skipped = {*once, *_ENDINGS, "next_observations", "episode_ends", NAME}
    names = {name: npz_layout.role_of(name) for name in npz if name not in skipped}
    columns = npz_layout.pixels_as_images(npz_layout.read_columns(npz, names))
    check_shapes(npz.path, columns)
    starts, lengths = split(npz.path, ends, columns)
    stops = starts + lengths - 1
    fields = _describe(instruction, {name: npz[name] for name in once}, _endings(npz, ends), stops)
    return Flat(columns, starts, lengths, fields, _next(npz, stops))


def _per_episode(npz: Npz, episodes: int, steps: int) -> list[str]:
    """Arrays with a row for each episode, few enough numbers to go into its `info`."""
    found = []
    for name, header in npz.headers.items():
        rows = header.shape[0] if header.shape else 0
        named = name.startswith("init_") or rows != steps
        small = header.nbytes <= _MAX_FACT * header.dtype.itemsize * max(rows, 1)
        if name not in _NEEDED and rows == episodes and named and small:
            found.append(name)
    return found


def _endings(npz: Npz, ends: Array) -> dict[str, Array]:
    endings = {name: npz[name].reshape(-1) for name in _ENDINGS if name in npz}
    for name, values in endings.items():
        if len(values) != ends[-1]:
            message = f"has {len(values)} rows, but the episodes end at {ends[-1]}"
            raise damaged(npz.path, message, field=name)
    return endings


def _describe(
    instruction: str,
    once: Mapping[str, Array],
    endings: Mapping[str, Array],
    stops: NDArray[np.int64],
) -> Callable[[int], dict[str, Any]]:
    def fields(index: int) -> dict[str, Any]:
        ended = {name: bool(x[stops[index]]) for name, x in endings.items()}
        return {
            "instruction": instruction,
            "terminated": ended.get("terminals", False),
            "truncated": ended.get("timeouts", False),
            "info": {name: x[index].tolist() for name, x in once.items()},
        }

    return fields


def _next(npz: Npz, stops: NDArray[np.int64]) -> Callable[[int], dict[str, Array]]:
    if "next_observations" not in npz:
        return lambda index: {}
    seen = npz["next_observations"]
    if len(seen) != int(stops[-1]) + 1 or seen.shape[1:] != npz.headers["observations"].shape[1:]:
        message = f"has shape {seen.shape}, observations {npz.headers['observations'].shape}"
        raise damaged(npz.path, message, field="next_observations")
    pixels = seen.ndim == 4
    last = seen[stops] if pixels else seen[stops].astype(np.float32)
    return lambda index: {"images.image" if pixels else "state": last[index].copy()}
