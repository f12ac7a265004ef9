"""All checks over one data set: what is wrong, and whether it can be read at all."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from embodied.structs import Episode, Episodes, Spec
from embodied_datasets.checking import arrays, ends, images, motion, scales, sets
from embodied_datasets.checking.common import checks_in
from embodied_datasets.checking.summary import Summary, summarise
from embodied_datasets.faults import DataError, Fault, Report
from embodied_datasets.formats import Format, find_format
from embodied_datasets.lerobot_schema import relative
from embodied_datasets.options import UnknownOption, fitting

EPISODE_CHECKS = [check for module in (arrays, ends, motion, images) for check in checks_in(module)]
SET_CHECKS = [check for module in (scales, sets) for check in checks_in(module)]

READ_ERRORS = (ValueError, OSError, LookupError, TypeError, ArithmeticError, pa.ArrowException)
"""What readers raise over damaged files; a missing library is the user's to install."""


@dataclass(frozen=True)
class Inspection:
    """The outcome of all checks on one data set.

    Attributes:
        format: its name; None where no format was recognised.
        episodes: how many could be looked at.
        steps: how many these have.
        faults: in the order of the checks.
        summaries: of the episodes that could be looked at.
        spec: None where nothing could be read.
        source: what was looked at, for those who want to see it.
    """

    path: Path
    format: str | None
    episodes: int
    steps: int
    faults: Sequence[Fault]
    summaries: Sequence[Summary] = field(default=(), repr=False)
    spec: Spec | None = None
    source: Episodes | None = field(default=None, repr=False)

    def exit_code(self, *, strict: bool = False) -> int:
        """0 clean, 1 faults found, 2 unreadable; warnings alone count where `strict`."""
        if not self.episodes:
            return 2
        counted = [f for f in self.faults if strict or f.severity == "error"]
        return 1 if counted else 0

    def as_json(self, *, strict: bool = False) -> dict[str, Any]:
        """Everything but the summaries, for machines."""
        return {
            "path": str(self.path),
            "format": self.format,
            "episodes": self.episodes,
            "steps": self.steps,
            "exit_code": self.exit_code(strict=strict),
            "codes": dict(Counter(fault.code for fault in self.faults)),
            "faults": [_plain(fault) for fault in self.faults],
        }


def inspect_episodes(episodes: Episodes, report: Report) -> list[Summary]:
    """Every check that needs no files; returns what is known of the episodes that can be read."""
    summaries: list[Summary] = []
    for position in range(len(episodes)):
        number, _ = place_of(episodes, position)
        try:
            episode = episodes[position]
        except READ_ERRORS as error:
            report(as_fault(error, episode=number))
            continue
        for fault in check_episode(number, episode, episodes.spec):
            report(fault)
        summaries.append(summarise(number, episode))
    for check in SET_CHECKS:
        for fault in check(summaries, episodes.spec):
            report(fault)
    return summaries


def check_episode(number: int, episode: Episode, spec: Spec) -> Iterator[Fault]:
    """Every fault of one episode by itself."""
    for check in EPISODE_CHECKS:
        yield from check(number, episode, spec)


def inspect_path(path: Path, *, format: str | None = None, **options: Any) -> Inspection:
    """Checks the data set in a file or folder, going on behind every fault as far as it can.

    Args:
        format: the name of its format; None looks.
        options: what that format's reader takes.
    """
    try:
        known = find_format(path, format)
    except (ValueError, LookupError, OSError) as error:
        return Inspection(path, None, 0, 0, [as_fault(error)])
    told: list[Fault] = []
    episodes = _open(known, path, options, told.append)
    if episodes is None:
        return Inspection(path, known.name, 0, 0, _located(path, told))
    found: list[Fault] = []
    summaries = inspect_episodes(episodes, found.append)
    faults = [*told, *_with_files(_news(found, told), episodes)]
    steps = sum(summary.length for summary in summaries)
    faults = _located(path, list(dict.fromkeys(faults)))
    return Inspection(
        path, known.name, len(summaries), steps, faults, summaries, episodes.spec, episodes
    )


def _open(known: Format, path: Path, options: Mapping[str, Any], report: Report) -> Episodes | None:
    """What of the set can be read; what its reader would refuse otherwise is reported."""
    read: Callable[..., Episodes | None] = getattr(known, "check", known.open)
    try:
        with fitting(known.name):
            return read(path, report=report, **options)
    except UnknownOption:  # the caller's fault, not the data's
        raise
    except READ_ERRORS as error:
        report(as_fault(error))
        return None


def _news(faults: Sequence[Fault], told: Sequence[Fault]) -> list[Fault]:
    """Those of reading the episodes that the format's own check did not tell already."""
    frames = {(fault.code, fault.episode, fault.frame) for fault in told}
    files = {fault.file for fault in told if fault.severity == "error"}
    return [
        fault
        for fault in faults
        if (fault.code, fault.episode, fault.frame) not in frames
        and (fault.file is None or fault.file not in files)
    ]


def place_of(episodes: Episodes, index: int) -> tuple[int, Path | None]:
    """The number of an episode in its set, and its file where that is known."""
    place: tuple[int, Path | None] = getattr(episodes, "place", lambda i: (i, None))(index)
    return place


def as_fault(error: Exception, **place: Any) -> Fault:
    """The fault of a refusal; an error without one is a file that cannot be read."""
    if isinstance(error, DataError):
        return error.fault
    text = str(error) or type(error).__name__
    remedy = "fetch or record it again, or name its format"
    return Fault("E_DATA_UNREADABLE", text[:600], remedy, **place)


def _with_files(faults: Sequence[Fault], episodes: Episodes) -> list[Fault]:
    """Names the files that episodes lie in, where a check of arrays could not know them."""
    files = dict(place_of(episodes, i) for i in range(len(episodes)))
    return [
        dataclasses.replace(fault, file=files.get(fault.episode))
        if fault.file is None and fault.episode is not None
        else fault
        for fault in faults
    ]


def _located(path: Path, faults: Sequence[Fault]) -> list[Fault]:
    """Names files relative to the set's folder; of a set in one file, that one for all faults."""
    if not path.is_file():
        return [relative(fault, path) for fault in faults]
    placed = (f if f.file else dataclasses.replace(f, file=path) for f in faults)
    return [relative(fault, path.parent) for fault in placed]


def _plain(fault: Fault) -> dict[str, Any]:
    plain = dataclasses.asdict(fault)
    return plain | {"file": None if fault.file is None else fault.file.as_posix()}
