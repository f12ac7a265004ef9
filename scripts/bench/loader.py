"""Training windows per second: whole-batch gathers against loaders of one item at a time.

    python -m scripts.bench.loader [--rounds 5] [--seconds 1]

Windows have 5 states of 39 values, 10 actions of 4, and in one table two images of 128 x 128. All
cases draw from the same episodes, in batches of 256. With images, the other side is the access
pattern of LeRobotDataset, written here since the package cannot be installed beside ours: each
item opens each camera's video, seeks to the keyframe before its frame and decodes up to it (PyAV),
as float32 in [0, 1], and batches are made by `default_collate`. Its numbers lie in memory, which
the library's do not: that is in its favour. Without images it is a map-style `Dataset` over arrays
in memory. Last, how long training waits for its batches.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from embodied.algorithms.base import Algorithm
from embodied.build import instantiate
from embodied.data.placement import Placement, make_source
from embodied.data.windows import Windows
from embodied.distributed import World
from embodied.sources import Offline, Source
from embodied.structs import Batch, Episode
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.lerobot_writer import LeRobotWriter
from scripts.bench._common import Case, Rates, Report, arguments, measure, rate_rows
from scripts.bench._setup import (
    LENGTH,
    Items,
    RandomEpisodes,
    fitted_policy,
    item_batches,
    shipped_config,
)

CPU = torch.device("cpu")
SIZE = 128
CAMERAS = {"front": (SIZE, SIZE), "wrist": (SIZE, SIZE)}
HORIZONS = {"obs_horizon": 5, "pred_horizon": 10}
LIMIT = (
    "the gather by memory: random rows are copied once, in one call for each column; small rows "
    "pay the index arithmetic and one Python string for each row. One item at a time pays "
    "Python's cost of an item and a second copy when they are collated, and with videos the "
    "decoder. Everything lies in the page cache; data larger than memory are limited by the disk."
)


class Filmed(RandomEpisodes):
    """Episodes whose cameras see a bright square move over a gradient: easy to decode."""

    def __getitem__(self, index: int) -> Episode:
        episode = super().__getitem__(index)
        ramp = np.add.outer(np.arange(SIZE), np.arange(SIZE))[..., None] // 2
        for frames in episode.images.values():
            frames[:] = (ramp + np.array([0, 40, 80])).astype(np.uint8)
            for step, frame in enumerate(frames):
                frame[step : step + 20, (7 * index + step) % 100 :][:, :20] = 250
        return episode


class VideoItems(Dataset[dict[str, Any]]):
    """Single windows whose images are decoded when they are asked for.

    Args:
        windows: of the numbers.
        videos: camera -> a video of all frames, in their order.
    """

    def __init__(self, windows: Windows, videos: Mapping[str, Path], rate_hz: float) -> None:
        self.numbers = Items(windows, **HORIZONS)
        self.videos, self.rate_hz = videos, rate_hz

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        images = {f"images.{name}": self._frame(x, index) for name, x in self.videos.items()}
        return {**self.numbers[index], **images}

    def _frame(self, path: Path, index: int) -> Tensor:
        time_s = (index - 0.5) / self.rate_hz
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            container.seek(max(0, int(time_s / stream.time_base)), stream=stream)
            for frame in container.decode(stream):
                if frame.time > time_s:
                    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
                    return torch.from_numpy(pixels).movedim(-1, 0).float() / 255
        raise ValueError(f"no frame {index} in {path}")


def video_batches(items: VideoItems, batch_size: int) -> Iterator[Any]:
    """Endless collated batches of items drawn with replacement."""
    sampler = RandomSampler(items, replacement=True, num_samples=batch_size * 1_000_000)
    return iter(DataLoader(items, batch_size=batch_size, sampler=sampler, num_workers=0))


def record(root: Path, episodes: RandomEpisodes) -> dict[str, Path]:
    """Writes a LeRobot data set; camera -> its video."""
    with LeRobotWriter(root, spec=episodes.spec) as writer:
        for index, episode in enumerate(episodes):
            writer.add(f"{index:06d}", episode)
        writer.finalize()
    found = {name: [p for p in root.rglob("*.mp4") if name in str(p)] for name in CAMERAS}
    if any(len(paths) != 1 for paths in found.values()):
        raise ValueError("the videos must fit into one file for each camera; use fewer frames")
    return {name: paths[0] for name, paths in found.items()}


def batches_case(name: str, batches: Iterator[Any], batch_size: int) -> Case:
    """Takes one batch at a time; the unit is a window."""

    def run() -> float:
        next(batches)
        return float(batch_size)

    return Case(name, run)


def image_cases(root: Path, cache: Path, frames: int, size: int, peer_size: int) -> list[Case]:
    """Videos item by item first, then ours from memory and from the cache on disk.

    Args:
        peer_size: windows in a batch of the first, which is slow.
    """
    episodes = Filmed(frames, CAMERAS)
    videos = record(root, episodes)
    dataset = LeRobotDataset(root)
    memory = Windows.load(dataset, label="action")
    mapped = Windows.load(dataset, label="action", cache=cache)
    plain = Windows.load(LeRobotDataset(root, cameras=[]), label="action")
    items = VideoItems(plain, videos, episodes.spec.rate_hz)

    def ours(windows: Windows) -> Offline:
        placed = windows.laid_out(**HORIZONS)
        return Offline(placed, batch_size=size, image_horizon=1, **HORIZONS)

    return [
        batches_case("frame by frame from video", video_batches(items, peer_size), peer_size),
        batches_case("gather, in memory", ours(memory), size),
        batches_case("gather, decoded once to disk", ours(mapped), size),
    ]


def state_cases(frames: int, size: int) -> list[Case]:
    """The usual loader first, then ours as training has it."""
    windows = Windows.load(RandomEpisodes(frames), label="action")
    ours = make_source(windows, CPU, batch_size=size, seed=0, placement="device", **HORIZONS)
    items = item_batches(Items(windows, **HORIZONS), size)
    return [
        batches_case("Dataset + default_collate", items, size),
        batches_case("gather", ours, size),
    ]


# Waiting


def waiting(algorithm: Algorithm, source: Source, seconds: float) -> float:
    """The share of training time that passes before the next batch is there."""
    start, waited = time.perf_counter(), 0.0
    for step in itertools.count():
        before = time.perf_counter()
        batch: Batch = next(source)
        waited += time.perf_counter() - before
        algorithm.update(batch, step)
        if (elapsed := time.perf_counter() - start) >= seconds:
            return waited / elapsed
    raise AssertionError("unreachable")


def waiting_rates(image_windows: Windows, frames: int, rounds: int, seconds: float) -> list[Rates]:
    """The shipped policy and recipe on states, and on batches that carry unused images too."""
    config, episodes = shipped_config(), RandomEpisodes(frames)
    state_windows = Windows.load(episodes, label="action")
    policy = fitted_policy(config, state_windows, episodes.spec)
    algorithm = instantiate(config["algorithm"])(
        policy, world=World(0, 1, CPU), steps=1_000_000, seed=0
    )
    arguments: dict[str, Any] = {"batch_size": config["train"]["batch_size"], "seed": 0}
    arguments |= {"obs_horizon": policy.obs_horizon, "pred_horizon": policy.pred_horizon}

    def source(windows: Windows, placement: Placement) -> Source:
        return make_source(windows, CPU, placement=placement, **arguments)

    cases = {
        "states, in memory": source(state_windows, "device"),
        "states, made ahead": source(state_windows, "host"),
        "two images besides, in memory": source(image_windows, "device"),
        "two images besides, made ahead": source(image_windows, "host"),
    }
    shares: dict[str, list[float]] = {name: [] for name in cases}
    for each in cases.values():
        waiting(algorithm, each, 0.0)
    for _ in range(rounds):
        for name, each in cases.items():
            shares[name].append(waiting(algorithm, each, seconds))
    for each in cases.values():
        each.close()
    return [Rates(name, tuple(found), tuple(found)) for name, found in shares.items()]


def share_rows(rates: Sequence[Rates]) -> list[dict[str, str]]:
    """Median and range of shares of time."""
    return [
        {
            "case": each.name,
            "waiting": f"{median(each.wall):.2%}",
            "range": f"{min(each.wall):.2%} to {max(each.wall):.2%}",
        }
        for each in rates
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("loader", __doc__ or "")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each visit")
    parser.add_argument("--frames", type=int, default=100_000, help="without images")
    parser.add_argument("--image-frames", type=int, default=20 * LENGTH, help="with images")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--peer-batch-size", type=int, default=256, help="of the video decoder")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report = Report("loader", options)
    how = {"rounds": options.rounds, "seconds": options.seconds}
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "set", Path(folder) / "cache"
        sizes = options.batch_size, options.peer_batch_size
        tables = {
            "States": state_cases(options.frames, options.batch_size),
            "States and two images": image_cases(root, cache, options.image_frames, *sizes),
        }
        for title, cases in tables.items():
            rates = measure(cases, **how)
            report.add(title, rate_rows(rates, "windows"), rates)
        windows = Windows.load(LeRobotDataset(root), label="action", cache=cache)
        shares = waiting_rates(windows, options.frames, **how)
        report.add("Share of training time spent waiting for data", share_rows(shares), shares)
    report.close(LIMIT)


if __name__ == "__main__":
    main()
