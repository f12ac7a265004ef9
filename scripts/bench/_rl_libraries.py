"""Learners of other libraries on the same transitions, where they are installed."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from scripts.bench._common import Case
from scripts.bench._plain_rl import BATCH, HIDDEN, Columns


class _Spaces(gymnasium.Env[Any, Any]):
    """An environment of which only the spaces are asked for."""

    def __init__(self, state_dim: int, action_dim: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (state_dim,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (action_dim,), np.float32)


def stable_baselines3(columns: Columns) -> list[Case]:
    """SAC of Stable-Baselines3; raises ImportError where it is missing."""
    from stable_baselines3 import SAC  # type: ignore[import-not-found]
    from stable_baselines3.common.logger import configure  # type: ignore[import-not-found]

    s, a, r, next_s, done = (column.numpy() for column in columns)
    spaces = _Spaces(s.shape[1], a.shape[1])
    options = {"net_arch": [HIDDEN, HIDDEN]}
    model = SAC("MlpPolicy", spaces, buffer_size=len(s), policy_kwargs=options, device="cpu")
    model.set_logger(configure(format_strings=[]))
    buffer = model.replay_buffer
    buffer.observations[:], buffer.next_observations[:] = s[:, None], next_s[:, None]
    buffer.actions[:], buffer.rewards[:], buffer.dones[:] = a[:, None], r, done
    buffer.full = True

    def run() -> float:
        model.train(gradient_steps=1, batch_size=BATCH)
        return 1.0

    return [Case("Stable-Baselines3 SAC", run)]


def d3rlpy(columns: Columns) -> list[Case]:
    """IQL and SAC of d3rlpy; raises ImportError where it is missing."""
    import d3rlpy as library  # type: ignore[import-not-found]

    s, a, r, _, done = (column.numpy() for column in columns)
    cut = np.zeros(len(s), np.float32)
    cut[-1] = 1 - done[-1, 0]
    flags = {"terminals": done[:, 0], "timeouts": cut}
    data = library.dataset.MDPDataset(observations=s, actions=a, rewards=r, **flags)

    def case(name: str, config: Any) -> Case:
        algorithm = config.create(device="cpu:0")
        algorithm.build_with_dataset(data)

        def run() -> float:
            algorithm.update(data.sample_transition_batch(BATCH))
            return 1.0

        return Case(f"d3rlpy {name}", run)

    sizes = {"batch_size": BATCH}
    return [
        case("IQL", library.algos.IQLConfig(**sizes)),
        case("SAC", library.algos.SACConfig(**sizes)),
    ]
