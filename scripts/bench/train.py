"""Training steps per second of the shipped policy: the framework against the bare minimum.

    python -m scripts.bench.train [--rounds 5] [--seconds 3]

All cases train the same network on the same made-up windows (39 state values, 4 action values, an
instruction). The plain loop is what one would write by hand: batches made beforehand, loss,
backward, AdamW, and neither clipping, schedule nor averaged weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from embodied.build import instantiate
from embodied.data.windows import Windows
from embodied.distributed import World
from embodied.noise import BatchNoise
from embodied.policies.chunk import ChunkPolicy
from embodied.sources import Offline
from embodied.structs import Batch
from scripts.bench._common import Case, Rates, Report, arguments, measure, rate_rows, ratios
from scripts.bench._setup import Items, RandomEpisodes, fitted_policy, item_batches, shipped_config

CPU = torch.device("cpu")
NUM_READY = 16  # batches that the plain loop finds ready, in turn
LIMIT = (
    "the matrix products, by the fractions of the peak above; what is missing there goes to small "
    "operations between them (normalisation, softmax, GELU, AdamW), which are limited by memory "
    "and by the cost of a call, and weigh more in bf16, where the products are faster."
)


def trained(name: str, policy: ChunkPolicy, node: Mapping[str, Any], batches: Any) -> Case:
    """The framework's step: next batch, then update."""
    algorithm = instantiate(node)(policy, world=World(0, 1, CPU), steps=1_000_000, seed=0)
    steps = itertools.count()

    def run() -> float:
        algorithm.update(next(batches), next(steps))
        return 1.0

    return Case(name, run)


def plain(policy: ChunkPolicy, node: Mapping[str, Any], batches: Sequence[Batch]) -> Case:
    """The loop by hand, with the same optimiser settings."""
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=node["learning_rate"], weight_decay=node["weight_decay"], fused=True
    )
    noise = BatchNoise(torch.Generator().manual_seed(0))
    ready: Iterator[Batch] = itertools.cycle(batches)

    def run() -> float:
        loss, _ = policy.loss(next(ready), noise=noise)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return 1.0

    return Case("plain loop, fp32", run)


def training_cases(policy: ChunkPolicy, windows: Windows, config: Mapping[str, Any]) -> list[Case]:
    node, size = config["algorithm"], config["train"]["batch_size"]
    horizons = {"obs_horizon": policy.obs_horizon, "pred_horizon": policy.pred_horizon}
    source = Offline(windows, batch_size=size, **horizons)
    items = item_batches(Items(windows, **horizons), size)
    fp32, bf16 = {**node, "precision": "fp32"}, {**node, "precision": "bf16"}
    return [
        plain(policy, node, [next(source) for _ in range(NUM_READY)]),
        trained("ours, fp32", policy, fp32, source),
        trained("ours, bf16", policy, bf16, source),
        trained("ours, fp32, Dataset + default_collate", policy, fp32, items),
    ]


def step_flop(policy: ChunkPolicy, batch: Batch) -> float:
    """Floating-point operations of the matrix products of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        loss, _ = policy.loss(batch, noise=BatchNoise(torch.Generator().manual_seed(0)))
        loss.backward()  # type: ignore[no-untyped-call]
    policy.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


def peak_case(name: str, dtype: torch.dtype, size: int) -> Case:
    """One large square matrix product; the unit is 1e9 operations."""
    x = torch.randn(size, size).to(dtype)
    out = torch.empty_like(x)

    def run() -> float:
        torch.mm(x, x, out=out)
        return 2e-9 * size**3

    return Case(name, run)


def fraction_rows(steps: Sequence[Rates], peaks: Sequence[Rates], gflop: float) -> Any:
    """What part of the peak of its own precision each case reaches."""
    rows = []
    for case in steps:
        peak = peaks[1 if "bf16" in case.name else 0]
        parts = [gflop * x for x in ratios(case.wall, peak.wall)]
        low, high = min(parts), max(parts)
        of_peak = f"{median(parts):.0%} [{low:.0%}, {high:.0%}]"
        rows.append({"case": case.name, "peak": peak.name, "reached": of_peak})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("train", __doc__ or "")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each visit")
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--gemm-size", type=int, default=2048, help="of the peak's matrices")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report = Report("train", options)
    config, episodes = shipped_config(), RandomEpisodes(options.frames)
    windows = Windows.load(episodes, label="action")
    policy = fitted_policy(config, windows, episodes.spec)
    cases = training_cases(policy, windows, config)
    cases += [
        peak_case("matrix product, fp32", torch.float32, options.gemm_size),
        peak_case("matrix product, bf16", torch.bfloat16, options.gemm_size),
    ]
    rates = measure(cases, rounds=options.rounds, seconds=options.seconds)
    steps, peaks = rates[:-2], rates[-2:]
    size = config["train"]["batch_size"]
    gflop = (
        step_flop(
            policy,
            next(
                Offline(
                    windows,
                    batch_size=size,
                    obs_horizon=policy.obs_horizon,
                    pred_horizon=policy.pred_horizon,
                )
            ),
        )
        / 1e9
    )
    count = sum(p.numel() for p in policy.parameters())
    print(f"{count:,} parameters, {gflop:.2f} GFLOP in the matrix products of a step")
    report.content["gflop"], report.content["parameters"] = gflop, count
    columns = {"samples/s": size, "GFLOP/s": gflop}
    report.add(f"Training, batch {size}", rate_rows(steps, "steps", columns), steps)
    report.add("Peak of this machine", rate_rows(peaks, "GFLOP"), peaks)
    report.add("Fraction of the peak", fraction_rows(steps, peaks, gflop), ())
    report.close(LIMIT)


if __name__ == "__main__":
    main()
