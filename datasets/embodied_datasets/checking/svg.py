"""Small drawings as inline SVG: lines over time, bars and clouds, in the colours of the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDTH = 560.0
_LEFT, _RIGHT, _BOTTOM = 44.0, 6.0, 16.0
_MAX_POINTS = 240
NUM_COLOURS = 8


def lines(
    values: Floats, duration_s: float, *, height: float = 120.0, marks: Sequence[float] = ()
) -> str:
    """The columns of (L, D) over [0, duration_s], with upright marks at times in s."""
    values = values[:: max(1, len(values) // _MAX_POINTS)]
    low, high = _limits(values)
    x = _LEFT + np.linspace(0, WIDTH - _LEFT - _RIGHT, len(values))
    y = 4 + (high - values) / (high - low) * (height - _BOTTOM - 4)
    parts = [_axes(duration_s, low, high, height)]
    for mark in marks:
        at = _LEFT + (WIDTH - _LEFT - _RIGHT) * mark / max(duration_s, 1e-9)
        parts.append(f'<path class="mark" d="M{at:.1f} 0V{height - _BOTTOM:.1f}"/>')
    for dim in range(values.shape[1]):
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y[:, dim], strict=True))
        parts.append(f'<polyline class="c{dim % NUM_COLOURS}" points="{points}"/>')
    return _svg(parts, WIDTH, height)


def bars(counts: Sequence[int], low: float, high: float, *, height: float = 56.0) -> str:
    """A histogram over [low, high]."""
    width, top = 150.0, max(max(counts, default=1), 1)
    step = width / max(len(counts), 1)
    parts = [
        f'<rect x="{i * step:.1f}" y="{(height - 14) * (1 - n / top):.1f}" '
        f'width="{step - 0.5:.1f}" height="{(height - 14) * n / top:.1f}"/>'
        for i, n in enumerate(counts)
    ]
    parts.append(f'<text x="0" y="{height - 3:.0f}">{low:.3g}</text>')
    parts.append(f'<text x="{width:.0f}" y="{height - 3:.0f}" class="end">{high:.3g}</text>')
    return _svg(parts, width, height)


def cloud(points: Floats, groups: Sequence[int], *, size: float = 300.0) -> str:
    """Points (N, 2), coloured by the group of each."""
    low, high = points.min(0), points.max(0)
    place = 4 + (points - low) / np.maximum(high - low, 1e-9) * (size - 8)
    parts = [
        f'<circle class="f{g % NUM_COLOURS}" cx="{x:.1f}" cy="{size - y:.1f}" r="1.6"/>'
        for (x, y), g in zip(place, groups, strict=True)
    ]
    return _svg(parts, size, size)


def _limits(values: Floats) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - pad, high + pad


def _axes(duration_s: float, low: float, high: float, height: float) -> str:
    """The range of values at the left, the range of time below."""
    bottom = height - _BOTTOM
    texts = [
        f'<text x="{_LEFT - 4:.0f}" y="10" class="end">{high:.3g}</text>',
        f'<text x="{_LEFT - 4:.0f}" y="{bottom:.0f}" class="end">{low:.3g}</text>',
        f'<path class="axis" d="M{_LEFT} 2V{bottom}H{WIDTH - _RIGHT}"/>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = _LEFT + share * (WIDTH - _LEFT - _RIGHT)
        place = ' class="end"' if share == 1 else ""
        texts.append(
            f'<text x="{x:.0f}" y="{height - 4:.0f}"{place}>{share * duration_s:.3g} s</text>'
        )
    return "".join(texts)


def _svg(parts: Sequence[str], width: float, height: float) -> str:
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img">{"".join(parts)}</svg>'
