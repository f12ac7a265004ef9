"""Success against the time that a policy takes to think: one figure, resumable.

    python scripts/delay.py RUN --out runs/delay [--delays-ms 0 50 100 150 200] [--goals 15]
                            [--modes naive aligned ensemble realtime trained] [--tasks reach-v3 ...]

RUN is a run that was trained in a suite, or one checkpoint of it; its chunks must last for the
longest delay and for the steps until the next one. Every mode plays the same episodes, on goals
that nobody demonstrated. Each pair of mode and delay is kept in OUT/cells as it is done, so that
the same command goes on; OUT/delay.json has the figures and OUT/delay.png shows them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from embodied.assessment import suite_of
from embodied.build import instantiate
from embodied.checkpoint_files import CheckpointError
from embodied.delayed import Delayed
from embodied.deploy.chunks import Mode
from embodied.evaluation import evaluate
from embodied.execution import RealTime, Receding
from embodied.loading import load_policy
from embodied.policies.base import Policy
from embodied.protocols import Protocol
from embodied.results import Evaluation, read_results, versions, write_atomically, write_results
from embodied.rollout import Controller
from embodied.simulators import open_envs
from embodied.statistics import Estimate
from embodied.suites import Assignment, Suite

MODES: Mapping[str, tuple[Mode, str]] = {
    "naive": ("naive", "a chunk from its beginning, whenever it came"),
    "aligned": ("aligned", "what the newest chunk has for now"),
    "ensemble": ("ensemble", "the mean of what all chunks have for now"),
    "realtime": ("aligned", "real-time chunking, guided"),
    "trained": ("aligned", "real-time chunking, as trained"),
}
_BATCH = 4  # slots plan at times of their own, so that few do so together

BASE = ("aligned", 0.0)
"""What the others are compared with: it is the plain receding horizon."""


@dataclass(frozen=True)
class Cell:
    """One way to act, of the figure.

    Attributes:
        steps: environment steps of the delay.
    """

    mode: str
    delay_ms: float
    steps: int

    @property
    def name(self) -> str:
        return f"{self.mode}-{self.delay_ms:g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 2 if it was refused."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        policy, found = load_policy(options.run, options.device)
        suite: Suite = instantiate(suite_of(found.documents["config"]))
        episodes = episodes_of(suite, options)
        cells = cells_of(options, policy.spec.rate_hz)
        for cell in cells:
            actor(policy, 1, cell, options.action_horizon)  # what does not fit is said before
    except (ValueError, OSError, CheckpointError) as error:
        print(f"delay: {error}", file=sys.stderr)
        return 2
    done = measure(policy, suite, episodes, cells, options, str(found.path))
    summary = summarise(done, options)
    write_atomically(options.out / "delay.json", json.dumps(summary, indent=1) + "\n")
    draw(done, options.out / "delay.png", f"{len(episodes)} episodes each")
    print(table(done))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("runs/delay"), metavar="FOLDER")
    parser.add_argument("--delays-ms", type=float, nargs="+", default=[0, 50, 100, 150, 200])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--tasks", nargs="+", default=[], help="of the suite; by default all")
    parser.add_argument("--goals", type=int, default=15, help="episodes of each task")
    parser.add_argument("--benchmark-seed", type=int, default=42, help="of the goals")
    parser.add_argument("--max-steps", type=int, default=300, help="of an episode")
    parser.add_argument(
        "--action-horizon",
        type=int,
        default=8,
        help="steps between plans, unless thinking is slower",
    )
    parser.add_argument("--num-envs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    return parser


def episodes_of(suite: Suite, options: argparse.Namespace) -> tuple[Assignment, ...]:
    """The same for all cells; raises ValueError for a task that the suite has not."""
    if unknown := sorted(set(options.tasks) - set(suite.tasks)):
        raise ValueError(f"--tasks: {suite.name} has no {', '.join(unknown)}, but {suite.tasks}")
    protocol = Protocol(
        "delay",
        goals_per_task=options.goals,
        max_steps=options.max_steps,
        benchmark_seed=options.benchmark_seed,
    )
    wanted = options.tasks or suite.tasks
    return tuple(each for each in protocol.assignments(suite) if each.task in wanted)


def cells_of(options: argparse.Namespace, rate_hz: float) -> list[Cell]:
    """Every mode at every delay, the base first; naive without a delay is the same as aligned."""
    pairs = [(mode, float(ms)) for ms in options.delays_ms for mode in options.modes]
    wanted = [BASE, *(pair for pair in pairs if pair not in (BASE, ("naive", 0.0)))]
    return [Cell(mode, ms, round(ms * rate_hz / 1000)) for mode, ms in dict.fromkeys(wanted)]


def actor(policy: Policy, num_slots: int, cell: Cell, action_horizon: int) -> Delayed:
    """The policy with the cell's delay; raises ValueError where its chunks are too short."""
    execution = Receding()
    if cell.mode in ("realtime", "trained"):
        execution = RealTime(delay=cell.steps, trained=cell.mode == "trained")
    controller = Controller(
        policy,
        num_slots,
        action_horizon=action_horizon,
        inference_batch=_BATCH,
        execution=execution,
    )
    return Delayed(controller, delay=cell.steps, mode=MODES[cell.mode][0])


def measure(
    policy: Policy,
    suite: Suite,
    episodes: Sequence[Assignment],
    cells: Sequence[Cell],
    options: argparse.Namespace,
    source: str,
) -> dict[Cell, Evaluation]:
    """Plays what is not in OUT/cells yet, or was played otherwise."""
    settings = {"num_envs": options.num_envs, "workers": 0, "timeout_s": 300, "backend": "python"}
    found = {}
    with open_envs(suite, settings) as envs:
        for cell in cells:
            path = options.out / "cells" / f"{cell.name}.json"
            how = {**asdict(cell), "action_horizon": options.action_horizon}
            kept = read_results(path) if path.exists() else None
            if kept is None or not _same(kept, source, how, episodes, options.max_steps):
                start = time.monotonic()
                acting = actor(policy, options.num_envs, cell, options.action_horizon)
                outcomes = evaluate(
                    acting, envs, episodes, max_steps=options.max_steps, description=cell.name
                )
                kept = Evaluation(
                    protocol=f"delay-{options.max_steps}",
                    checkpoint=source,
                    outcomes=outcomes,
                    wall_s=time.monotonic() - start,
                    seed=options.benchmark_seed,
                    versions=versions(),
                    config=how,
                )
                write_results(path, kept)
            found[cell] = kept
    return found


def _same(
    kept: Evaluation,
    source: str,
    how: Mapping[str, Any],
    episodes: Sequence[Assignment],
    max_steps: int,
) -> bool:
    """Whether a cell was played with this policy, so, and on these episodes."""
    played = tuple(each.assignment for each in kept.outcomes)
    same = (kept.checkpoint, kept.protocol) == (source, f"delay-{max_steps}")
    return same and dict(kept.config) == how and played == tuple(episodes)


def kept_share(cell: Evaluation, base: Evaluation) -> Estimate:
    """The share of the base's success that is kept, with the interval of pairs."""
    whole, change = base.success().mean, cell.difference_from(base)
    if whole == 0:
        return Estimate(float("nan"), 0.0, 1.0, change.episodes)
    parts = (1 + x / whole for x in (change.mean, change.low, change.high))
    return Estimate(*parts, change.episodes)


def summarise(done: Mapping[Cell, Evaluation], options: argparse.Namespace) -> dict[str, Any]:
    """What OUT/delay.json holds."""
    base = next(iter(done.values()))
    rows = [
        {
            **asdict(cell),
            "success": asdict(evaluation.success()),
            "kept": asdict(kept_share(evaluation, base)),
            "tasks": {task: rate.mean for task, rate in evaluation.per_task().items()},
            "invalid": len(evaluation.invalid),
            "wall_s": round(evaluation.wall_s, 1),
        }
        for cell, evaluation in done.items()
    ]
    asked = {name: getattr(options, name) for name in ("goals", "benchmark_seed", "max_steps")}
    return {
        "checkpoint": base.checkpoint,
        **asked,
        "action_horizon": options.action_horizon,
        "tasks": list(base.tasks),
        "versions": dict(base.versions),
        "cells": rows,
    }


def table(done: Mapping[Cell, Evaluation]) -> str:
    """Success of each cell, and what is kept of the base's."""
    base = next(iter(done.values()))
    lines = ["| mode | delay | success | kept of no delay's | invalid |", "|---|---|---|---|---|"]
    for cell, evaluation in done.items():
        rate, kept = evaluation.success(), kept_share(evaluation, base)
        lines.append(
            f"| {cell.mode} | {cell.delay_ms:g} ms ({cell.steps} steps) | {rate.mean:.3f} "
            f"[{rate.low:.3f}, {rate.high:.3f}] | {kept.mean:.3f} [{kept.low:.3f}, "
            f"{kept.high:.3f}] | {len(evaluation.invalid)} |"
        )
    return "\n".join(lines)


def draw(done: Mapping[Cell, Evaluation], path: Path, title: str) -> None:
    """A PNG: success with its interval over the delay, one line for each mode."""
    from matplotlib.figure import Figure  # heavy, and only pictures need it

    picture = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    axes = picture.subplots()
    base = next(iter(done.values()))
    modes = list(dict.fromkeys(cell.mode for cell in done))
    for place, mode in enumerate(modes):
        mine = {cell.delay_ms: each.success() for cell, each in done.items() if cell.mode == mode}
        mine = dict(sorted({**({0.0: base.success()} if mode == "naive" else {}), **mine}.items()))
        means = [rate.mean for rate in mine.values()]
        errors = [
            [max(0.0, rate.mean - rate.low) for rate in mine.values()],
            [max(0.0, rate.high - rate.mean) for rate in mine.values()],
        ]
        beside = [ms + 2 * (place - len(modes) / 2) for ms in mine]  # so that bars can be told
        axes.errorbar(
            beside, means, errors, marker="o", capsize=3, label=f"{mode}: {MODES[mode][1]}"
        )
    axes.axhline(0.95 * base.success().mean, color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="delay of a plan (ms)", ylabel="success", ylim=(0, 1.05), title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
