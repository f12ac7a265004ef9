"""Curves as inline SVG that takes its colours from the page, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_INK, _LINE, _ACCENT = "#010101", "#020202", "#030303"
# Matplotlib wants concrete colours; these three stand for variables of the page's style sheet.
_VARIABLES = {_INK: "var(--muted)", _LINE: "var(--line)", _ACCENT: "var(--accent)"}
_STYLE: Any = {  # newer Matplotlib spells out every key in its types
    "svg.fonttype": "none",
    "svg.hashsalt": "embodied",  # the same rows give the same file
    "font.size": 8,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
_MAX_POINTS = 250  # about one per pixel; a longer curve is drawn as mean and range of buckets


@dataclass(frozen=True)
class Curve:
    """One metric over the steps of training.

    Attributes:
        last: its last finite value.
        missing: how many of its values are not finite, and so not drawn.
        svg: an <svg> element.
    """

    name: str
    last: float
    missing: int
    svg: str


@dataclass(frozen=True)
class Line:
    """One line of several in a plot.

    Attributes:
        x, y: (n,) points.
        style: Matplotlib's, such as "--" or (0, (1, 3)).
        accent: whether it stands out in colour.
        low, high: (n,) of a band around it.
    """

    name: str
    x: NDArray[Any]
    y: NDArray[Any]
    style: Any = "-"
    accent: bool = False
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None


def draw_lines(
    lines: Sequence[Line], *, size: tuple[float, float], x: str = "", y: str = ""
) -> str:
    """An <svg> element with all lines and their names.

    Args:
        size: width and height in inches; the page scales it.
        x, y: labels of the axes.
    """

    def draw(axes: Any) -> None:
        for line in lines:
            colour = _ACCENT if line.accent else _INK
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(
                line.x, line.y, linestyle=line.style, color=colour, linewidth=1.2, label=line.name
            )
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if len(lines) > 2:
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return _plot(size, draw)


def draw_curves(rows: Sequence[Mapping[str, float]]) -> list[Curve]:
    """Every metric that has two finite values or more, success rates first, then losses.

    Args:
        rows: as `embodied.loggers.read_jsonl` gives them; each holds "step".
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name in row.keys() - {"step"}:
            series.setdefault(name, []).append((row["step"], row[name]))
    names = sorted(series, key=lambda name: ("success" not in name, "loss" not in name, name))
    return [curve for name in names if (curve := _curve(name, series[name]))]


def _curve(name: str, points: list[tuple[float, float]]) -> Curve | None:
    finite = np.array([point for point in points if math.isfinite(point[1])], dtype=np.float64)
    if len(finite) < 2:
        return None
    svg = _svg(finite, is_rate="success" in name)
    return Curve(name, float(finite[-1, 1]), len(points) - len(finite), svg)


def _svg(points: NDArray[np.float64], *, is_rate: bool) -> str:
    """The curve of (n, 2) steps and values."""
    from matplotlib.ticker import EngFormatter

    def draw(axes: Any) -> None:
        _draw(axes, points)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, not 2 and 1e4 aside
        if is_rate:
            axes.set_ylim(-0.03, 1.03)

    return _plot((3.6, 1.8), draw)


def _plot(size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    from matplotlib import rc_context  # heavy, and only reports need it
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="y")
        axes.locator_params(axis="both", nbins=4)
        draw(axes)
        file = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return _inline(file.getvalue())


def _draw(axes: Any, points: NDArray[np.float64]) -> None:
    if len(points) > _MAX_POINTS:
        buckets = np.array_split(points, _MAX_POINTS)
        low = [bucket[:, 1].min() for bucket in buckets]
        high = [bucket[:, 1].max() for bucket in buckets]
        points = np.array([bucket.mean(axis=0) for bucket in buckets])
        axes.fill_between(points[:, 0], low, high, color=_ACCENT, alpha=0.2, linewidth=0)
    marker = "o" if len(points) <= 20 else ""
    axes.plot(points[:, 0], points[:, 1], color=_ACCENT, linewidth=1.4, marker=marker, ms=3)


def _inline(svg: str) -> str:
    """What may stand within HTML: no document type, no ids that repeat, the page's font."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would apply to the page
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', ' role="img"', svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
