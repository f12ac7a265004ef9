"""Tasks in a simulator: demonstrations are collected where they are missing, policies act."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from embodied.assessment import assess
from embodied.build import instantiate
from embodied.data.asked import told_by
from embodied.data.cache import cache_folder
from embodied.data.windows import Windows
from embodied.distributed import World
from embodied.policies.base import Policy
from embodied.preflight import check_config, check_policy
from embodied.simulators import choose_backend
from embodied.stopwatch import Stopwatch
from embodied.structs import Episodes
from embodied.suites import NoExpertError, Suite, check_experts, rewordings
from embodied.tasks import Config, TrainingData, make_goals

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
        choose_backend(self.config, self.suite)

    def load(self, world: World) -> TrainingData:
        """The task's episodes; collects them first where they are missing or incomplete."""
        task = self.config["task"]
        if world.is_main and task.get("collect"):
            _collect(instantiate(task["collect"], extra_targets=self.extra), self.suite)
        world.barrier()
        episodes = self._open()
        on_disk = bool(episodes.spec.cameras) or self.config["source"]["placement"] == "stream"
        windows = Windows.load(
            episodes,
            label=task["label"],
            rewordings=rewordings(self.suite) if self.config["train"]["reword"] else None,
            cache=cache_folder() if on_disk else None,
        )
        told = told_by(self.config["source"]["told"], self.config["seed"])
        return TrainingData(windows.asking(told), episodes.spec, episodes.fingerprint)

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
