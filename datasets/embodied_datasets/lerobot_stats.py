"""Statistics of features in LeRobot's form: min, max, mean, std, count and five quantiles.

Quantiles are exact, also over the whole set, where LeRobot averages those of its episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)

_MAX_SAMPLED_FRAMES = 100

Stats = dict[str, NDArray[Any]]


def array_stats(values: NDArray[Any]) -> Stats:
    """Statistics over the rows of an (L, n) or (L,) array, each (n,); count is (1,)."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0),
        "std": rows.std(0),
        "count": np.array([len(rows)]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def merge(first: Stats, second: Stats) -> Stats:
    """Statistics of two parts together: exact but for the quantiles, which are averaged with the
    counts as weights, as LeRobot does."""
    counts = first["count"] + second["count"]
    weights = first["count"] / counts, second["count"] / counts
    mean = weights[0] * first["mean"] + weights[1] * second["mean"]
    variance = sum(
        weight * (part["std"] ** 2 + (part["mean"] - mean) ** 2)
        for weight, part in zip(weights, (first, second), strict=True)
    )
    merged = {
        "min": np.minimum(first["min"], second["min"]),
        "max": np.maximum(first["max"], second["max"]),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": counts,
    }
    return merged | {q: weights[0] * first[q] + weights[1] * second[q] for q in QUANTILES}


def histogram(frames: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Counts (3, 256) of the values of each colour in up to 100 evenly spaced (L, h, w, 3) frames.

    Histograms add up, so that the statistics of many episodes follow from those of each.
    """
    count = min(len(frames), _MAX_SAMPLED_FRAMES)
    sampled = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    channels = np.moveaxis(sampled, -1, 0).reshape(3, -1)
    return np.stack([np.bincount(channel, minlength=256) for channel in channels])


def image_stats(counts: NDArray[np.int64], num_frames: int) -> Stats:
    """Statistics of a (3, 256) histogram on a [0, 1] scale, each (3, 1, 1); count is (1,)."""
    levels = np.arange(256) / 255.0
    weights = counts / counts.sum(1, keepdims=True)
    mean = weights @ levels
    variance = (weights * (levels - mean[:, None]) ** 2).sum(1)
    cumulative = weights.cumsum(1)
    present = counts > 0
    stats = {
        "min": levels[present.argmax(1)],
        "max": levels[255 - present[:, ::-1].argmax(1)],
        "mean": mean,
        "std": np.sqrt(variance),
    }
    for name, q in QUANTILES.items():
        stats[name] = levels[(cumulative >= q).argmax(1)]
    shaped = {name: value.reshape(3, 1, 1) for name, value in stats.items()}
    return shaped | {"count": np.array([num_frames])}


def sampled_frames(length: int) -> int:
    """How many frames of an episode of this length `histogram` looks at."""
    return min(length, _MAX_SAMPLED_FRAMES)
