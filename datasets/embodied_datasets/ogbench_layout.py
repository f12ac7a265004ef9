"""Writing OGBench's npz files; what they are stands in `formats.ogbench`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Spec
from embodied_datasets import npz_layout
from embodied_datasets.columns import Column, plan
from embodied_datasets.fact_lines import to_lines
from embodied_datasets.facts import NAME
from embodied_datasets.npz_safe import Npz
from embodied_datasets.staging import Staged

Array = NDArray[Any]


class OGBenchLayout:
    """Trajectories whose last row is what was seen in the end, where that was recorded.

    Args:
        compressed: with deflate, as OGBench's own files.
    """

    def __init__(self, *, compressed: bool = False) -> None:
        self._method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED

    def keys(self, path: Path) -> Sequence[str] | None:
        facts = npz_layout.read_facts(Npz(path)) if npz_layout.member_names(path) else None
        return None if facts is None else facts.keys

    def write(self, path: Path, episodes: Sequence[Staged], spec: Spec) -> None:
        columns = _with_finals(plan(episodes))
        names = {role: npz_layout.name_of(role) for role in columns}
        if not spec.state_dim and len(spec.cameras) == 1:  # pictures are the observations
            names = {role: name for role, name in names.items() if role != "state"}
            names[f"images/{next(iter(spec.cameras))}"] = "observations"
        rows = sum(len(staged) + staged.has_final for staged in episodes)
        facts = (staged.facts for staged in episodes)
        lines = to_lines(spec, {name: role for role, name in names.items()}, facts)
        with zipfile.ZipFile(path, "w", self._method) as archive:
            for role, name in names.items():
                chunks = (_rows(staged, role, columns[role]) for staged in episodes)
                npz_layout.write_member(archive, name, columns[role], rows, chunks)
            for name, mark in (("terminals", _terminals), ("masks", _masks)):
                npz_layout.write_array(archive, name, np.concatenate([*map(mark, episodes)]))
            npz_layout.write_array(archive, NAME, lines)


def _with_finals(columns: Mapping[str, Column]) -> dict[str, Column]:
    """Columns that have room for what was seen in the end, each entry in its own column."""
    found = {role: column for role, column in columns.items() if not role.startswith("final/")}
    for role, column in columns.items():
        if role.startswith("final/"):
            source = source_of(role.removeprefix("final/"))
            if found.setdefault(source, column) != column:
                raise ValueError(
                    f"{role} is {column.dtype} {column.shape}, but {source} is "
                    f"{found[source].dtype} {found[source].shape}; this format needs them alike"
                )
    return found


def _rows(staged: Staged, role: str, column: Column) -> Array:
    """An episode's rows, and one more where something was seen in the end."""
    rows = column.rows(staged, role)
    if not staged.has_final:
        return rows
    name = role.removeprefix("images/").removeprefix("extras/")
    final = f"final/images.{name}" if role.startswith("images/") else f"final/{name}"
    # What was not recorded repeats: an action that was never executed, zeros as a reward.
    rest = np.zeros_like(rows[-1:]) if role == "reward" else rows[-1:]
    known = final in staged.headers and role not in ("action", "reward", "expert_action")
    return np.concatenate([rows, staged[final][None] if known else rest])


def _terminals(staged: Staged) -> NDArray[np.float32]:
    marks = np.zeros(len(staged) + staged.has_final, np.float32)
    marks[-1] = 1
    return marks


def _masks(staged: Staged) -> NDArray[np.float32]:
    masks = np.ones(len(staged) + staged.has_final, np.float32)
    if staged.facts["terminated"]:
        masks[len(staged) - 1 :] = 0
    return masks


def source_of(name: str) -> str:
    """The role of the column whose last row holds an entry of `final`."""
    if name == "state":
        return name
    kind, _, camera = name.partition(".")
    return f"images/{camera}" if kind == "images" and camera else f"extras/{name}"
