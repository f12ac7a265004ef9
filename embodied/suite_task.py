"""Tasks in a simulator: demonstrations are collected where they are missing, policies act."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from embodied.assessment import assess
from embodied.build import instantiate
from embodied.curve_point import CurvePoint
from embodied.data.added import OWN, Amount, add
from embodied.data.asked import told_by
from embodied.data.cache import cache_folder
from embodied.data.windows import Windows
from embodied.distributed import World
from embodied.policies.base import Policy
from embodied.preflight import check_config, check_policy
from embodied.protocols import Protocol
from embodied.simulators import choose_backend
from embodied.stopwatch import Stopwatch
from embodied.structs import Episodes
from embodied.suites import NoExpertError, Suite, check_experts, rewordings
from embodied.targets import ConfigError
from embodied.tasks import Config, TrainingData, make_goals
from embodied.window_data import WindowData

logger = logging.getLogger(__name__)

_WAIT_S = 5.0


class SuiteTask:
    """A suite, with experts that can collect data, or with data that are there already."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.extra = config.get("allow_targets", ())
        self.suite: Suite = instantiate(config["task"]["suite"], extra_targets=self.extra)

    def check(self) -> None:
        check_config(self.config, self.suite)
        make_goals(self.config["source"]["goals"])
        told_by(self.config["source"]["told"], self.config["seed"])
        self._amounts()
        choose_backend(self.config, self.suite)

    def load(self, world: World) -> TrainingData:
        """The task's episodes, collected first where they are missing or incomplete, and those of
        `source.sets`."""
        task = self.config["task"]
        episodes = self.collected(world)
        more = {
            name: instantiate(node["episodes"], extra_targets=self.extra)
            for name, node in self._sets.items()
        }
        labels = {name: node.get("label", task["label"]) for name, node in self._sets.items()}
        windows = add(
            self._windows(episodes, task["label"]),
            {
                name: (self._windows(more[name], labels[name]), amount)
                for name, amount in self._amounts().items()
            },
        )
        told = told_by(self.config["source"]["told"], self.config["seed"])
        fingerprint = "+".join(each.fingerprint for each in (episodes, *more.values()))
        return WindowData(self.config, windows.asking(told), episodes.spec, fingerprint)

    def collected(self, world: World) -> Episodes:
        """The task's episodes, collected first where they are missing or incomplete."""
        collect = self.config["task"].get("collect")
        if world.is_main and collect:
            _collect(instantiate(collect, extra_targets=self.extra), self.suite)
        world.barrier()
        return self._open()

    def _windows(self, episodes: Episodes, label: str) -> Windows:
        on_disk = bool(episodes.spec.cameras) or self.config["source"]["placement"] == "stream"
        return Windows.load(
            episodes,
            label=label,
            rewordings=rewordings(self.suite) if self.config["train"]["reword"] else None,
            cache=cache_folder() if on_disk else None,
        )

    @property
    def _sets(self) -> Mapping[str, Mapping[str, Any]]:
        return self.config["source"].get("sets") or {}

    def _amounts(self) -> dict[str, Amount]:
        for name, node in self._sets.items():
            known = {"episodes", "label", "share", "times"}
            if "episodes" not in node or node.keys() - known or name == OWN:
                raise ConfigError(
                    f"E_CONFIG_KEY: source.sets.{name} has {sorted(node)}; beside a suite a set "
                    f"has episodes, and {sorted(known - {'episodes'})}, and is not called {OWN!r}"
                )
        return {
            name: Amount(node.get("share"), node.get("times")) for name, node in self._sets.items()
        }

    def _open(self) -> Episodes:
        try:
            episodes: Episodes = instantiate(
                self.config["task"]["episodes"], extra_targets=self.extra
            )
        except ValueError as error:
            raise ValueError(f"{error}{_why_not_collected(self.suite)}") from error
        return episodes

    def check_policy(self, policy: Policy) -> None:
        check_policy(self.config, policy, self.suite)

    def curve(self) -> CurvePoint:
        """Measures the first `eval.episodes` episodes of the protocol; where training ends by
        them, with goals of another `benchmark_seed`, so that the result is none of the choice."""
        config = self.config
        backend = choose_backend(config, self.suite)
        settings = {**config["env"], "workers": 0, **config["eval"], "backend": backend}
        protocol: Protocol = instantiate(config["protocol"])
        if stop := config["train"].get("early_stop"):
            protocol = replace(protocol, benchmark_seed=stop["benchmark_seed"])
        return CurvePoint(self.suite, protocol, config["eval"]["episodes"], settings)

    def assess(self, policy: Policy, fingerprint: str, clock: Stopwatch) -> Path:
        """Evaluates by the task's protocol, films and reports."""
        run = Path(self.config["run_dir"])
        return assess(self.config, policy, self.suite, clock, fingerprint=fingerprint, run=run)


def _why_not_collected(suite: Suite) -> str:
    try:
        check_experts(suite)
    except NoExpertError as error:
        return f". {error}"
    return ""


def _collect(collect: Callable[[Suite], object], suite: Suite) -> None:
    while True:
        try:
            collect(suite)
            return
        except BlockingIOError as error:  # another job of a sweep records the same data
            logger.info("waiting: %s", error)
            time.sleep(_WAIT_S)
