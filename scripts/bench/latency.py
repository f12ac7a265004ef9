"""How long the shipped policy takes to choose an action chunk, one robot at a time.

    python -m scripts.bench.latency [--rounds 5] [--calls 100] [--compile]

A call is `policy.act` at batch 1, all of it: normalisation, the remembered sentence embedding,
the denoising steps, and the clamp to the action bounds. Percentiles are over all calls of all
rounds; the spread is that of the rounds' medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch

from embodied.data.windows import Windows
from embodied.noise import RowNoise
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Condition, Observation
from scripts.bench._common import Rates, Report, arguments, figure, ratio_text, spread
from scripts.bench._setup import INSTRUCTIONS, RandomEpisodes, fitted_policy, shipped_config

LIMIT = (
    "calls, not arithmetic: at batch 1 a denoising step is some dozens of small operations, each "
    "with a fixed cost of microseconds, so time grows with the evaluations of the network (Heun: "
    "two for each step but the last). The tail is the operating system's: with two threads, every "
    "operation waits for the slower one, which another process may have displaced."
)


@dataclass
class Timed:
    """A way to act, and how long its calls took, in s, one list for each round."""

    name: str
    threads: int
    evaluations: int
    act: Callable[[], Any]
    rounds: list[list[float]] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def visit(self, calls: int) -> None:
        torch.set_num_threads(self.threads)
        self.act()
        times, cpu = [], time.process_time()
        for _ in range(calls):
            start = time.perf_counter()
            self.act()
            times.append(time.perf_counter() - start)
        self.cpu.append((time.process_time() - cpu) / calls)
        self.rounds.append(times)

    @property
    def medians(self) -> list[float]:
        return [float(np.median(times)) for times in self.rounds]


def actor(policy: ChunkPolicy, *, compiled: bool) -> Callable[[], Any]:
    """One call of the policy for one made-up observation."""
    observation = Observation(state=torch.randn(1, policy.obs_horizon, policy.spec.state_dim))
    condition = Condition(language=INSTRUCTIONS[:1])
    noise = RowNoise([torch.Generator().manual_seed(0)])
    choose = torch.compile(policy.act) if compiled else policy.act

    @torch.inference_mode()
    def act() -> Any:
        return choose(observation, condition, noise=noise)

    return act


def ways(options: argparse.Namespace) -> Iterator[Timed]:
    """The shipped policy with each sampler and number of steps, eager and compiled."""
    episodes = RandomEpisodes(1_000)
    windows = Windows.load(episodes, label="action")
    for num_steps, sampler in product(options.steps, options.samplers):
        evaluations = num_steps if sampler == "euler" else 2 * num_steps - 1
        if sampler == "heun" and num_steps == 1:
            continue  # one step is Euler's
        head = [f"policy.head.num_steps={num_steps}", f"policy.head.sampler={sampler}"]
        policy = fitted_policy(shipped_config(head), windows, episodes.spec).eval()
        name = f"{sampler}, {num_steps} step{'s' if num_steps > 1 else ''}"
        act = actor(policy, compiled=False)
        for threads in sorted({1, options.threads}):
            yield Timed(name, threads, evaluations, act)
        if options.compile:  # with one thread: a change of their number compiles anew
            yield Timed(f"{name}, compiled", 1, evaluations, actor(policy, compiled=True))


def latency_rows(timed: Sequence[Timed], action_horizon: int) -> list[dict[str, str]]:
    """A table in ms; ratios of medians are to the first case."""
    rows = []
    for case in timed:
        times = np.concatenate([np.asarray(x) for x in case.rounds]) * 1e3
        p50, p95, p99 = np.percentile(times, (50, 95, 99)).tolist()
        rows.append(
            {
                "case": case.name,
                "threads": str(case.threads),
                "evaluations": str(case.evaluations),
                "p50 ms": figure(p50),
                "p95 ms": figure(p95),
                "p99 ms": figure(p99),
                "spread": f"{spread(case.medians):.0%}",
                "p50 ratio": ratio_text(case.medians, timed[0].medians),
                "CPU ms": figure(float(np.median(case.cpu)) * 1e3),
                "p50 ms per action": figure(p50 / action_horizon),
                "Hz at p99": figure(1e3 * action_horizon / p99),
                "Hz at p99, closed loop": figure(1e3 / p99),
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("latency", __doc__ or "")
    parser.set_defaults(threads=2)
    parser.add_argument("--calls", type=int, default=100, help="of each case and round")
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 1, 10], help="of denoising")
    parser.add_argument(
        "--samplers", nargs="+", default=["euler", "heun"], choices=["euler", "heun"]
    )
    parser.add_argument("--compile", action="store_true", help="also with torch.compile (minutes)")
    options = parser.parse_args(argv)
    # Every way compiles the same code once; at its limit torch would silently stop compiling.
    torch.compiler.config.recompile_limit = 64
    report = Report("latency", options)
    action_horizon = shipped_config()["eval"]["action_horizon"]
    timed = list(ways(options))
    for _ in range(options.rounds):
        for case in timed:
            case.visit(options.calls)
    rounds = [
        Rates(
            f"{case.name}, {case.threads} thread(s)",
            tuple(1 / x for x in case.medians),
            tuple(1 / x for x in case.cpu),
        )
        for case in timed
    ]
    report.add(
        f"Latency at batch 1, {action_horizon} actions executed of each chunk",
        latency_rows(timed, action_horizon),
        rounds,
    )
    report.close(LIMIT)


if __name__ == "__main__":
    main()
