"""How long the shipped policy takes to choose an action chunk, one robot at a time.

    python -m scripts.bench.latency [--rounds 5] [--calls 100]
    python -m scripts.bench.latency --ways eager exported inductor onnx --steps 3 --samplers ddim
    python -m scripts.bench.latency --heads all
    python -m scripts.bench.latency --runs runs/a runs/a/evaluate-mt-v3-heun

A call is `policy.act` at batch 1, all of it: normalisation, the remembered sentence embedding,
the denoising steps, and the clamp to the action bounds. Percentiles are over all calls of all
rounds; the spread is that of the rounds' medians. "of eager" is the ratio to the same policy run
as it is, in the same rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embodied.data.windows import Windows
from embodied.latency import counted
from embodied.targets import locate
from scripts.bench._common import Rates, Report, arguments, figure, ratio_text, spread
from scripts.bench._setup import CONF, RandomEpisodes, fitted_policy, shipped_config
from scripts.bench._success import draw, point_of
from scripts.bench._ways import WAYS, missing

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
    def times_ms(self) -> NDArray[np.float64]:
        """Of all rounds."""
        return np.concatenate([np.asarray(times) for times in self.rounds]) * 1e3

    @property
    def medians(self) -> list[float]:
        return [float(np.median(times)) for times in self.rounds]


def settings(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Name and overrides of each head with each sampler and number of steps that it takes."""
    names = sorted(path.stem for path in (CONF / "head").glob("*.yaml"))
    heads = names if options.heads == ["all"] else options.heads
    for head in heads:
        node = shipped_config([f"head={head}"])["policy"]["head"]
        own = getattr(locate(node["_target_"]), "samplers", ()) if "sampler" in node else ()
        samplers = [name for name in options.samplers if name in own] or [None]
        steps = options.steps if "num_steps" in node else [None]
        for num_steps, sampler in product(steps, samplers):
            if sampler == "heun" and num_steps == 1:
                continue  # one step is Euler's
            words = [f"{num_steps} step{'s' if num_steps > 1 else ''}"] if num_steps else []
            words = [*([sampler] if sampler else []), *words]
            if options.heads != ["edm"]:
                words = [head, *words]
            choice = {"num_steps": num_steps, "sampler": sampler}
            keys = [f"policy.head.{key}={x}" for key, x in choice.items() if x is not None]
            yield ", ".join(words), [f"head={head}", *keys]


def cases(options: argparse.Namespace) -> Iterator[Timed]:
    """The shipped policy with each of `settings`, in each way."""
    episodes = RandomEpisodes(1_000)
    windows = Windows.load(episodes, label="action")
    for name, overrides in settings(options):
        try:
            policy = fitted_policy(shipped_config(overrides), windows, episodes.spec)
            act = WAYS["eager"](policy.eval().to(options.device))
            with counted(policy.head) as counts:
                act()
        except (ValueError, RuntimeError) as error:  # such as a step count that a head refuses
            print(f"left out: {name}: {error}")
            continue
        evaluations = max(counts.values(), default=0)
        if "eager" in options.ways:
            for threads in sorted({1, options.threads}):
                yield Timed(name, threads, evaluations, act)
        for way in options.ways:
            if way == "eager":
                continue
            torch.set_num_threads(1)  # a change of their number compiles anew
            try:
                yield Timed(f"{name}, {way}", 1, evaluations, WAYS[way](policy))
            except (ValueError, RuntimeError) as error:  # what cannot be one graph
                print(f"left out: {name}, {way}: {str(error).splitlines()[0]}")


def eager_of(case: Timed, timed: Sequence[Timed]) -> Timed:
    """The case that runs the same as it is, with as many threads; itself, if there is none."""
    same = [
        each
        for each in timed
        if each.threads == case.threads and case.name in (each.name, *_ways_of(each.name))
    ]
    return same[0] if same else case


def _ways_of(name: str) -> list[str]:
    return [f"{name}, {way}" for way in WAYS]


def latency_rows(timed: Sequence[Timed], action_horizon: int) -> list[dict[str, str]]:
    """A table in ms; ratios of medians are to the first case."""
    rows = []
    for case in timed:
        p50, p95, p99 = np.percentile(case.times_ms, (50, 95, 99)).tolist()
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
                "of eager": ratio_text(case.medians, eager_of(case, timed).medians),
                "CPU ms": figure(float(np.median(case.cpu)) * 1e3),
                "p50 ms per action": figure(p50 / action_horizon),
                "Hz at p99": figure(1e3 * action_horizon / p99),
                "Hz at p99, closed loop": figure(1e3 / p99),
            }
        )
    return rows


def rates_of(timed: Sequence[Timed]) -> list[Rates]:
    """Calls per second, of each round."""
    return [
        Rates(
            f"{case.name}, {case.threads} thread(s)",
            tuple(1 / x for x in case.medians),
            tuple(1 / x for x in case.cpu),
        )
        for case in timed
    ]


def compare_runs(options: argparse.Namespace) -> None:
    """A table and a picture of the success of trained policies against their latency."""
    report, points = Report("latency", options), []
    timed = []
    for path in options.runs:
        point, policy = point_of(Path(path), options.device)
        points.append(point)
        timed.append(Timed(point.name, options.threads, point.evaluations, WAYS["eager"](policy)))
    for _ in range(options.rounds):
        for case in timed:
            case.visit(options.calls)
    rows = []
    for point, case in zip(points, timed, strict=True):
        point.p50_ms, point.p99_ms = (float(x) for x in np.percentile(case.times_ms, (50, 99)))
        rows.append(point.row())
    report.add("Success and latency at batch 1", rows, rates_of(timed))
    draw(points, Path(options.png))
    print(f"written: {options.png}")
    report.close(LIMIT)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("latency", __doc__ or "")
    parser.set_defaults(threads=2)
    parser.add_argument("--calls", type=int, default=100, help="of each case and round")
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 1, 10], help="of denoising")
    parser.add_argument(
        "--samplers", nargs="+", default=["euler", "heun"], help="of those that a head has"
    )
    parser.add_argument(
        "--heads", nargs="+", default=["edm"], help="of conf/head; all: each of them"
    )
    parser.add_argument(
        "--ways", nargs="+", default=["eager"], choices=list(WAYS), help="compiling takes minutes"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--runs",
        nargs="+",
        default=[],
        help="instead: success and latency of these runs, or evaluations of runs",
    )
    parser.add_argument("--png", default="bench-latency.png", help="of --runs")
    options = parser.parse_args(argv)
    for way in [way for way in options.ways if missing(way, options.device)]:
        print(f"left out: {way}: {missing(way, options.device)}")
        options.ways.remove(way)
    # Every way compiles the same code once; at its limit torch would silently stop compiling.
    torch.compiler.config.recompile_limit = 64
    if options.runs:
        compare_runs(options)
        return
    report = Report("latency", options)
    action_horizon = shipped_config()["eval"]["action_horizon"]
    timed = list(cases(options))
    for _ in range(options.rounds):
        for case in timed:
            case.visit(options.calls)
    report.add(
        f"Latency at batch 1, {action_horizon} actions executed of each chunk",
        latency_rows(timed, action_horizon),
        rates_of(timed),
    )
    report.close(LIMIT)


if __name__ == "__main__":
    main()
