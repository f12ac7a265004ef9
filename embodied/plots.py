"""Learning curves as inline SVG that takes its colours from the page, light or dark."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# Matplotlib wants concrete colours; these stand for the page's variables and are replaced.
_COLOURS = {"#010101": "var(--muted)", "#020202": "var(--line)", "#030303": "var(--accent)"}
_INK, _LINE, _ACCENT = _COLOURS
_POINTS = 300
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "embodied",
    "font.family": "sans-serif",
    "font.size": 8,
    "text.parse_math": False,  # a metric's name is not TeX
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def curves(rows: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """An SVG for every metric that the rows hold at two steps or more, success rates first.

    Args:
        rows: as `embodied.loggers.read_jsonl` gives them; each holds "step".
    """
    names = {name for row in rows for name in row if name != "step"}
    drawn: dict[str, str] = {}
    for name in sorted(names, key=lambda name: ("success" not in name, "loss" not in name, name)):
        points = [(row["step"], row[name]) for row in rows if name in row]
        finite = np.array([p for p in points if math.isfinite(p[1])], dtype=np.float64)
        if len(finite) > 1:
            drawn[name] = _svg(finite, rate="success" in name)
    return drawn


def _svg(points: NDArray[np.float64], *, rate: bool) -> str:
    """One curve; points is (n, 2), step and value."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(3.5, 1.9), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, points)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(_locator(4, integer=True))
        axes.yaxis.set_major_locator(_locator(4))
        if rate:
            axes.set_ylim(-0.03, 1.03)
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(file, metadata=no_metadata)
    return _inline(file.getvalue())
