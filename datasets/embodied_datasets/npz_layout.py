"""The names that arrays have in npz files, and the writing of such files without holding them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Spec
from embodied_datasets.budget import damaged
from embodied_datasets.columns import Column, plan
from embodied_datasets.fact_lines import FactLines, to_lines
from embodied_datasets.facts import NAME
from embodied_datasets.faults import DataError
from embodied_datasets.npz_safe import Npz
from embodied_datasets.staging import Staged
from embodied_datasets.zip_safe import open_zip

CORE = {
    "observations": "state",
    "actions": "action",
    "rewards": "reward",
    "expert_actions": "expert_action",
}
_TAKEN = {*CORE, "terminals", "timeouts", "masks", "next_observations", "episode_ends"}
_PREFIXES = ("images.", "extras.", "final.", "init_")


def member_names(path: Path) -> frozenset[str] | None:
    """Names of an npz file's arrays; None if it is not one that can be read."""
    try:
        with open_zip(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except (DataError, OSError):
        return None


def name_of(role: str) -> str:
    """The name in an npz file of the array with a role."""
    for name, known in CORE.items():
        if role == known:
            return name
    kind, _, rest = role.partition("/")
    free = rest not in _TAKEN and rest != NAME and not rest.startswith(_PREFIXES)
    return rest if kind == "extras" and free else f"{kind}.{rest}"


def role_of(name: str) -> str:
    """The role of an array that our writer did not write."""
    kind, _, rest = name.partition(".")
    if kind in ("images", "extras", "final") and rest:
        return f"{kind}/{rest}"
    return CORE.get(name, f"extras/{name}")


def pixels_as_images(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns in which observations that are pictures are the images of a camera "image".

    Without any numbers observed, the state has size 0.
    """
    state = columns.get("state")
    renamed = dict(columns)
    if state is not None and state.ndim == 4 and state.dtype == np.uint8:
        renamed["images/image"] = renamed.pop("state")
    if "state" not in renamed and "action" in renamed:
        renamed["state"] = np.zeros((len(renamed["action"]), 0), np.float32)
    return renamed


def read_facts(npz: Npz) -> FactLines | None:
    """What our writer noted in a file; None if it is not ours."""
    if NAME not in npz:
        return None
    header = npz.headers[NAME]
    if header.dtype != np.uint8 or len(header.shape) != 1:
        raise damaged(npz.path, "is not the text that our writer notes", field=NAME)
    return FactLines(npz[NAME], npz.path)


def read_columns(npz: Npz, names: Mapping[str, str]) -> dict[str, Any]:
    """Arrays by role: images on disk where possible, everything else in memory.

    Args:
        names: array name -> role.

    Raises DataError naming those that the file lacks.
    """
    missing = sorted(set(names) - set(npz))
    if missing:
        raise damaged(npz.path, f"lacks the arrays {missing}; it has {sorted(npz)}")
    big = {name for name, header in npz.headers.items() if len(header.shape) == 4}
    return {role: npz.mapped(name) if name in big else npz[name] for name, role in names.items()}


class NpzLayout:
    """One array per feature, and `episode_ends`; see `formats.npz`.

    Args:
        compressed: with deflate, which is small and slow, and cannot be memory-mapped.
    """

    def __init__(self, *, compressed: bool = False) -> None:
        self.method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED

    def keys(self, path: Path) -> Sequence[str] | None:
        facts = read_facts(Npz(path)) if member_names(path) else None
        return None if facts is None else facts.keys

    def write(self, path: Path, episodes: Sequence[Staged], spec: Spec) -> None:
        ends = np.cumsum([len(staged) for staged in episodes], dtype=np.int64)
        columns = plan(episodes)
        lines = to_lines(
            spec, {name_of(role): role for role in columns}, (each.facts for each in episodes)
        )
        with zipfile.ZipFile(path, "w", self.method) as archive:
            for role, column in columns.items():
                final = role.startswith("final/")
                take = column.last if final else column.rows
                rows = len(episodes) if final else int(ends[-1])
                chunks = (take(staged, role) for staged in episodes)
                write_member(archive, name_of(role), column, rows, chunks)
            write_array(archive, "episode_ends", ends)
            write_array(archive, NAME, lines)


def write_array(archive: zipfile.ZipFile, name: str, values: NDArray[Any]) -> None:
    """Adds an array to an npz file."""
    write_member(archive, name, Column(values.shape[1:], values.dtype), len(values), [values])


def write_member(
    archive: zipfile.ZipFile,
    name: str,
    column: Column,
    rows: int,
    chunks: Iterable[NDArray[Any]],
) -> None:
    """Adds an array of so many rows to an npz file, chunk by chunk.

    Members bear no date, so that the same data give the same bytes.
    """
    member = zipfile.ZipInfo(f"{name}.npy")
    member.compress_type = archive.compression
    with archive.open(member, "w", force_zip64=True) as file:
        for block in _npy(column, rows, chunks):
            file.write(block)


def _npy(column: Column, rows: int, chunks: Iterable[NDArray[Any]]) -> Iterator[bytes]:
    head = io.BytesIO()
    header = {
        "descr": np.lib.format.dtype_to_descr(column.dtype),
        "fortran_order": False,
        "shape": (rows, *column.shape),
    }
    np.lib.format.write_array_header_1_0(head, header)
    yield head.getvalue()
    for chunk in chunks:
        yield np.ascontiguousarray(chunk).tobytes()
