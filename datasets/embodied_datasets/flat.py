"""Episodes that lie end to end in long arrays, whatever file the arrays come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets.budget import damaged
from embodied_datasets.faults import Fault, Report, refuse
from embodied_datasets.files import fingerprint
from embodied_datasets.lazy import Lazy
from embodied_datasets.recorded import group

Array = NDArray[Any]
_NUMBERS = ("state", "action", "reward", "expert_action")


def _no_final(index: int) -> dict[str, Array]:
    return {}


def _all_roles(index: int) -> frozenset[str] | None:
    return None


@dataclass(frozen=True)
class Flat:
    """Arrays of N rows, and where in them the episodes lie.

    Attributes:
        columns: role -> (N, ...), of which rows can be taken by slice: "state" (N, S), "action"
            (N, A), "reward" (N,), "expert_action", "images/<camera>", "extras/<name>".
        starts, lengths: (E,) first row and number of steps of each episode.
        fields: episode -> the fields of an `Episode` that are no arrays.
        final: episode -> what was seen after its last action.
        roles: episode -> the roles that it has, or None for all.
    """

    columns: Mapping[str, Any]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    fields: Callable[[int], Mapping[str, Any]]
    final: Callable[[int], Mapping[str, Array]] = _no_final
    roles: Callable[[int], frozenset[str] | None] = _all_roles


class FlatEpisodes:
    """The episodes of flat arrays; implements `embodied.structs.Episodes`.

    Args:
        root: the file or folder, for errors.
        files: what the fingerprint depends on, together with `options`, which is JSON-able.
        report: what is done about numbers that are not finite; the default raises DataError.
    """

    def __init__(
        self,
        root: Path,
        flat: Flat,
        spec: Spec,
        *,
        files: Sequence[Path],
        options: Any = None,
        report: Report = refuse,
    ) -> None:
        self.root, self.spec = root, spec
        self._flat, self._files, self._options = flat, files, options
        numbers = {name: flat.columns[name] for name in _NUMBERS if name in flat.columns}
        check_finite(root, numbers, flat.starts, report)

    def __len__(self) -> int:
        return len(self._flat.starts)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        index = range(len(self))[index]
        flat, known = self._flat, self._flat.roles(index)
        start = int(flat.starts[index])
        rows = slice(start, start + int(flat.lengths[index]))
        columns = {
            role: column for role, column in flat.columns.items() if known is None or role in known
        }
        numbers: dict[str, Any] = {
            role: np.array(columns[role][rows], np.float32) for role in _NUMBERS if role in columns
        }
        images = {name: _taker(x, rows) for name, x in group(columns, "images/").items()}
        extras = {name: np.array(x[rows]) for name, x in group(columns, "extras/").items()}
        final = dict(flat.final(index))
        return Episode(
            **numbers, images=Lazy(images), extras=extras, final=final, **flat.fields(index)
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the files, and over the options that choose among what they hold."""
        return fingerprint(self._files, self._options)


def _taker(column: Any, rows: slice) -> Callable[[], Array]:
    return lambda: np.array(column[rows])


def split(
    file: Path, ends: Array, columns: Mapping[str, Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(starts, lengths) of episodes that end before the rows `ends`.

    Raises DataError unless the ends rise up to the number of rows, which all columns share.
    """
    rows = {role: len(column) for role, column in columns.items()}
    if ends.ndim != 1 or not len(ends) or ends.dtype.kind not in "iu":
        message = f"episode ends are {ends.dtype} {ends.shape}, expected (E,) integers"
        raise damaged(file, message, field="episode_ends")
    starts = np.append(0, ends[:-1]).astype(np.int64)
    lengths = ends.astype(np.int64) - starts
    if (lengths <= 0).any():
        episode = int(np.argmax(lengths <= 0))
        message = f"an episode has {lengths[episode]} steps: its end does not lie behind its start"
        raise damaged(file, message, field="episode_ends", episode=episode)
    for role, size in rows.items():
        if size != ends[-1]:
            message = f"has {size} rows, but the episodes end at {ends[-1]}"
            raise damaged(file, message, field=role)
    return starts, lengths


def check_shapes(file: Path, columns: Mapping[str, Any]) -> None:
    """Raises DataError unless a set's columns are what `Flat` says of their roles."""
    for role, dims in (("state", 2), ("action", 2), ("expert_action", 2), ("reward", 1)):
        column = columns.get(role)
        if role in ("state", "action") and column is None:
            raise damaged(file, "is missing", field=role)
        if column is not None and column.ndim != dims:
            raise damaged(file, f"has shape {column.shape}, expected {dims} axes", field=role)
    for camera, column in group(columns, "images/").items():
        if column.ndim != 4 or column.shape[-1] != 3 or column.dtype != np.uint8:
            message = f"is {column.dtype} {column.shape}, expected uint8 (N, h, w, 3)"
            raise damaged(file, message, field=camera)


def make_spec(
    columns: Mapping[str, Any], rate_hz: float, parts: Mapping[str, int] | None = None
) -> Spec:
    """The spec of arrays that do not tell theirs: action bounds are the extremes of the data."""
    action = columns["action"]
    state_dim, action_dim, cameras = make_sizes(columns)
    return Spec(
        state_dim=state_dim,
        action_dim=action_dim,
        action_low=tuple(np.min(action, 0).astype(np.float32).tolist()),
        action_high=tuple(np.max(action, 0).astype(np.float32).tolist()),
        rate_hz=rate_hz,
        cameras=cameras,
        state_parts=parts or {},
    )


def check_finite(
    file: Path, columns: Mapping[str, Any], starts: NDArray[np.int64], report: Report
) -> None:
    """Reports, for each column, numbers that are not finite."""
    for role, column in columns.items():
        values = np.asarray(column)
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
        if len(bad):
            episode = int(np.searchsorted(starts, bad[0], side="right")) - 1
            report(
                Fault(
                    "E_DATA_NONFINITE",
                    f"is not finite in {len(bad)} frames",
                    "drop or repair the episode",
                    file=file,
                    episode=episode,
                    frame=int(bad[0] - starts[episode]),
                    field=role,
                    count=len(bad),
                )
            )


def check_spec(file: Path, columns: Mapping[str, Any], spec: Spec) -> None:
    """Raises DataError unless the columns have the sizes that a recorded spec gives them."""
    found = make_sizes(columns)
    wanted = (spec.state_dim, spec.action_dim, dict(spec.cameras))
    bounds = {len(spec.action_low), len(spec.action_high)} == {spec.action_dim}
    if found != wanted or not bounds or not spec.rate_hz > 0:
        raise damaged(file, f"holds sizes {found}, but its spec says {wanted}", field="embodied")


def make_sizes(columns: Mapping[str, Any]) -> tuple[int, int, dict[str, tuple[int, int]]]:
    """(state_dim, action_dim, cameras) of columns."""
    cameras = {name: x.shape[1:3] for name, x in group(columns, "images/").items()}
    sizes = {name: (int(h), int(w)) for name, (h, w) in cameras.items()}
    return int(columns["state"].shape[1]), int(columns["action"].shape[1]), sizes


def check_rows(file: Path, values: Mapping[str, Any], wanted: int) -> None:
    """Raises DataError unless everything that goes by episode does so for all of them."""
    for name, each in values.items():
        if len(each) != wanted:
            message = f"tells of {len(each)} episodes, but there are {wanted}"
            raise damaged(file, message, field=name)
