"""Tasks in which policies are aligned by comparisons of what was recorded, without rewards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from embodied.build import instantiate
from embodied.curve_point import CurvePoint
from embodied.distributed import World
from embodied.loggers import read_jsonl
from embodied.open_loop import estimate_json
from embodied.policies.base import Policy
from embodied.preference_data import load_comparisons
from embodied.preflight import check_action_horizon, check_config, check_counts
from embodied.results import RESULTS_FILE, versions, write_atomically
from embodied.rewarded_task import RewardedTask
from embodied.statistics import Estimate, wilson
from embodied.stopwatch import Stopwatch
from embodied.suites import Suite
from embodied.targets import ConfigError
from embodied.tasks import Config, TrainingData

_COUNTS = (
    ("train.steps", 0),
    ("train.batch_size", 1),
    ("train.save_every", 1),
    ("train.log_every", 1),
    ("train.keep", 1),
)


def check_comparisons(config: Config) -> None:
    """Raises ConfigError where nobody compares, or where the policy would act."""
    if not config["comparisons"]:
        raise ConfigError(
            "E_CONFIG_VALUE: source=preferences needs somebody who compares: choose comparisons="
            "scripted, saved or recorded"
        )
    if config["source"]["offline_steps"] is not None:
        raise ConfigError(
            "E_CONFIG_VALUE: source=preferences learns from recorded steps alone: set "
            f"source.offline_steps=null, got {config['source']['offline_steps']!r}"
        )


def check_one_task(suite: Suite) -> None:
    """Raises ConfigError for a suite of several tasks."""
    if len(suite.tasks) > 1:
        raise ConfigError(
            f"E_CONFIG_VALUE: comparisons are of one task, got {list(suite.tasks)}; name one in "
            "task.suite.tasks"
        )


class PreferenceTask(RewardedTask):
    """A suite to be judged in, and episodes of it that are compared."""

    def check(self) -> None:
        check_config(self.config, self.suite)
        check_comparisons(self.config)
        check_one_task(self.suite)

    def load(self, world: World) -> TrainingData:
        self.refuse_many(world)
        return load_comparisons(self.config, self.suite, self.collected(world))

    def assess(self, policy: Policy, fingerprint: str, clock: Stopwatch) -> Path:
        """As `SuiteTask`; the agreement with comparisons held out is printed besides."""
        found = super().assess(policy, fingerprint, clock)
        print(_line(agreement(Path(self.config["run_dir"]))))
        return found


class ComparedTask:
    """Compared episodes without a world to act in: policies are judged by comparisons alone."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self) -> None:
        check_counts(self.config, _COUNTS)
        check_comparisons(self.config)

    def load(self, world: World) -> TrainingData:
        if world.size > 1:
            raise ConfigError(
                "E_CONFIG_VALUE: learning from comparisons runs in one process; start it without "
                "torchrun"
            )
        extra = self.config.get("allow_targets", ())
        episodes = instantiate(self.config["task"]["episodes"], extra_targets=extra)
        return load_comparisons(self.config, None, episodes)

    def check_policy(self, policy: Policy) -> None:
        check_action_horizon(self.config, policy)

    def curve(self) -> CurvePoint:
        """Raises ConfigError: there is no world to act in."""
        raise ConfigError(
            "E_CONFIG_VALUE: eval.every needs a suite to act in, and this task has recorded data "
            "alone; set it to null"
        )

    def assess(self, policy: Policy, fingerprint: str, clock: Stopwatch) -> Path:
        """Writes how often comparisons held out were foretold wrongly."""
        run = Path(self.config["run_dir"])
        found = agreement(run)
        wrong = Estimate(1 - found.mean, 1 - found.high, 1 - found.low, found.episodes)
        content: dict[str, Any] = {
            "protocol": "held-out-pairs",
            "checkpoint": str(run / "checkpoints"),
            "error": estimate_json(wrong),
            "agreement": estimate_json(found),
            "seed": self.config["seed"],
            "versions": versions(),
            "fingerprint": fingerprint,
            "config": dict(self.config),
        }
        text = json.dumps(content, indent=1, allow_nan=False)
        write_atomically(run / RESULTS_FILE, text + "\n")
        print(_line(found))
        return run / RESULTS_FILE


def agreement(run: Path) -> Estimate:
    """The share of held-out comparisons, ties aside, that a run's learner foretold at its end, with
    Wilson's 95 % interval. Raises ValueError where none was decided, or none was asked."""
    rows = [row for row in read_jsonl(run / "metrics.jsonl") if "held_out/agreement" in row]
    if not rows or not rows[-1]["held_out/pairs"]:
        raise ValueError(
            f"{run} was judged by no comparison: raise source.held_out, compare more, or train for "
            "more steps than algorithm.imitation_steps"
        )
    count = round(rows[-1]["held_out/pairs"])
    return wilson(round(rows[-1]["held_out/agreement"] * count), count)


def _line(found: Estimate) -> str:
    return (
        f"agreement with held-out comparisons: {found.mean:.3f} [{found.low:.3f}, "
        f"{found.high:.3f}] n={found.episodes}"
    )
