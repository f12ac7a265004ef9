"""Tasks in a simulator in which a trained policy learns from how groups of its attempts end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from embodied.data.demonstrations import demonstrations
from embodied.distributed import World
from embodied.groups import Demonstrate, Groups
from embodied.noise import seeded
from embodied.policies.base import Policy
from embodied.preflight import check_counts
from embodied.rewarded_task import assign
from embodied.simulators import choose_backend, make_envs
from embodied.structs import Batch
from embodied.suite_task import SuiteTask
from embodied.suites import Assignment, Suite, rewordings
from embodied.targets import ConfigError
from embodied.tasks import TrainingData
from embodied.window_data import WindowData

_COUNTS = (
    ("source.num_starts", 1),
    ("source.num_attempts", 2),
    ("source.max_steps", 1),
    ("source.num_envs", 1),
)


class GroupTask(SuiteTask):
    """As `SuiteTask`; training steps are iterations, and the demonstrations are shown beside."""

    def check(self) -> None:
        super().check()
        check_counts(self.config, _COUNTS)
        if not self.config["init_from"]:
            raise ConfigError(
                "E_CONFIG_VALUE: source=groups improves a policy that succeeds now and then: set "
                "init_from to a run that imitates, with policy=chunk and head=gaussian, bins, edm "
                "or ddpm"
            )

    def load(self, world: World) -> TrainingData:
        if world.size > 1:
            raise ConfigError(
                "E_CONFIG_VALUE: source=groups runs in one process; start it without torchrun"
            )
        data = super().load(world)
        assert isinstance(data, WindowData)
        return GroupData(data.config, data.windows, data.spec, data.fingerprint, self.suite)


@dataclass(frozen=True)
class GroupData(WindowData):
    """Groups of attempts that are made as they are asked for; implements `TrainingData`."""

    suite: Suite

    def source(self, policy: Policy, world: World) -> Groups:
        config, node = self.config, self.config["source"]
        return Groups(
            policy,
            num_attempts=node["num_attempts"],
            max_steps=min(node["max_steps"], self.suite.max_steps),
            action_horizon=config["eval"]["action_horizon"],
            temperature=node["temperature"],
            open_envs=self._open,
            starts=self.starts,
            demonstrate=self._demonstrate(policy) if node["demonstrations"] else None,
            device=world.device,
            seed=config["seed"],
        )

    def starts(self, number: int) -> Sequence[Assignment]:
        """One for each group of a batch: tasks in turn, goals at random."""
        node = self.config["source"]
        first = number * node["num_starts"]
        return [
            assign(self.suite, self.config["seed"], node["benchmark_seed"], first + i)
            for i in range(node["num_starts"])
        ]

    def _demonstrate(self, policy: Policy) -> Demonstrate:
        def demonstrate(number: int, starts: Sequence[Assignment]) -> Batch:
            return demonstrations(
                self.windows,
                [start.instruction for start in starts],
                wordings=rewordings(self.suite),
                obs_horizon=policy.obs_horizon,
                pred_horizon=policy.pred_horizon,
                action_horizon=self.config["eval"]["action_horizon"],
                generator=seeded(self.config["seed"], number, torch.device("cpu")),
            )

        return demonstrate

    def _open(self) -> Any:
        config, node = self.config, self.config["source"]
        settings = {**config["env"], "num_envs": node["num_envs"], "workers": node["workers"]}
        return make_envs(self.suite, {**settings, "backend": choose_backend(config, self.suite)})
