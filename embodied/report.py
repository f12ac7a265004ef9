"""One self-contained HTML file about a run: what was asked, how often it worked, and why not.

It holds every figure, plot and video in itself, runs no script and loads nothing, so that it can
be mailed, archived and opened years later.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from embodied.comparison import Comparison
from embodied.learning_curve import summaries
from embodied.plots import draw_curves
from embodied.results import Evaluation, write_atomically
from embodied.statistics import Estimate

_ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Video:
    """One filmed episode.

    Attributes:
        title: such as the instruction that was given.
        mp4: the file or its content; H.264 is what every browser plays.
    """

    title: str
    task: str
    success: bool
    mp4: Path | bytes

    @property
    def data_uri(self) -> str:
        content = self.mp4 if isinstance(self.mp4, bytes) else self.mp4.read_bytes()
        return "data:video/mp4;base64," + base64.b64encode(content).decode()


def write_report(
    path: Path | str,
    *,
    title: str,
    evaluation: Evaluation,
    curves: Sequence[Mapping[str, float]] = (),
    offline_steps: int | None = None,
    videos: Sequence[Video] = (),
    no_videos: str = "none were recorded",
    wall_clock: Mapping[str, float] | None = None,
    chance: float | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Writes the report of one run; its probes, configuration and versions are the evaluation's.

    Args:
        path: of the HTML file.
        curves: rows of metrics, as `embodied.loggers.read_jsonl` gives them.
        offline_steps: training steps before the policy acted; None if it never did.
        videos: shown per task, in this order.
        no_videos: why there are none, where there are none.
        wall_clock: phase -> seconds.
        chance: success rate in [0, 1] that is reached by accident, without obeying the instruction.
        notes: sentences that the reader should see first.
    """
    html = (
        environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            evaluation=evaluation,
            probes=_beside("as evaluated", evaluation, perturbed=False),
            arms=_beside("unperturbed", evaluation, perturbed=True),
            measured=_measured({evaluation.protocol: evaluation, **evaluation.probes}),
            curves=draw_curves(curves),
            summaries=summaries(curves, offline_steps),
            videos=_by_task(videos),
            no_videos=no_videos,
            wall_clock=dict(wall_clock or {}),
            chance=chance,
            notes=notes,
        )
    )
    write_atomically(Path(path), html)


def write_comparison(path: Path | str, *, protocol: str, comparisons: Sequence[Comparison]) -> None:
    """Writes comparisons made under one protocol as one HTML file."""
    template = environment().get_template("compare.html.j2")
    title = " against ".join([" and ".join(c.b for c in comparisons), comparisons[0].a])
    html = template.render(title=title, protocol=protocol, comparisons=comparisons)
    write_atomically(Path(path), html)


def environment() -> Environment:
    """Templates of all reports."""
    found = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,  # instructions, tasks and reasons come from data and may hold anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"yaml": _yaml, "duration": _duration, "svg": Markup}
    return found


def _beside(name: str, evaluation: Evaluation, *, perturbed: bool) -> dict[str, Evaluation]:
    """The evaluation under this name and its probes of one kind; empty where there are none."""
    kind = {k: p for k, p in evaluation.probes.items() if bool(p.perturbation) == perturbed}
    return {name: evaluation, **kind} if kind else {}


def _measured(evaluations: Mapping[str, Evaluation]) -> dict[str, Mapping[str, Estimate]]:
    """The further measures of each evaluation that has any."""
    found = {name: evaluation.metrics() for name, evaluation in evaluations.items()}
    return {name: metrics for name, metrics in found.items() if metrics}


def _by_task(videos: Sequence[Video]) -> dict[str, list[Video]]:
    grouped: dict[str, list[Video]] = {}
    for video in videos:
        grouped.setdefault(video.task, []).append(video)
    return grouped


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True))


def _duration(seconds: float) -> str:
    """Seconds as a person says them: "42.1 s", "3 min 5 s", "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
