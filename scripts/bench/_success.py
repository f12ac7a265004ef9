"""Success of trained policies against the time that they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embodied.build import read_stored
from embodied.latency import calls, counted, with_sampling
from embodied.loading import load_policy
from embodied.policies.base import Policy
from embodied.policies.chunk import ChunkPolicy
from embodied.results import RESULTS_FILE, read_results
from embodied.statistics import Estimate
from scripts.bench._common import figure


@dataclass
class Point:
    """One evaluation of one policy.

    Attributes:
        name: of its folder.
        head: class of the head and how it was sampled.
        evaluations: of the head's network, in a call.
        p50_ms, p99_ms: of a call at batch 1.
    """

    name: str
    head: str
    success: Estimate
    evaluations: int
    p50_ms: float = 0.0
    p99_ms: float = 0.0

    def row(self) -> dict[str, str]:
        rate = self.success
        return {
            "case": self.name,
            "head": self.head,
            "evaluations": str(self.evaluations),
            "success": f"{rate.mean:.3f} [{rate.low:.3f}, {rate.high:.3f}]",
            "p50 ms": figure(self.p50_ms),
            "p99 ms": figure(self.p99_ms),
        }


def point_of(path: Path, device: str) -> tuple[Point, Policy]:
    """An evaluation and its policy, sampled as it was then.

    Args:
        path: a run, or the folder of an evaluation of one.
    """
    found = read_results(path / RESULTS_FILE)
    node = found.config["policy"]["head"]
    policy, loaded = load_policy(_checkpoint(path, found.checkpoint), device)
    stored = read_stored(loaded.documents["config"])
    keys = [key for key in ("sampler", "num_steps") if key in node]
    evaluations = 1
    if isinstance(policy, ChunkPolicy):
        _, policy = with_sampling(stored, policy, {key: node[key] for key in keys})
        assert isinstance(policy, ChunkPolicy)
        with counted(policy.head) as counts:
            calls(policy)()
        evaluations = max(counts.values(), default=0)
    head = ", ".join([node["_target_"].rpartition(".")[2], *(str(node[key]) for key in keys)])
    return Point(path.name, head, found.success(), evaluations), policy


def _checkpoint(path: Path, named: str | None) -> Path:
    if (path / "checkpoints").is_dir() or named is None:
        return path
    return Path(named).parent if Path(named).name == "checkpoints" else Path(named)


def draw(points: Sequence[Point], path: Path) -> None:
    """A PNG: success with its interval over the median latency, on a logarithmic axis."""
    from matplotlib.figure import Figure  # late: it takes a second

    picture = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    axes = picture.subplots()
    for head in sorted({point.head.partition(",")[0] for point in points}):
        mine = sorted(
            (point for point in points if point.head.partition(",")[0] == head),
            key=lambda point: point.p50_ms,
        )
        rates = [point.success for point in mine]
        means = [rate.mean for rate in rates]
        errors = [
            [max(0.0, rate.mean - rate.low) for rate in rates],
            [max(0.0, rate.high - rate.mean) for rate in rates],
        ]
        times = [point.p50_ms for point in mine]
        axes.errorbar(times, means, errors, marker="o", capsize=3, label=head)
        for point, time, mean in zip(mine, times, means, strict=True):
            axes.annotate(point.name, (time, mean), (4, 4), textcoords="offset points", fontsize=6)
    axes.set(
        xscale="log", xlabel="median latency at batch 1 (ms)", ylabel="success", ylim=(0, 1.05)
    )
    axes.grid(alpha=0.3)
    axes.legend()
    picture.savefig(path)
