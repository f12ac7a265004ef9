"""Tasks in a simulator in which policies learn to reach goals, from what was recorded."""

from __future__ import annotations

from collections.abc import Iterator

from embodied.build import instantiate
from embodied.distributed import World
from embodied.hindsight import Hindsight, Paths
from embodied.policies.base import Policy
from embodied.preflight import check_config
from embodied.protocols import Protocol
from embodied.rewarded_task import RewardedData, RewardedTask
from embodied.structs import Episode
from embodied.targets import ConfigError
from embodied.tasks import TrainingData, make_goals


class HindsightTask(RewardedTask):
    """As `RewardedTask`, of recorded data alone; rewards are those of goals in hindsight."""

    def check(self) -> None:
        check_config(self.config, self.suite)
        for name in ("goals", "reached"):
            make_goals(self.config["source"][name])
        protocol: Protocol = instantiate(self.config["protocol"])
        if "goal_state" not in protocol.modalities:
            raise ConfigError(
                "E_CONFIG_VALUE: source=hindsight trains policies that are told goal states: set "
                f"protocol.modalities=[goal_state], got {list(protocol.modalities)}"
            )

    def load(self, world: World) -> TrainingData:
        self.refuse_many(world)
        episodes = self.collected(world)
        return HindsightData(self.config, self.suite, episodes, episodes.spec, episodes.fingerprint)


class HindsightData(RewardedData):
    """Steps with goals that are drawn for them; implements `TrainingData`."""

    def source(self, policy: Policy, world: World) -> Hindsight:
        node = self.config["source"]
        goals, reached = make_goals(node["goals"]), make_goals(node["reached"])
        assert goals is not None
        assert reached is not None
        return Hindsight(
            Paths(self._episodes()),
            batch_size=self.config["train"]["batch_size"],
            discount=node["discount"],
            goals=goals,
            reached=reached,
            subgoal_steps=node["subgoal_steps"],
            device=world.device,
            seed=self.config["seed"],
        )

    def _episodes(self) -> Iterator[Episode]:
        yield from self.episodes
