"""One self-contained HTML page about a data set: it loads nothing and runs no script."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from embodied.structs import Annotation, Episode, Spec
from embodied_datasets.checking import quality, svg
from embodied_datasets.checking.common import is_table, rows
from embodied_datasets.checking.film import data_uri
from embodied_datasets.checking.run import READ_ERRORS, Inspection, inspect_path
from embodied_datasets.checking.summary import Summary, near_pairs
from embodied_datasets.files import write_atomically

_ASSETS = Path(__file__).parents[1] / "assets"
_MAX_DIMS = 12  # histograms of each table
_MAX_CAMERAS = 2
_MAX_LISTED = 40  # instructions, doubles and notes of an episode
_MAX_CLOUD = 1500
_SAMPLES = 60  # states of each episode that histograms and coverage are drawn from
_MAX_SAMPLED = 300  # episodes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shown:
    """An episode as the page shows it; `films` are data URIs by camera."""

    number: int
    episode: Episode
    duration_s: float
    films: dict[str, str]
    state: Markup | None
    action: Markup | None
    notes: list[tuple[float, Annotation]]


@dataclass(frozen=True)
class Sample:
    """Some steps of many episodes: states (N, S), actions (N, A), and each step's instruction."""

    state: Floats
    action: Floats
    group: list[int]
    jerk: float
    idle: float


def write_page(
    path: Path, output: Path, *, format: str | None = None, shown: int = 6, **options: Any
) -> int:
    """Inspects the set at `path` and writes the page; returns its size in bytes.

    Args:
        shown: how many episodes are drawn, evenly spaced over the set.
        options: what the format's reader takes.

    Raises ValueError if not one episode can be read.
    """
    inspection = inspect_path(path, format=format, **options)
    html = render(inspection, shown=shown)
    write_atomically(output, lambda temporary: temporary.write_text(html, encoding="utf-8"))
    return len(html.encode())


def render(inspection: Inspection, *, shown: int = 6) -> str:
    """The page about a set that was inspected; see `write_page`."""
    source, spec = inspection.source, inspection.spec
    if source is None or spec is None or not inspection.episodes:
        reasons = "; ".join(str(fault) for fault in inspection.faults[:3])
        raise ValueError(f"{inspection.path} has no episode that can be shown: {reasons}")
    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,  # instructions and names come from data and may hold anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    summaries = inspection.summaries
    count = len(source)
    chosen = sorted({round(i) for i in np.linspace(0, count - 1, min(max(shown, 0), count))})
    sample = _sample(source, summaries, spec)
    return environment.get_template("inspect.html.j2").render(
        inspection=inspection,
        spec=spec,
        faults=_by_code(inspection),
        measures=_measures(inspection, spec, sample),
        episodes=[each for i in chosen if (each := _shown(source, i, summaries, spec))],
        histograms=_histograms(sample),
        lengths=_lengths(summaries),
        coverage=_coverage(sample),
        instructions=_instructions(summaries),
        doubles=[(a.index, b.index, a.digest == b.digest) for a, b in _doubles(summaries)],
        limit=_MAX_LISTED,
    )


def _by_code(inspection: Inspection) -> list[dict[str, Any]]:
    grouped: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for fault in sorted(inspection.faults, key=lambda fault: fault.severity):
        grouped[fault.severity, fault.code].append(fault)
    return [
        {"code": code, "severity": severity, "count": len(faults), "first": faults[0]}
        for (severity, code), faults in grouped.items()
    ]


def _shown(source: Any, position: int, summaries: Sequence[Summary], spec: Spec) -> Shown | None:
    try:
        episode = source[position]
    except READ_ERRORS:
        return None
    duration = max(len(episode) - 1, 1) / spec.rate_hz
    notes = [(note.step / spec.rate_hz, note) for note in episode.annotations[:_MAX_LISTED]]
    marks = [time for time, _ in notes]

    def draw(values: Any) -> Markup | None:
        sound = is_table(values)
        return Markup(svg.lines(rows(values), duration, marks=marks)) if sound else None

    number = summaries[position].index if position < len(summaries) else position
    films = _films(episode, spec)
    return Shown(number, episode, duration, films, draw(episode.state), draw(episode.action), notes)


def _films(episode: Episode, spec: Spec) -> dict[str, str]:
    films = {}
    for camera in sorted(episode.images)[:_MAX_CAMERAS]:
        try:
            frames = np.asarray(episode.images[camera])
        except READ_ERRORS:
            continue
        if frames.ndim == 4 and frames.shape[-1] == 3 and frames.dtype == np.uint8 and len(frames):
            films[camera] = data_uri(frames, spec.rate_hz)
    return films


def _sample(source: Any, summaries: Sequence[Summary], spec: Spec) -> Sample:
    """Reads some episodes again, which costs less memory than keeping all of them."""
    states, actions, groups = [], [], []
    texts = {text: i for i, text in enumerate(dict.fromkeys(s.instruction for s in summaries))}
    scale = _state_range(summaries)
    jerks, idle = [], []
    stride = max(1, len(source) // _MAX_SAMPLED)
    for position in range(0, len(source), stride):
        try:
            episode = source[position]
        except READ_ERRORS:
            continue
        if not (
            is_table(episode.state, spec.state_dim) and is_table(episode.action, spec.action_dim)
        ):
            continue
        at = np.linspace(0, len(episode) - 1, min(_SAMPLES, len(episode))).round().astype(int)
        states.append(rows(episode.state)[at])
        actions.append(rows(episode.action)[at])
        groups += [texts.get(episode.instruction, 0)] * len(at)
        jerks.append(quality.jerk(episode.state, spec.rate_hz))
        idle.append(quality.idle_share(episode.state, scale))
    empty = np.zeros((0, 0))
    return Sample(
        state=np.concatenate(states) if states else empty,
        action=np.concatenate(actions) if actions else empty,
        group=groups,
        jerk=float(np.nanmedian(jerks)) if np.isfinite(jerks).any() else float("nan"),
        idle=float(np.mean(idle)) if idle else float("nan"),
    )


def _state_range(summaries: Sequence[Summary]) -> Floats:
    tables = [s.tables["state"] for s in summaries if "state" in s.tables]
    if not tables or len({len(t.low) for t in tables}) != 1:
        return np.ones(1)
    return np.asarray(np.max([t.high for t in tables], 0) - np.min([t.low for t in tables], 0))


def _measures(inspection: Inspection, spec: Spec, sample: Sample) -> dict[str, str]:
    summaries = inspection.summaries
    lengths = [s.length for s in summaries]
    words = quality.language_diversity([s.instruction for s in summaries])
    outliers = [str(summaries[i].index) for i in quality.length_outliers(lengths)]
    solved = sum(s.success for s in summaries)
    cells = quality.Grid.fit(sample.state, sample.action) if len(sample.state) else None
    unique = cells.count(sample.state, sample.action) / len(sample.state) if cells else float("nan")
    return {
        "Duration": f"{inspection.steps / spec.rate_hz / 60:.1f} min at {spec.rate_hz:g} Hz",
        "Episode length": f"{min(lengths)} to {max(lengths)}, median {np.median(lengths):g} steps",
        "Marked successful": f"{solved} of {len(summaries)}",
        "Idle steps": f"{100 * sample.idle:.1f} %",
        "Jerk of the state, median": f"{sample.jerk:.3g} units/s\u00b3",
        "Unique state-action cells": f"{100 * unique:.0f} % of {len(sample.state)} sampled steps",
        "Distinct instructions": f"{words.distinct}",
        "Words, different / all": f"{words.type_token:.2f}",
        "Distance of instructions": f"{words.pairwise:.2f}",
        "Outliers in length": ", ".join(outliers[:12]) or "none",
    }


def _histograms(sample: Sample) -> dict[str, list[Markup]]:
    found = {}
    for name, values in (("State", sample.state), ("Action", sample.action)):
        drawn = []
        for column in values.T[:_MAX_DIMS]:
            counts, edges = np.histogram(column, bins=30)
            drawn.append(Markup(svg.bars(counts.tolist(), edges[0], edges[-1])))
        found[name] = drawn
    return found


def _lengths(summaries: Sequence[Summary]) -> Markup:
    counts, edges = np.histogram([s.length for s in summaries], bins=min(30, len(summaries) + 1))
    return Markup(svg.bars(counts.tolist(), edges[0], edges[-1]))


def _coverage(sample: Sample) -> Markup | None:
    """States on the two directions in which they vary most, each dimension at its own scale."""
    if len(sample.state) < 3 or sample.state.shape[1] < 2:
        return None
    stride = max(1, len(sample.state) // _MAX_CLOUD)
    spread = sample.state.std(0)
    scaled = (sample.state - sample.state.mean(0)) / np.where(spread > 1e-9, spread, 1)
    _, vectors = np.linalg.eigh(np.cov(scaled.T))  # in ascending order
    return Markup(svg.cloud((scaled @ vectors[:, -2:])[::stride, ::-1], sample.group[::stride]))


def _instructions(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    grouped: dict[str, list[Summary]] = defaultdict(list)
    for summary in summaries:
        grouped[summary.instruction].append(summary)
    table = [
        {
            "text": text or "(none)",
            "colour": i % svg.NUM_COLOURS,
            "episodes": len(members),
            "length": np.mean([s.length for s in members]),
            "success": np.mean([s.success for s in members]),
        }
        for i, (text, members) in enumerate(grouped.items())
    ]
    return sorted(table, key=lambda row: -int(row["episodes"]))


def _doubles(summaries: Sequence[Summary]) -> list[tuple[Summary, Summary]]:
    return near_pairs(summaries)
