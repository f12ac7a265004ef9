"""Tasks in a simulator in which policies learn from rewards."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from embodied.conservative import Conservative
from embodied.data.transitions import Layout, Reward, recorded
from embodied.distributed import World
from embodied.experience import Experience, Mix
from embodied.interaction import Interaction, Record
from embodied.oracle import load_learner
from embodied.policies.base import Policy
from embodied.preflight import check_config
from embodied.replay import Replay
from embodied.rollout import Controller
from embodied.simulators import choose_backend, make_envs
from embodied.sources import Source
from embodied.structs import Condition, Episode, Observation, Spec
from embodied.suite_task import SuiteTask
from embodied.suites import Assignment, Suite
from embodied.targets import ConfigError
from embodied.tasks import Config, TrainingData

REPLAY_FILE = "replay.f32"


class RewardedTask(SuiteTask):
    """As `SuiteTask`; data are transitions with rewards, recorded, or made by acting, or both."""

    def check(self) -> None:
        check_config(self.config, self.suite)
        source = self.config["source"]
        Reward(**source["reward"])
        Mix(**source["mix"])
        if source["offline_steps"] is None and not source["recorded"]:
            raise ConfigError(
                "E_CONFIG_VALUE: source.recorded=false needs source.offline_steps=0: without data, "
                "the policy has to act from the first step"
            )
        if source.get("hand_over") and self.config["eval"]["action_horizon"] != 1:
            raise ConfigError(
                "E_CONFIG_VALUE: source.hand_over judges single actions: set eval.action_horizon=1,"
                f" got {self.config['eval']['action_horizon']!r}"
            )
        choose_backend(self.config, self.suite)

    def load(self, world: World) -> TrainingData:
        self.refuse_many(world)
        if not self.config["source"]["recorded"]:
            return RewardedData(self.config, self.suite, None, spec_of(self.suite), "none")
        episodes = self.collected(world)
        return RewardedData(self.config, self.suite, episodes, episodes.spec, episodes.fingerprint)

    def refuse_many(self, world: World) -> None:
        """Raises ConfigError where several processes would learn."""
        if world.size > 1:
            raise ConfigError(
                "E_CONFIG_VALUE: learning from rewards runs in one process; start it without "
                "torchrun"
            )


@dataclass(frozen=True)
class RewardedData:
    """Transitions, and a suite to make more in; implements `TrainingData`.

    Attributes:
        episodes: recorded ones; None where there are none.
    """

    config: Config
    suite: Suite
    episodes: Any
    spec: Spec
    fingerprint: str

    def fit(self, policy: Policy, world: World) -> None:
        states, actions = np.zeros((0, self.spec.state_dim)), np.zeros((0, self.spec.action_dim))
        told: tuple[str, ...] = ()
        if self.episodes is not None:
            each = list(self._episodes())
            states = np.concatenate([episode.state for episode in each])
            actions = np.concatenate([episode.action for episode in each])
            told = tuple(dict.fromkeys(episode.instruction for episode in each))
        policy.fit_normalizers(
            Observation(state=_tensor(states, world)[:, None]),
            Condition(language=told or self.canonical()),
            _tensor(actions, world),
        )

    def extend(self, policy: Policy) -> None:
        policy.extend(())

    def source(self, policy: Policy, world: World) -> Source:
        config, node = self.config, self.config["source"]
        layout = self.layout(policy)
        reward, rows, told = self._recorded(layout)
        told = tuple(dict.fromkeys((*told, *self.canonical())))
        acts = node["offline_steps"] is not None
        make, options = self._guard(world)
        return make(
            layout,
            told,
            batch_size=config["train"]["batch_size"],
            device=world.device,
            seed=config["seed"],
            recorded=rows,
            offline_steps=node["offline_steps"],
            replay=self.replay(layout.width, layout.action_horizon) if acts else None,
            interact=functools.partial(self.interact, policy, layout, reward, told, **options)
            if acts
            else None,
            mix=Mix(**node["mix"]),
            updates_per_step=node["updates_per_step"],
            warmup_steps=node["warmup_steps"],
        )

    def layout(self, policy: Policy) -> Layout:
        """How transitions lie in rows."""
        return Layout(
            state_dim=self.spec.state_dim,
            action_dim=self.spec.action_dim,
            obs_horizon=policy.obs_horizon,
            pred_horizon=policy.pred_horizon,
            action_horizon=self.config["eval"]["action_horizon"],
            discount=self.config["source"]["discount"],
        )

    def _guard(self, world: World) -> tuple[Callable[..., Experience], dict[str, Any]]:
        """What makes the source, and options of its interaction, where a trusted policy begins."""
        node = self.config["source"].get("hand_over")
        if node is None:
            return Experience, {}
        trusted, _ = load_learner(Path(node["trusted"]), str(world.device))
        bound = {"alpha": node["alpha"], "width": node["width"]}
        make = functools.partial(Conservative, trusted=trusted, **bound)
        return make, {"threshold": node["threshold"]}

    def _recorded(self, layout: Layout) -> tuple[Reward, Tensor | None, tuple[str, ...]]:
        reward = Reward(**self.config["source"]["reward"])
        if self.episodes is None:
            return reward, None, ()
        reward = reward.fitted(self._episodes())
        rows, told = recorded(self._episodes(), layout, reward)
        return reward, torch.from_numpy(rows), told

    def _episodes(self) -> Iterator[Episode]:
        """The recorded ones; a success ends them where it ends new ones."""
        ends = self.config["source"]["ends_at_success"]
        for episode in self.episodes:
            yield replace(episode, terminated=True) if ends and episode.success else episode

    def canonical(self) -> tuple[str, ...]:
        """What each task asks."""
        return tuple(self.suite.texts(task).canonical for task in self.suite.tasks)

    def replay(self, width: int, action_horizon: int) -> Replay:
        """The run's, for rows of so many numbers."""
        config, node = self.config, self.config["source"]
        updates = max(0, config["train"]["steps"] - node["offline_steps"])
        # A decision in every slot may be more than what was asked for.
        slack = node["num_envs"] * action_horizon
        steps = int(updates / node["updates_per_step"]) + 1 + node["warmup_steps"] + slack
        return Replay(
            width,
            steps,
            capacity=node["capacity"],
            path=Path(config["run_dir"]) / REPLAY_FILE,
        )

    def interact(
        self,
        policy: Policy,
        layout: Layout,
        reward: Reward,
        told: tuple[str, ...],
        record: Record | None,
        **options: Any,
    ) -> Interaction:
        """The policy at work in environments of its own; `options` are `Interaction`'s."""
        config, node = self.config, self.config["source"]
        settings = {**config["env"], "num_envs": node["num_envs"], "workers": node["workers"]}
        backend = choose_backend(config, self.suite)
        envs = make_envs(self.suite, {**settings, "backend": backend})
        actor = Controller(
            policy,
            envs.num_envs,
            action_horizon=layout.action_horizon,
            inference_batch=envs.num_envs,
            explores=True,
        )
        return Interaction(
            actor,
            envs,
            assign=functools.partial(assign, self.suite, config["seed"], node["benchmark_seed"]),
            layout=layout,
            reward=reward,
            record=record,
            told=told,
            max_steps=min(config["protocol"]["max_steps"], self.suite.max_steps),
            ends_at_success=node["ends_at_success"],
            random_steps=node.get("random_steps", 0),
            seed=config["seed"],
            **options,
        )

    def describe(self) -> str:
        if self.episodes is None:
            return "no recorded data"
        return f"{len(self.episodes):,} recorded episodes"


def assign(suite: Suite, seed: int, benchmark_seed: int, number: int) -> Assignment:
    """Episode `number` of a run: tasks in turn, goals at random."""
    task = suite.tasks[number % len(suite.tasks)]
    goal = int(np.random.default_rng([seed, number]).integers(suite.num_goals))
    return Assignment(
        task=task,
        goal=goal,
        benchmark_seed=benchmark_seed,
        seed=zlib.crc32(f"{seed}/{number}".encode()),
        instruction=suite.texts(task).canonical,
    )


def spec_of(suite: Suite) -> Spec:
    """What a policy is built for that only acts in a suite, by its state."""
    env = suite.make_env()
    try:
        spaces: Mapping[str, Any] = env.observation_space.spaces  # type: ignore[attr-defined]
        action = env.action_space
    finally:
        env.close()
    assert isinstance(action, gymnasium.spaces.Box)
    if images := sorted(spaces.keys() - {"state"}):
        raise ConfigError(
            "E_CONFIG_VALUE: learning from rewards sees states alone, and the suite shows "
            f"{images}: set task.suite.observation=state"
        )
    return Spec(
        state_dim=spaces["state"].shape[0],
        action_dim=action.shape[0],
        action_low=tuple(action.low.tolist()),
        action_high=tuple(action.high.tolist()),
        rate_hz=suite.rate_hz,
    )


def _tensor(x: Any, world: World) -> Tensor:
    return torch.from_numpy(np.asarray(x, np.float32)).to(world.device)
