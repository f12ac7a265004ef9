"""The report of a policy judged by recorded episodes, in the form of `embodied.report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.open_loop import Errors
from embodied.plots import Line, draw_curves, draw_lines
from embodied.report import environment
from embodied.results import write_atomically

_MOST_DIMENSIONS = 8  # of a trace; more would not be looked at
# Matplotlib's patterns of dashes, for as many ways of asking and baselines as there are.
_ASKED = ("-", (0, (1, 1)), (0, (1, 3)), (0, (6, 1, 1, 1)))
_BASELINES = ("--", "-.", (0, (9, 3)))
Trace = tuple[str, NDArray[Any], NDArray[Any]]


def write_open_loop_report(
    path: Path,
    *,
    title: str,
    content: Mapping[str, Any],
    asked: Mapping[str, Errors],
    baselines: Mapping[str, Errors],
    traces: Sequence[Trace],
    curves: Sequence[Mapping[str, float]],
    wall_clock: Mapping[str, float],
) -> None:
    """Writes one self-contained HTML file.

    Args:
        content: of results.json.
        traces: a title, the recorded and the predicted actions (L, A).
        curves: rows of metrics, as `embodied.loggers.read_jsonl` gives them.
        wall_clock: phase -> seconds.
    """
    html = (
        environment()
        .get_template("open_loop.html.j2")
        .render(
            title=title,
            content=content,
            asked=asked,
            baselines=baselines,
            horizon=_draw_horizon(asked, baselines),
            traces=[(name, _draw_trace(*actions)) for name, *actions in traces],
            curves=draw_curves(curves),
            wall_clock=dict(wall_clock),
        )
    )
    write_atomically(path, html)


def _draw_horizon(asked: Mapping[str, Errors], baselines: Mapping[str, Errors]) -> str:
    """Normalised error over the steps of a chunk: the policy's first, with its interval."""
    lines = []
    for styles, errors in ((_ASKED, asked), (_BASELINES, baselines)):
        for i, (name, each) in enumerate(errors.items()):
            steps = each.per_step()
            main = errors is asked and i == 0
            lines.append(
                Line(
                    name.replace("_", " "),
                    np.arange(1, len(steps) + 1),
                    np.array([step.mean for step in steps]),
                    style=styles[i],
                    accent=main,
                    low=np.array([step.low for step in steps]) if main else None,
                    high=np.array([step.high for step in steps]) if main else None,
                )
            )
    return draw_lines(lines, size=(6.4, 2.8), x="step of the chunk", y="normalised error")


def _draw_trace(recorded: NDArray[Any], predicted: NDArray[Any]) -> list[tuple[str, str]]:
    """A plot for each of the first dimensions."""
    time = np.arange(len(recorded))
    return [
        (
            f"action {i}",
            draw_lines(
                [
                    Line("recorded", time, recorded[:, i], style="-", accent=False),
                    Line("predicted", time, predicted[:, i], style="-", accent=True),
                ],
                size=(3.6, 1.6),
            ),
        )
        for i in range(min(recorded.shape[1], _MOST_DIMENSIONS))
    ]
