"""Runs beside one another in a table: success, size, time to train, time to act."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embodied.latency import latencies_ms
from embodied.loading import load_policy
from embodied.results import RESULTS_FILE, Evaluation, read_results
from embodied.statistics import Estimate, over_seeds

SUCCESS = "success"
_NOT_OF_THE_RECIPE = {"seed", "run_dir", "data_dir", "device", "threads", "workers", "num_envs"}
"""Keys whose values do not tell what was tried."""


@dataclass(frozen=True)
class Run:
    """One trained and evaluated policy.

    Attributes:
        train_s: wall-clock of the training; None where it was not kept.
    """

    path: Path
    evaluation: Evaluation
    train_s: float | None

    @property
    def name(self) -> str:
        """Its folder's; of a job of a multirun, which has a number, what was overridden."""
        overrides = self.path / ".hydra" / "overrides.yaml"
        if not (self.path.name.isdigit() and overrides.exists()):
            return self.path.name
        told = [line.removeprefix("- ") for line in overrides.read_text().splitlines()]
        kept = [each for each in told if each.split("=")[0] not in _NOT_OF_THE_RECIPE]
        return " ".join(kept) or self.path.name

    @property
    def recipe(self) -> str:
        """What it shares with runs that differ in their seed alone, or in that of the run that
        they started from; what lies beside a run, such as its chain's data, is its own."""
        config = dict(self.evaluation.config)
        if (start := config.get("init_from")) and (Path(start) / RESULTS_FILE).exists():
            config["init_from"] = read_run(Path(start)).recipe
        plain = json.dumps(_recipe(config), sort_keys=True)
        folder = str(config.get("run_dir"))
        return plain.replace(folder, "").replace(str(Path(folder).parent) + "/", "")


@dataclass(frozen=True)
class Row:
    """Runs of one recipe."""

    name: str
    runs: tuple[Run, ...]

    @property
    def train_s(self) -> float | None:
        """Mean of those whose training was timed."""
        known = [run.train_s for run in self.runs if run.train_s is not None]
        return float(np.mean(known)) if known else None

    def figure(self, measure: str = SUCCESS, probe: str | None = None) -> Estimate:
        """Of one run, as it reports it; of several as of `across`.

        Args:
            measure: "success", or a further measure of the environment's.
        """
        return across([figure_of(run.evaluation, measure, probe) for run in self.runs])

    def per_task(self, probe: str | None = None) -> dict[str, float]:
        """The mean success of each task over the runs."""
        found = [_measured(run.evaluation, probe).per_task() for run in self.runs]
        return {task: float(np.mean([each[task].mean for each in found])) for task in found[0]}


def figure_of(evaluation: Evaluation, measure: str, probe: str | None = None) -> Estimate:
    """Success or another measure; ValueError where there is none of the name."""
    found = _measured(evaluation, probe)
    if measure == SUCCESS:
        return found.success()
    known = found.metrics()
    if measure not in known:
        raise ValueError(f"measure {measure!r} is none of {', '.join((SUCCESS, *known))}")
    return known[measure]


def across(found: Sequence[Estimate]) -> Estimate:
    """One run's figure as it is; of several the mean, with the 95 % interval of Student's t over
    seeds. The ends of shares, which lie within [0, 1] in every run, do so too."""
    if len(found) == 1:
        return found[0]
    mean = over_seeds([each.mean for each in found])
    shares = all(0 <= each.low <= each.high <= 1 for each in found)
    low, high = (max(0.0, mean.low), min(1.0, mean.high)) if shares else (mean.low, mean.high)
    return Estimate(mean.mean, low, high, sum(each.episodes for each in found))


@dataclass(frozen=True)
class Cost:
    """Of acting with a policy.

    Attributes:
        parameters: numbers in it that can be trained.
        p50_ms, p99_ms: of one call at batch 1 on this machine's CPU.
    """

    parameters: int
    p50_ms: float
    p99_ms: float


def cost_of(run: Run) -> Cost:
    """Loads the run's newest checkpoint and times it."""
    policy, _ = load_policy(run.path, "cpu")
    p50, p99 = np.percentile(latencies_ms(policy), [50, 99])
    return Cost(sum(p.numel() for p in policy.parameters()), float(p50), float(p99))


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs at the paths, or in the folders there.

    Raises ValueError where there is none, or where one was evaluated by another protocol.
    """
    found = [read_run(folder) for path in paths for folder in _folders(path)]
    protocols = {run.evaluation.protocol: run.path for run in found}
    if len(protocols) > 1:
        told = "; ".join(f"{name} ({path})" for name, path in protocols.items())
        raise ValueError(f"runs of several protocols cannot stand in one table: {told}")
    return found


def read_run(path: Path) -> Run:
    """A finished run's folder."""
    clock = path / "wall_clock.json"
    seconds = json.loads(clock.read_text()).get("train") if clock.exists() else None
    return Run(path, read_results(path), seconds)


def rows_of(runs: Iterable[Run]) -> list[Row]:
    """Runs that differ in their seed alone become one row, named as the first of them."""
    ordered = sorted(runs, key=lambda run: run.recipe)  # stable, so names are in the given order
    groups = (tuple(group) for _, group in itertools.groupby(ordered, key=lambda run: run.recipe))
    return [Row(group[0].name, group) for group in groups]


def _folders(path: Path) -> Iterator[Path]:
    if (path / RESULTS_FILE).exists():
        yield path
        return
    inside = sorted(each.parent for each in path.glob(f"*/{RESULTS_FILE}"))
    if not inside:
        raise ValueError(f"{path} is no finished run and holds none ({RESULTS_FILE} is missing)")
    yield from inside


def _measured(evaluation: Evaluation, probe: str | None) -> Evaluation:
    if probe is None:
        return evaluation
    if probe not in evaluation.probes:
        raise ValueError(f"probe {probe!r} is none of {', '.join(evaluation.probes) or 'none'}")
    return evaluation.probes[probe]


def _recipe(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {k: _recipe(v) for k, v in x.items() if k not in _NOT_OF_THE_RECIPE}
    return [_recipe(each) for each in x] if isinstance(x, list | tuple) else x
