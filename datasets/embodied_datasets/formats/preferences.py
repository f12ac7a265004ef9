"""Human preferences between pairs of segments (Kim et al. 2023; arXiv:2303.00957), as npz.

`obs_1`, `obs_2` (P, T, O) and `action_1`, `action_2` (P, T, A) hold P pairs, `label_human` and
`label_script` (P,) which one was preferred: 0 the first, 1 the second, 0.5 neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Episodes, Spec
from embodied_datasets import npz_layout
from embodied_datasets.budget import MAX_BYTES, damaged
from embodied_datasets.faults import Fault, Report, refuse
from embodied_datasets.flat import Flat, FlatEpisodes, make_spec
from embodied_datasets.formats import Writer
from embodied_datasets.npz_safe import Npz

_NEEDED = {"obs_1", "obs_2", "action_1", "action_2"}
_LABELS = ("label_human", "label_script")
Array = NDArray[Any]


class Preferences:
    name = "preferences"

    def matches(self, path: Path) -> bool:
        """Whether it is an npz file of pairs."""
        if path.suffix != ".npz" or not path.is_file():
            return False
        return (npz_layout.member_names(path) or frozenset()) >= _NEEDED

    def open(self, path: Path, **options: Any) -> Episodes:
        """The segments; see `read_preferences`."""
        return read_preferences(path, **options)

    def create(self, path: Path, spec: Spec, **options: Any) -> Writer:
        raise NotImplementedError("preferences are only read; write npz instead, which keeps info")

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        return ("everything: this format is only read",)


FORMAT = Preferences()


def read_preferences(
    path: Path,
    *,
    rate_hz: float = 20.0,
    max_bytes: int = MAX_BYTES,
    report: Report = refuse,
) -> FlatEpisodes:
    """Both segments of each pair as episodes: those of pair p have the numbers 2p and 2p + 1.

    `info` holds `pair`, `side` (1 or 2), and the pair's labels. Segments are cut from longer
    episodes, and so `truncated`.

    Args:
        rate_hz: the control rate in Hz, which the file does not tell; robosuite's is 20.

    Raises DataError where the file is not what it says.
    """
    npz = Npz(path, max_bytes=max_bytes // 2)  # the pairs are copied once
    missing = sorted(_NEEDED - set(npz))
    if missing:
        raise damaged(path, f"lacks the arrays {missing}; it has {sorted(npz)}")
    columns = {"state": _interleave(npz, "obs"), "action": _interleave(npz, "action")}
    pairs, steps = npz.headers["obs_1"].shape[:2]
    if npz.headers["action_1"].shape[:2] != (pairs, steps):
        raise damaged(path, f"has another shape than obs_1, {pairs} x {steps}", field="action_1")
    flat_columns = {role: x.reshape(-1, x.shape[-1]) for role, x in columns.items()}
    starts = np.arange(2 * pairs, dtype=np.int64) * steps
    labels = _labels(npz, pairs, report)
    task = path.stem.partition("__")[0]

    def fields(index: int) -> dict[str, Any]:
        pair, side = divmod(index, 2)
        found = {name: float(values[pair]) for name, values in labels.items()}
        info = {"pair": pair, "side": side + 1, "task": task, **found}
        return {"instruction": task, "truncated": True, "info": info}

    flat = Flat(flat_columns, starts, np.full(2 * pairs, steps, np.int64), fields)
    spec = make_spec(flat_columns, rate_hz)
    return FlatEpisodes(path, flat, spec, files=[path], options=rate_hz, report=report)


def _interleave(npz: Npz, name: str) -> NDArray[np.float32]:
    """(P, 2, T, n) of both sides."""
    shapes = [npz.headers[f"{name}_{side}"].shape for side in (1, 2)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 3 or not all(shapes[0]):
        message = f"has the shapes {shapes} on its two sides, expected one (pairs, steps, n)"
        raise damaged(npz.path, message, field=name)
    return np.stack([npz[f"{name}_{side}"] for side in (1, 2)], 1).astype(np.float32, copy=False)


def _labels(npz: Npz, pairs: int, report: Report) -> dict[str, Array]:
    labels = {name: npz[name] for name in _LABELS if name in npz}
    for name, values in labels.items():
        if values.shape != (pairs,):
            raise damaged(npz.path, f"has shape {values.shape}, expected ({pairs},)", field=name)
        bad = np.flatnonzero(~np.isin(values, (0, 0.5, 1)))
        if len(bad):
            message = f"is {values[bad[0]]} for pair {bad[0]}, expected 0, 0.5 or 1"
            remedy = "drop or correct these pairs"
            episode = 2 * int(bad[0])
            report(
                Fault(
                    "E_DATA_LABEL",
                    message,
                    remedy,
                    file=npz.path,
                    episode=episode,
                    field=name,
                    count=len(bad),
                )
            )
    return labels
