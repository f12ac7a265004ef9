"""Recorded demonstrations as training data: windows of them."""

from __future__ import annotations

from dataclasses import dataclass

from embodied.data.pieces import take
from embodied.data.placement import make_source
from embodied.data.windows import Windows
from embodied.distributed import World
from embodied.policies.base import Policy
from embodied.sources import Source
from embodied.structs import Condition, Observation, Spec
from embodied.tasks import Config, make_goals

_NOT_OF_PLACEMENT = ("kind", "sets", "told", "goals")


@dataclass(frozen=True)
class WindowData:
    """Windows that a policy imitates; implements `TrainingData`.

    Attributes:
        windows: of the training episodes.
    """

    config: Config
    windows: Windows
    spec: Spec
    fingerprint: str

    def fit(self, policy: Policy, world: World) -> None:
        windows = self.windows
        frames = windows.frames()
        policy.fit_normalizers(
            Observation(state=take(windows.columns["state"], frames)[:, None].to(world.device)),
            Condition(language=windows.told, motion=windows.phrases),
            take(windows.columns["action"], frames).to(world.device),
            lengths=windows.lengths.to(world.device),
        )

    def extend(self, policy: Policy) -> None:
        policy.extend(self.windows.phrases or ())

    def source(self, policy: Policy, world: World) -> Source:
        node = self.config["source"]
        placement = {name: x for name, x in node.items() if name not in _NOT_OF_PLACEMENT}
        return make_source(
            self.windows,
            world.device,
            batch_size=self.config["train"]["batch_size"],
            obs_horizon=policy.obs_horizon,
            pred_horizon=policy.pred_horizon,
            past_actions=policy.sees_past_actions,
            seed=self.config["seed"],
            goals=make_goals(node["goals"]),
            **placement,
        ).split(world.rank, world.size)

    def describe(self) -> str:
        windows = self.windows
        shapes = {name: tuple(x.shape[1:]) for name, x in windows.columns.items()}
        return f"{len(windows):,} frames, {len(windows.told)} instructions; a frame: {shapes}"
