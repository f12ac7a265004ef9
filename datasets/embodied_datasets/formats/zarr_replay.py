"""Replay buffers of Diffusion Policy (Chi et al. 2023; arXiv:2303.04137): zarr v2.

A group `data` of arrays with a row per step, and `meta/episode_ends`, in a folder or in one
`.zarr.zip`. Arrays (N, h, w, 3) are cameras; the names `state`, `action` and `reward` mean what
they say, other arrays are extras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Episodes, Spec
from embodied_datasets.budget import MAX_BYTES, Budget, array_bytes, damaged
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
from embodied_datasets.recorded import group
from embodied_datasets.staged_writer import StagedWriter
from embodied_datasets.zarr_safe import Archive, Folder, Store, ZarrArray, open_array, read_json

_ENDS = "meta/episode_ends"
Array = NDArray[Any]


class ZarrReplay:
    name = "zarr"

    def matches(self, path: Path) -> bool:
        """Whether it is a zarr folder with `meta/episode_ends`, or a `.zarr.zip`."""
        if path.is_file():
            return path.name.endswith(".zarr.zip")
        return (path / _ENDS / ".zarray").is_file()

    def open(self, path: Path, **options: Any) -> Episodes:
        """The episodes; see `read_zarr`."""
        return read_zarr(path, **options)

    def create(self, path: Path, spec: Spec, **options: Any) -> Writer:
        """A writer of a folder, or of one file if the path ends with `.zip`."""
        from embodied_datasets.zarr_layout import ZarrLayout

        return StagedWriter(path, spec, ZarrLayout(**options), {"format": self.name})

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        """Nothing; but what stands in the array `meta/embodied`, only this project finds again."""
        return unseen(episode)


FORMAT = ZarrReplay()


def read_zarr(
    path: Path,
    *,
    state: Sequence[str] | None = None,
    action: str = "action",
    rate_hz: float = 10.0,
    instruction: str | None = None,
    max_bytes: int = MAX_BYTES,
    report: Report = refuse,
) -> FlatEpisodes:
    """The episodes of a replay buffer; images are read when they are asked for.

    Args:
        state: arrays (N, n) that make up the state of a foreign file, end to end; None takes
            `state`, or else all that are not the action, by name.
        action: the array (N, A) of a foreign file that was executed.
        rate_hz: the control rate in Hz, which only files of our writer tell.
        instruction: of all episodes of a foreign file; None takes the file's name.
        max_bytes: refuses to hold more than this in memory: all numbers, or an episode's images.
        report: what is done about numbers that are not finite.

    Raises DataError where the data are not what they say.
    """
    store: Store = Archive(path) if path.is_file() else Folder(path)
    if read_json(store, "zarr.json") is not None:
        raise damaged(path, "is zarr v3, and replay buffers are v2; save it with zarr_format=2")
    facts = read_facts(store, max_bytes)
    ends = _numbers(store, _ENDS, Budget(max_bytes, path))
    arrays = {name: open_array(store, f"data/{name}", max_bytes) for name in store.arrays("data")}
    if facts is not None:
        columns = _load(
            store, {role: arrays.get(n) for n, role in facts.columns.items()}, max_bytes
        )
        flat, spec = _ours(store, columns, ends, facts, max_bytes), facts.spec
        check_spec(path, columns, spec)
    else:
        found, parts = _roles(path, arrays, state, action)
        columns = _load(store, found, max_bytes)
        columns["state"] = np.concatenate([columns.pop(f"state/{name}") for name in parts], 1)
        flat = _foreign(path, columns, ends, instruction or path.name.split(".")[0])
        spec = make_spec(columns, rate_hz, parts if len(parts) > 1 else None)
    _check_images(path, flat, max_bytes)
    files = [path] if path.is_file() else sorted(x for x in path.rglob("*") if x.is_file())
    options = [state, action, rate_hz, instruction] if facts is None else None
    return FlatEpisodes(path, flat, spec, files=files, options=options, report=report)


def read_facts(store: Store, max_bytes: int = MAX_BYTES) -> FactLines | None:
    """What our writer noted; None if the buffer is not ours."""
    name = f"meta/{NAME}"
    if read_json(store, f"{name}/.zarray") is None:
        return None
    lines = _numbers(store, name, Budget(max_bytes, store.path))
    if lines.dtype != np.uint8 or lines.ndim != 1:
        raise damaged(store.path, "is not the text that our writer notes", field=name)
    return FactLines(lines, store.path)


def _numbers(store: Store, name: str, budget: Budget) -> Array:
    array = open_array(store, name, budget.max_bytes)
    budget.take(array_bytes(array.shape, array.dtype), name)
    return array[:]


def _load(store: Store, arrays: Mapping[str, ZarrArray | None], max_bytes: int) -> dict[str, Any]:
    """Columns by role: images stay where they are, numbers are read."""
    budget = Budget(max_bytes, store.path)
    columns: dict[str, Any] = {}
    for role, array in arrays.items():
        if role.startswith("final/"):
            continue
        if array is None:
            raise damaged(store.path, "is missing", field=f"data/{role}")
        if role.startswith("images/"):
            columns[role] = array if array.dtype == np.uint8 else _Rounded(array)
        else:
            budget.take(array_bytes(array.shape, array.dtype), array.name)
            columns[role] = array[:]
    return columns


class _Rounded:
    """A camera whose pixels were stored as floats from 0 to 255, as in the PushT data."""

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, array: ZarrArray) -> None:
        self._array, self.shape = array, array.shape

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        values = self._array[rows]
        if not ((values >= 0) & (values <= 255)).all():
            message = f"holds pixels from {values.min()} to {values.max()}, expected 0 to 255"
            raise damaged(self._array.store.path, message, field=self._array.name)
        pixels: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
        return pixels


def _roles(
    path: Path, arrays: Mapping[str, ZarrArray], state: Sequence[str] | None, action: str
) -> tuple[dict[str, ZarrArray | None], dict[str, int]]:
    """(arrays by role, sizes of the arrays that make up the state)."""
    rest = dict(arrays)
    if action not in rest:
        message = f"has no array {action!r} among {sorted(arrays)}"
        raise damaged(path, f"{message}; name one with action=NAME", field="data")
    found: dict[str, ZarrArray | None] = {"action": rest.pop(action)}
    if "reward" in rest and rest["reward"].ndim == 1:
        found["reward"] = rest.pop("reward")
    for name in [name for name, x in rest.items() if x.ndim == 4 and x.shape[-1] == 3]:
        found[f"images/{name}"] = rest.pop(name)
    vectors = [name for name, x in rest.items() if x.ndim == 2 and x.dtype.kind == "f"]
    chosen = state or (["state"] if "state" in vectors else vectors)
    unknown = sorted(set(chosen) - set(vectors))
    if unknown or not chosen:
        message = f"has no vectors {unknown or '(N, n)'} for the state; it has {vectors}"
        raise damaged(path, message, field="data")
    parts = {name: rest[name].shape[1] for name in chosen}
    found |= {f"state/{name}": rest.pop(name) for name in chosen}
    return found | {f"extras/{name}": x for name, x in rest.items()}, parts


def _ours(
    store: Store, columns: Mapping[str, Any], ends: Array, facts: FactLines, max_bytes: int
) -> Flat:
    check_shapes(store.path, columns)
    starts, lengths = split(store.path, ends, columns)
    names = {role: name for name, role in facts.columns.items() if role.startswith("final/")}
    budget = Budget(max_bytes, store.path)
    last = {role: _numbers(store, f"meta/{name}", budget) for role, name in names.items()}
    check_rows(store.path, {**last, NAME: facts}, len(starts))

    def final(index: int) -> dict[str, Array]:
        known = facts.roles(index)
        return {
            name: x[index].copy()
            for name, x in group(last, "final/").items()
            if f"final/{name}" in known
        }

    return Flat(columns, starts, lengths, facts.fields, final, facts.roles)


def _foreign(path: Path, columns: Mapping[str, Any], ends: Array, instruction: str) -> Flat:
    check_shapes(path, columns)
    starts, lengths = split(path, ends, columns)
    fields: Callable[[int], dict[str, Any]] = lambda index: {"instruction": instruction}  # noqa: E731
    return Flat(columns, starts, lengths, fields)


def _check_images(path: Path, flat: Flat, max_bytes: int) -> None:
    """Before anything of them is read: what the longest episode's images take."""
    for camera, column in group(flat.columns, "images/").items():
        shape = (int(flat.lengths.max()), *column.shape[1:])
        Budget(max_bytes, path).take(array_bytes(shape, column.dtype), f"data/{camera}")
