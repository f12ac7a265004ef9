"""OGBench's npz files (Park et al. 2025; arXiv:2410.20092).

In their layout `terminals` marks the last row of each trajectory. That row shows what the last
action led to; the action beside it was never followed by anything and is left out, as their own
loader does, so that L + 1 rows make L steps and a `final` state. `terminals` says nothing about
how an episode ended: `masks`, where a file has them, is 0 only where the task was complete, which
is `terminated`; all other trajectories were cut, `truncated`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from embodied_datasets.ogbench_layout import OGBenchLayout, source_of
from embodied_datasets.staged_writer import StagedWriter

_NEEDED = {"observations", "actions", "terminals"}
Array = NDArray[Any]


class OGBench:
    name = "ogbench"

    def matches(self, path: Path) -> bool:
        """Whether it is an npz file with `terminals` and without `episode_ends`."""
        if path.suffix != ".npz" or not path.is_file():
            return False
        names = npz_layout.member_names(path) or frozenset()
        return names >= _NEEDED and "episode_ends" not in names

    def open(self, path: Path, **options: Any) -> Episodes:
        """The episodes; see `read_ogbench`."""
        return read_ogbench(path, **options)

    def create(self, path: Path, spec: Spec, **options: Any) -> Writer:
        """A writer; `compressed=True` makes the file small, and slow to read."""
        return StagedWriter(path, spec, OGBenchLayout(**options), {"format": self.name})

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        """Nothing; but what stands in the array `embodied`, only this project finds again."""
        return unseen(episode, "terminated", "truncated", "final")


FORMAT = OGBench()


def read_ogbench(
    path: Path,
    *,
    rate_hz: float = 10.0,
    instruction: str | None = None,
    max_bytes: int = MAX_BYTES,
    report: Report = refuse,
) -> FlatEpisodes:
    """The trajectories of an OGBench file.

    Args:
        rate_hz: the control rate in Hz, which only files of our writer tell; theirs are 10 Hz in
            the mazes and 20 Hz in the manipulation suites.
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
        check_spec(path, flat.columns, spec)
    else:
        flat = _foreign(npz, instruction or path.stem)
        spec = make_spec(flat.columns, rate_hz)
    options = [rate_hz, instruction] if facts is None else None
    return FlatEpisodes(path, flat, spec, files=[path], options=options, report=report)


def _trajectories(npz: Npz, columns: Mapping[str, Any]) -> tuple[Array, Array]:
    """(first row, number of rows) of each trajectory."""
    terminals = npz["terminals"]
    if terminals.shape != (len(columns["action"]),) or not len(terminals) or not terminals[-1]:
        message = f"has shape {terminals.shape} and must mark the last of the rows"
        raise damaged(npz.path, message, field="terminals")
    return split(npz.path, np.flatnonzero(terminals) + 1, columns)


def _ours(npz: Npz, facts: FactLines) -> Flat:
    columns = npz_layout.pixels_as_images(npz_layout.read_columns(npz, facts.columns))
    check_shapes(npz.path, columns)
    starts, rows = _trajectories(npz, columns)
    check_rows(npz.path, {NAME: facts}, len(starts))
    seen = np.array([any(_finals(facts, i)) for i in range(len(facts))])

    def final(index: int) -> dict[str, Array]:
        row = int(starts[index] + rows[index]) - 1
        return {name: np.array(columns[source_of(name)][row]) for name in _finals(facts, index)}

    if (rows <= seen).any():
        raise damaged(npz.path, "has a trajectory without a step", field="terminals")
    return Flat(columns, starts, rows - seen, facts.fields, final, facts.roles)


def _finals(facts: FactLines, index: int) -> Iterator[str]:
    """Names of what was seen after an episode's last action."""
    roles = sorted(facts.roles(index))
    return (role.removeprefix("final/") for role in roles if role.startswith("final/"))


def _foreign(npz: Npz, instruction: str) -> Flat:
    skipped = {"terminals", "next_observations"}
    names = {name: npz_layout.role_of(name) for name in npz if name not in skipped}
    columns = npz_layout.pixels_as_images(npz_layout.read_columns(npz, names))
    check_shapes(npz.path, columns)
    starts, rows = _trajectories(npz, columns)
    ends = starts + rows - 1
    if "next_observations" in npz:  # every row is a transition
        seen, lengths = npz["next_observations"][ends], rows
    else:
        seen, lengths = npz["observations"][ends], rows - 1
    if not lengths.all():
        message = "a trajectory has one row, and so no action that led anywhere"
        episode = int(np.argmin(lengths))
        raise damaged(npz.path, message, field="terminals", episode=episode)
    judged = int((rows - lengths).max()) + 1  # the last transition, and what it led to
    fields = _describe(instruction, columns.get("extras/masks"), starts, rows, judged)
    name = "images.image" if seen.ndim == 4 else "state"
    kept = seen if seen.ndim == 4 else seen.astype(np.float32)
    return Flat(columns, starts, lengths, fields, lambda index: {name: kept[index].copy()})


def _describe(
    instruction: str, masks: Array | None, starts: Array, rows: Array, judged: int
) -> Callable[[int], dict[str, Any]]:
    def fields(index: int) -> dict[str, Any]:
        first, last = int(starts[index]), int(starts[index] + rows[index])
        done = np.zeros(1, bool) if masks is None else masks[first:last] == 0
        terminated = bool(done[-judged:].any())
        return {
            "instruction": instruction,
            "success": bool(done.any()),
            "terminated": terminated,
            "truncated": not terminated,
        }

    return fields
