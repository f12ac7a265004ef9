"""Tasks in a simulator in which policies learn from what they have just done."""

from __future__ import annotations

from typing import Any

from embodied.data.transitions import Layout, Reward
from embodied.distributed import World
from embodied.interaction import Interaction
from embodied.policies.base import Policy
from embodied.preflight import check_config
from embodied.rewarded_task import RewardedData, RewardedTask, spec_of
from embodied.segments import Segments, Watch
from embodied.simulators import choose_backend
from embodied.targets import ConfigError
from embodied.tasks import TrainingData


class OnPolicyTask(RewardedTask):
    """As `RewardedTask`, without recorded data; training steps are iterations."""

    def check(self) -> None:
        check_config(self.config, self.suite)
        Reward(**self.config["source"]["reward"])
        if (horizon := self.config["eval"]["action_horizon"]) != 1:
            raise ConfigError(
                "E_CONFIG_VALUE: source=on_policy learns from single actions: set "
                f"eval.action_horizon=1, got {horizon}"
            )
        choose_backend(self.config, self.suite)

    def load(self, world: World) -> TrainingData:
        self.refuse_many(world)
        return OnPolicyData(self.config, self.suite, None, spec_of(self.suite), "none")


class OnPolicyData(RewardedData):
    """Segments that are made as they are asked for; implements `TrainingData`."""

    def source(self, policy: Policy, world: World) -> Segments:
        node = self.config["source"]
        return Segments(
            num_envs=node["num_envs"],
            num_steps=node["num_steps"],
            discount=node["discount"],
            device=world.device,
            interact=lambda watch: self._watched(policy, watch),
        )

    def _watched(self, policy: Policy, watch: Watch) -> Interaction:
        node: dict[str, Any] = self.config["source"]
        layout = Layout(self.spec.state_dim, self.spec.action_dim, discount=node["discount"])
        reward, told = Reward(**node["reward"]), self.canonical()
        objectives = tuple(node["objectives"])
        return self.interact(policy, layout, reward, told, None, watch=watch, objectives=objectives)
