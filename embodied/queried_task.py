"""Tasks in which a policy acts, and is told which of the things it did were better."""

from __future__ import annotations

from embodied.build import instantiate
from embodied.data.transitions import Reward
from embodied.distributed import World
from embodied.experience import Experience
from embodied.own_episodes import Numbered
from embodied.policies.base import Policy
from embodied.preference_task import check_one_task
from embodied.queried_source import Queried, Questions, Schedule
from embodied.rewarded_task import RewardedData, RewardedTask, spec_of
from embodied.sources import Source
from embodied.targets import ConfigError
from embodied.tasks import TrainingData


class QueriedTask(RewardedTask):
    """A suite to act in, and a teacher who compares; see `embodied.queried_source`."""

    def check(self) -> None:
        super().check()
        source = self.config["source"]
        if source["recorded"] or source["offline_steps"] != 0:
            raise ConfigError(
                "E_CONFIG_VALUE: source=queries is about what the policy does, from the first "
                "step: set source.recorded=false and source.offline_steps=0"
            )
        if not self.config.get("reward_learning"):
            raise ConfigError(
                "E_CONFIG_VALUE: source=queries shows no rewards, so somebody has to learn them: "
                "choose algorithm=pebble, or +reward_learning=pebble with another learner"
            )
        check_one_task(self.suite)

    def load(self, world: World) -> TrainingData:
        self.refuse_many(world)
        return QueriedData(self.config, self.suite, None, spec_of(self.suite), "none")


class QueriedData(RewardedData):
    """Implements `TrainingData`."""

    def source(self, policy: Policy, world: World) -> Source:
        node, told = self.config["source"], self.canonical()
        layout = self.layout(policy)
        schedule = Schedule(
            **{x: node[x] for x in ("first", "every", "per_session", "labels", "pause")}
        )
        names = ("segment_length", "choose", "candidates", "recent", "held_out", "unlabelled")
        rows = Numbered(self.replay(layout.width + 1, layout.action_horizon))
        steps = Experience(
            layout,
            told,
            batch_size=self.config["train"]["batch_size"],
            device=world.device,
            seed=self.config["seed"],
            offline_steps=0,
            replay=rows.replay,
            interact=lambda record: self.interact(
                policy, layout, Reward(**node["reward"]), told, rows.append, watch=rows.watch
            ),
            updates_per_step=node["updates_per_step"],
            warmup_steps=node["warmup_steps"],
            paused=schedule.paused,
        )
        return Queried(
            steps,
            schedule,
            Questions(**{name: node[name] for name in names}),
            instantiate(node["teacher"]),
            told=told[0],
            seed=self.config["seed"],
        )
