"""Transitions of rewarded experience, each as one row of numbers.

One gather of whole rows costs a fraction of seven gathers of columns, and one file of rows is a
replay buffer. A transition is a decision: a chunk of actions, with what the first of them earned,
those that are executed, and what was sensed after them; with one action it is the usual
(s, a, r, s').
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embodied.structs import Batch, Condition, Episode, Observation

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Reward:
    """What is learned from, recorded and new episodes alike: scale * x + shift.

    Attributes:
        of: "reward" is the environment's own; "success" is 1 at a step that succeeds, else 0.
        return_range: what the recorded returns are to span, by a factor that `scale` comes on top
            of; IQL's locomotion has 1000. None leaves them.
        endless: whether returns of episodes that were cut off count their last reward forever
            (r / (1 - discount)), as for a goal that was never reached (Nakamoto et al. 2023,
            "Cal-QL", arXiv:2303.05479); otherwise they count what was earned.
    """

    of: str = "reward"
    scale: float = 1.0
    shift: float = 0.0
    return_range: float | None = None
    endless: bool = False

    def __post_init__(self) -> None:
        if self.of not in ("reward", "success"):
            raise ValueError(f"reward.of must be 'reward' or 'success', got {self.of!r}")

    def fitted(self, episodes: Iterable[Episode]) -> Reward:
        """The same with `return_range` turned into a scale.

        Raises ValueError where all recorded returns are equal.
        """
        if self.return_range is None:
            return self
        bare = replace(self, scale=1.0, shift=0.0, return_range=None)
        returns = [float(bare.earned(episode).sum()) for episode in episodes]
        if not (spread := max(returns) - min(returns)):
            raise ValueError(
                f"E_DATA_REWARD: all recorded returns are {returns[0]:g}, so they cannot be made "
                "to span source.reward.return_range; set it to null"
            )
        return replace(self, scale=self.scale * self.return_range / spread, return_range=None)

    def earned(self, episode: Episode) -> Rows:
        """What is learned from each step of a recorded episode, (L,).

        Raises ValueError for an episode without the rewards that are asked for.
        """
        if episode.reward is None and self.of == "reward":
            raise ValueError(
                "E_DATA_REWARD: the episodes have no rewards; learn from whether they succeed with "
                "source.reward.of=success, or record rewards"
            )
        own = np.zeros(len(episode), np.float32) if episode.reward is None else episode.reward
        return self(own, succeeded(episode))

    def __call__(self, reward: Rows, success: NDArray[np.bool_]) -> Rows:
        """Rewards and successes (L,) of single steps -> what is learned from, (L,)."""
        chosen = reward if self.of == "reward" else success.astype(np.float32)
        return np.asarray(self.scale * chosen + self.shift, np.float32)


@dataclass(frozen=True)
class Trajectory:
    """What is known of an episode, whether it has ended or not.

    Attributes:
        state: (L + 1, S), the last one after the last action; (L, S) where that was not recorded.
        action: (L, A), executed, environment units.
        reward: (L,), what is learned from.
        terminated: whether its last step ended it for good; one that was cut off goes on in theory.
        told: number of its instruction.
    """

    state: Rows
    action: Rows
    reward: Rows
    terminated: bool = False
    told: int = 0

    def __len__(self) -> int:
        return len(self.action)


@dataclass(frozen=True)
class Layout:
    """Where in a row what lies.

    Attributes:
        obs_horizon, pred_horizon: T and H; near an episode's ends windows repeat its first state
            and its last action.
        action_horizon: how many of the H actions a decision executes.
        discount: of one step, in [0, 1].
    """

    state_dim: int
    action_dim: int
    obs_horizon: int = 1
    pred_horizon: int = 1
    action_horizon: int = 1
    discount: float = 0.99

    def __post_init__(self) -> None:
        if not 1 <= self.action_horizon <= self.pred_horizon:
            raise ValueError(
                f"action_horizon must lie in [1, {self.pred_horizon}] (pred_horizon), got "
                f"{self.action_horizon}"
            )
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount must lie in [0, 1], got {self.discount}")

    @cached_property
    def _widths(self) -> dict[str, int]:
        window = self.obs_horizon * self.state_dim
        return {
            "state": window,
            "action": self.pred_horizon * self.action_dim,
            "next_state": window,
            **dict.fromkeys(("reward", "discount", "return_to_go", "steps", "told"), 1),
        }

    @cached_property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(self._widths.values())

    @cached_property
    def _places(self) -> dict[str, slice]:
        ends = list(accumulate(self._widths.values(), initial=0))
        return {name: slice(*ab) for name, ab in zip(self._widths, pairwise(ends), strict=True)}

    def complete(self, trajectory: Trajectory) -> int:
        """How many of an ended episode's decisions are known to their end: all, unless it was cut
        off and nobody recorded what was seen then."""
        if trajectory.terminated or len(trajectory.state) > len(trajectory):
            return len(trajectory)
        return max(0, len(trajectory) - self.action_horizon)

    def pack(
        self,
        trajectory: Trajectory,
        start: int,
        stop: int,
        *,
        returns: Rows | None = None,
    ) -> Rows:
        """The decisions [start, stop) of a trajectory, one row each, (stop - start, width).

        Args:
            returns: (L,) the episode's returns, where it has ended and they are known.
        """
        length = len(trajectory)
        t = np.arange(start, stop)
        chunk = t[:, None] + np.arange(self.pred_horizon)
        last = np.minimum(chunk, length - 1)
        done = chunk[:, : self.action_horizon] < length
        executed = done.sum(1)
        powers = self.discount ** np.arange(self.action_horizon)
        earned = trajectory.reward[last[:, : self.action_horizon]] * done * powers
        after = np.minimum(self._window(t + executed), len(trajectory.state) - 1)
        over = trajectory.terminated & (t + executed == length)
        found = {
            "state": trajectory.state[self._window(t)],
            "action": trajectory.action[last],
            "next_state": trajectory.state[after],
            "reward": earned.sum(1),
            "discount": self.discount**executed * ~over,
            "return_to_go": np.full(len(t), -np.inf) if returns is None else returns[start:stop],
            "steps": np.minimum(self.pred_horizon, length - t),
            "told": np.full(len(t), trajectory.told),
        }
        rows = np.empty((len(t), self.width), np.float32)
        for name, place in self._places.items():
            rows[:, place] = found[name].reshape(len(t), -1)
        return rows

    def _window(self, t: NDArray[np.int64]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = t[:, None] + np.arange(1 - self.obs_horizon, 1)
        return np.maximum(found, 0)

    def batch(self, rows: Tensor, told: Sequence[str]) -> Batch:
        """Rows (B, width) as a batch, which shares their memory.

        Args:
            told: the instructions by number; where there is one, rows are not asked for theirs.
        """
        part = {name: rows[:, place] for name, place in self._places.items()}
        window = (len(rows), self.obs_horizon, self.state_dim)
        steps = torch.arange(self.pred_horizon, device=rows.device)
        return Batch(
            observation=Observation(state=part["state"].reshape(window)),
            condition=Condition(language=self._language(part["told"], told)),
            action=part["action"].reshape(len(rows), self.pred_horizon, self.action_dim),
            mask=steps < part["steps"],
            reward=part["reward"][:, 0],
            discount=part["discount"][:, 0],
            next_observation=Observation(state=part["next_state"].reshape(window)),
            return_to_go=part["return_to_go"][:, 0],
        )

    def _language(self, numbers: Tensor, told: Sequence[str]) -> tuple[str, ...]:
        if len(told) == 1:
            return (told[0],) * len(numbers)
        return tuple(told[int(i)] for i in numbers[:, 0].tolist())


def returns_to_go(reward: Rows, discount: float, tail: float = 0.0) -> Rows:
    """G_t = r_t + discount G_{t+1} from the end, where G is `tail`; (L,)."""
    found, value = np.empty(len(reward), np.float64), tail
    for t in reversed(range(len(reward))):
        value = found[t] = float(reward[t]) + discount * value
    return found.astype(np.float32)


def recorded(
    episodes: Iterable[Episode], layout: Layout, reward: Reward
) -> tuple[Rows, tuple[str, ...]]:
    """All decisions of recorded episodes, (n, width), and their instructions by number."""
    numbers: dict[str, int] = {}
    found = [
        _pack_episode(each, layout, reward, numbers.setdefault(each.instruction, len(numbers)))
        for each in episodes
    ]
    return np.concatenate(found), tuple(numbers)


def _pack_episode(episode: Episode, layout: Layout, reward: Reward, told: int) -> Rows:
    last = episode.final.get("state")
    state = episode.state if last is None else np.concatenate([episode.state, last[None]])
    earned = reward.earned(episode)
    trajectory = Trajectory(state, episode.action, earned, episode.terminated, told)
    endless = reward.endless and not episode.terminated and layout.discount < 1
    tail = float(earned[-1]) / (1 - layout.discount) if endless else 0.0
    returns = returns_to_go(earned, layout.discount, tail)
    return layout.pack(trajectory, 0, layout.complete(trajectory), returns=returns)


def succeeded(episode: Episode) -> NDArray[np.bool_]:
    """(L,) at which steps an episode succeeded: as was recorded, and else at its last one."""
    if "success" in episode.extras:
        return np.asarray(episode.extras["success"]).reshape(len(episode)).astype(bool)
    found = np.zeros(len(episode), bool)
    found[-1] = episode.success
    return found
