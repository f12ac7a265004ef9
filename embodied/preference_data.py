"""Recorded episodes and what was said of pairs of their segments: what policies are aligned by."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied.build import instantiate
from embodied.compared_source import Compared
from embodied.data.compared import Stretches, pairs_of
from embodied.data.held_out import hold_out
from embodied.data.preferences import Comparisons, Preferences
from embodied.distributed import World
from embodied.networks.rewards import RewardEnsemble
from embodied.oracle import load_oracle
from embodied.policies.base import Policy
from embodied.reward_learning import fit_rewards, judge_rewards
from embodied.rewarded_task import RewardedData
from embodied.sources import Source
from embodied.structs import Episode, Episodes, Metrics
from embodied.suites import Suite
from embodied.tasks import Config

logger = logging.getLogger(__name__)


def load_comparisons(config: Config, suite: Suite | None, episodes: Episodes) -> PreferenceData:
    """The comparisons that `comparisons` and `source` ask for, of these episodes."""
    node = config["source"]
    options: dict[str, Any] = {}
    if node["critic"] is not None:
        oracle = load_oracle(Path(node["critic"]))
        options = {"values": oracle.values, "discount": oracle.discount}
    found: Preferences = instantiate(config["comparisons"])(episodes=episodes, **options)
    each = list(episodes)
    states, actions = [x.state for x in each], [x.action for x in each]
    learned, kept = (
        part.compare(states, actions)
        for part in hold_out(found, node["held_out"], node["fold"], node["split_seed"])
    )
    return PreferenceData(
        config=config,
        suite=suite,  # type: ignore[arg-type]  # None where nobody acts
        episodes=each,
        spec=episodes.spec,
        fingerprint=f"{episodes.fingerprint}+{_fingerprint(found)}",
        learned=learned,
        kept=kept,
    )


def _fingerprint(preferences: Preferences) -> str:
    content = hashlib.sha256()
    for side in (preferences.first, preferences.second):
        content.update(np.stack([side.episode, side.start]).tobytes())
    content.update(preferences.second_better.tobytes())
    return content.hexdigest()[:32]


@dataclass(frozen=True)
class PreferenceData(RewardedData):
    """Implements `TrainingData`. True rewards are looked at by teachers alone.

    Attributes:
        learned, kept: comparisons to learn from, and to be judged by.
        rewards: who says what steps earned; None leaves them at 0.
    """

    learned: Comparisons
    kept: Comparisons
    rewards: RewardEnsemble | None = None

    def source(self, policy: Policy, world: World) -> Source:
        config, node = self.config, self.config["source"]
        facts: Metrics = {}
        data = self
        if node["rewards"] is not None:
            model, facts = self.fit_rewards(node["rewards"], world)
            data = replace(self, rewards=model)
        told = self.told
        pairs, held_out = (pairs_of(x, told, world.device) for x in (self.learned, self.kept))
        stretches = Stretches(
            [x.state for x in self.episodes],
            [x.action for x in self.episodes],
            length=self.learned.state.shape[2],
            told=told,
            device=world.device,
        )
        return Compared(
            RewardedData.source(data, policy, world),
            pairs,
            held_out,
            stretches,
            num_pairs=node["num_pairs"],
            seed=config["seed"],
            facts=facts,
        )

    def fit_rewards(
        self, settings: Mapping[str, Any], world: World
    ) -> tuple[RewardEnsemble, Metrics]:
        """Rewards that explain the comparisons, and how well they foretell those kept back."""
        seed = self.config["seed"]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = RewardEnsemble(
                self.spec.state_dim,
                self.spec.action_dim,
                num_members=settings["num_members"],
                hidden=settings["hidden"],
            ).to(world.device)
        states, actions = (
            torch.tensor(np.concatenate([getattr(x, name) for x in self.episodes]))
            for name in ("state", "action")
        )
        model.fit_normalizer(states.to(world.device), actions.to(world.device))
        optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
        learned = fit_rewards(
            model,
            self.learned,
            optimizer=optimizer,
            epochs=settings["epochs"],
            batch_size=settings["batch_size"],
            target_accuracy=settings["target_accuracy"],
            seed=seed,
        )
        judged = judge_rewards(model, self.kept)
        decided = float((self.kept.second_better != 0.5).sum())
        agreement = {
            "held_out/agreement": judged["reward/held_out_accuracy"],
            "held_out/pairs": decided,
        }
        logger.info("rewards: %s", {k: round(v, 3) for k, v in (learned | judged).items()})
        return model, {**learned, **judged, **agreement}

    @property
    def told(self) -> str:
        """What all that was compared was to do."""
        texts = dict.fromkeys(self.canonical())
        if len(texts) != 1:
            raise ValueError(
                f"comparisons are of one task, got {len(texts)}: {list(texts)[:3]}; name one"
            )
        return next(iter(texts))

    def canonical(self) -> tuple[str, ...]:
        if self.suite is not None:
            return super().canonical()
        return tuple(dict.fromkeys(episode.instruction for episode in self.episodes))

    def _episodes(self) -> Iterator[Episode]:
        for episode in self.episodes:
            yield replace(episode, reward=self._earned(episode))

    @torch.no_grad()
    def _earned(self, episode: Episode) -> Any:
        if self.rewards is None:
            return np.zeros(len(episode), np.float32)
        device = self.rewards.mean.device
        state, action = (torch.tensor(x, device=device) for x in (episode.state, episode.action))
        found: Tensor = self.rewards(state, action)
        return found.mean(0).cpu().numpy()

    def describe(self) -> str:
        return (
            f"{len(self.episodes):,} recorded episodes, {len(self.learned):,} comparisons to learn "
            f"from and {len(self.kept):,} to be judged by"
        )
