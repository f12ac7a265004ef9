"""Training windows per second: one gather for a whole batch against one item at a time.

    python -m scripts.bench.loader [--rounds 5] [--seconds 1]

Both give the same windows: 39 state values and 4 action values, or two 64 x 64 cameras besides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from embodied.data.windows import Windows
from embodied.sources import Offline
from embodied.structs import Batch
from scripts.bench._common import Case, Report, arguments, measure, rate_rows
from scripts.bench._setup import Items, RandomEpisodes, item_batches

CAMERAS = {"front": (64, 64), "wrist": (64, 64)}
PRED_HORIZON = 4
LIMIT = (
    "the gather by memory: random rows are copied once, in one call for each column; small rows "
    "pay the index arithmetic and one Python string for each row. One item at a time pays "
    "Python's cost of an item, and a second copy when they are collated. Everything lies in the "
    "page cache; data larger than memory are limited by the disk."
)


def batches_case(name: str, batches: Iterator[Batch], batch_size: int) -> Case:
    """Takes one batch at a time; the unit is a window."""

    def run() -> float:
        next(batches)
        return float(batch_size)

    return Case(name, run)


def cases(episodes: RandomEpisodes, cache: Path, batch_size: int, obs_horizon: int) -> list[Case]:
    """The usual loader first, then ours from memory and from a memory-mapped file."""
    memory = Windows.load(episodes, label="action")
    mapped = Windows.load(episodes, label="action", cache=cache)
    items = Items(memory, obs_horizon=obs_horizon, pred_horizon=PRED_HORIZON)

    def ours(windows: Windows) -> Offline:
        return Offline(
            windows, batch_size=batch_size, obs_horizon=obs_horizon, pred_horizon=PRED_HORIZON
        )

    return [
        batches_case("Dataset + default_collate", item_batches(items, batch_size), batch_size),
        batches_case("gather, in memory", ours(memory), batch_size),
        batches_case("gather, memory-mapped", ours(mapped), batch_size),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("loader", __doc__ or "")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each visit")
    parser.add_argument("--frames", type=int, default=100_000, help="without images")
    parser.add_argument("--image-frames", type=int, default=2_000, help="with images")
    parser.add_argument("--batch-size", type=int, default=256)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report = Report("loader", options)
    tables = (
        ("State, obs_horizon 1", RandomEpisodes(options.frames), 1),
        ("State, obs_horizon 2", RandomEpisodes(options.frames), 2),
        ("State and two cameras, obs_horizon 1", RandomEpisodes(options.image_frames, CAMERAS), 1),
    )
    with tempfile.TemporaryDirectory() as folder:
        for title, episodes, obs_horizon in tables:
            timed = cases(episodes, Path(folder), options.batch_size, obs_horizon)
            rates = measure(timed, rounds=options.rounds, seconds=options.seconds)
            report.add(title, rate_rows(rates, "windows"), rates)
    report.close(LIMIT)


if __name__ == "__main__":
    main()
