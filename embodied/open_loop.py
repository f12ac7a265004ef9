"""How well a policy predicts recorded actions that it has not seen: no simulator, no robot.

From frames of held-out episodes the policy predicts chunks of actions, which are compared with
those recorded. Low errors are necessary and not sufficient for a policy that works: it never sees
the states that its own errors lead to. The baselines say what the errors are worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embodied.data.goals import Goals
from embodied.data.pieces import take
from embodied.data.windows import Windows
from embodied.noise import BatchNoise, seeded
from embodied.policies.base import Policy
from embodied.statistics import Estimate, stratified_bootstrap
from embodied.structs import Batch

Floats = NDArray[np.float64]
Texts = Sequence[str | None]
_CONSTANT = 1e-4  # as in `embodied.normalize`


@dataclass(frozen=True)
class Errors:
    """Absolute errors of one way of predicting, over E episodes.

    Attributes:
        total: (E, H, A) sums over the frames of each episode, environment units.
        count: (E, H) how many frames have a recorded action that many steps ahead.
        scale: (A,) half the range of the training actions: what 1 is after normalisation.
        loss: (E,) held-out loss of each episode, where it is a policy's.
    """

    total: Floats
    count: Floats
    scale: Floats
    loss: Floats | None = None

    def per_episode(self) -> Floats:
        """(E,) mean over frames, steps and dimensions, normalised."""
        return np.asarray(self._by_dimension().mean(1) if len(self.total) else np.zeros(0))

    def _by_dimension(self) -> Floats:
        return np.asarray(self.total.sum(1) / self.count.sum(1)[:, None] / self.scale)

    def mean(self) -> Estimate:
        """The normalised error with its interval over episodes."""
        return estimate(self.per_episode())

    def mean_loss(self) -> Estimate | None:
        """The held-out loss with its interval over episodes."""
        return None if self.loss is None else estimate(self.loss)

    def per_dimension(self, *, normalised: bool = False) -> list[Estimate]:
        """The error of each action dimension, in environment units or normalised."""
        values = self._by_dimension() * (1 if normalised else self.scale)
        return [estimate(values[:, i]) for i in range(values.shape[1])]

    def per_step(self) -> list[Estimate]:
        """The normalised error of the first step of a chunk, of the second, and so on."""
        steps = []
        for h in range(self.count.shape[1]):
            seen = self.count[:, h] > 0
            errors = self.total[seen, h] / self.count[seen, h, None] / self.scale
            if len(errors):
                steps.append(estimate(errors.mean(1)))
        return steps

    def minus(self, other: Errors) -> Estimate:
        """The difference to the errors of another way on the same episodes; below 0 is better."""
        return estimate(self.per_episode() - other.per_episode())

    def only(self, episodes: NDArray[np.bool_]) -> Errors:
        """Those of some of the episodes."""
        loss = None if self.loss is None else self.loss[episodes]
        return replace(self, total=self.total[episodes], count=self.count[episodes], loss=loss)


def estimate(values: Floats) -> Estimate:
    """Mean over episodes with the bootstrap's 95 % interval."""
    return stratified_bootstrap([values])


@dataclass(frozen=True)
class Probe:
    """Held-out episodes and what a policy sees of them.

    Attributes:
        windows: held-out episodes; those of one step are left out, since nothing comes before.
        train: what is known from training: the mean action and the range of actions.
        frames: at most this many of each episode, evenly spaced, beginning with its second.
        goals: whose parts are given as the goal, which is the episode's last frame; None for none.
        past_actions: see `Windows.gather`.
    """

    windows: Windows
    train: Windows
    obs_horizon: int
    pred_horizon: int
    frames: int = 50
    past_actions: bool = False
    goals: Goals | None = None
    seed: int = 0
    episodes: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = tuple(i for i, x in enumerate(self.windows.lengths.tolist()) if x > 1)
        if not found:
            raise ValueError("no held-out episode has two steps; raise val_fraction")
        object.__setattr__(self, "episodes", found)

    @property
    def scale(self) -> Floats:
        """(A,) half the range of the training actions; 1 where they are constant."""
        action = self._train_actions()
        half = (action.amax(0) - action.amin(0)).double().cpu().numpy() / 2
        return np.where(half < _CONSTANT, 1.0, half)

    def _train_actions(self) -> Tensor:
        return take(self.train.columns["action"], self.train.frames())

    def frames_of(self, episode: int) -> Tensor:
        """The frames of an episode that predictions start from."""
        first, length = int(self.windows.starts[episode]), int(self.windows.lengths[episode])
        count = min(self.frames, length - 1)
        return first + torch.linspace(1, length - 1, count, dtype=torch.float64).round().long()

    def batch(self, frames: Tensor, text: str | None) -> Batch:
        """Windows around frames of one episode, told `text`, or nothing."""
        goal = None if self.goals is None else self.windows.last[frames]
        batch = self.windows.gather(
            frames,
            obs_horizon=self.obs_horizon,
            pred_horizon=self.pred_horizon,
            past_actions=self.past_actions,
            goal=goal,
            goal_parts=() if self.goals is None else self.goals.parts,
        )
        language = None if text is None else (text,) * len(frames)
        present = {k: x for k, x in batch.condition.present.items() if k != "language"}
        condition = replace(batch.condition, language=language, present=present)
        return replace(batch, condition=condition, source=None)

    def measure(self, policy: Policy, texts: Mapping[int, str | None]) -> Errors:
        """A policy's errors and losses on the episodes that have a text, in their order."""
        device = next(policy.parameters()).device
        found, losses = [], []
        for episode, text in texts.items():
            batch = self.batch(self.frames_of(episode), text).to(device)
            generator = seeded(self.seed, episode, device)
            with torch.inference_mode():
                losses.append(float(policy.loss(batch, noise=BatchNoise(generator))[0]))
                action = policy.act(batch.observation, batch.condition, noise=BatchNoise(generator))
            found.append(_sums(action, batch))
        return self._errors(found, np.array(losses))

    def baseline(self, name: str, episodes: Sequence[int]) -> Errors:
        """The errors of a way to predict that learns nothing; see `baselines`."""
        mean = self._train_actions().double().mean(0).float().cpu()
        found = []
        for episode in episodes:
            frames = self.frames_of(episode)
            batch = self.batch(frames, None).to("cpu")
            guess = {
                "hold_last_action": take(self.windows.columns["action"], frames - 1).cpu(),
                "hold_state": batch.observation.state[:, -1],
                "mean_action": mean.expand(len(frames), -1),
            }[name]
            found.append(_sums(guess[:, None].expand_as(batch.action), batch))
        return self._errors(found)

    @property
    def baselines(self) -> tuple[str, ...]:
        """Repeating the last action; the mean action; and the present state as a target, where
        actions are targets of states."""
        return ("hold_last_action", *(("hold_state",) * self._are_targets()), "mean_action")

    def _are_targets(self) -> bool:
        """Whether the training actions are nearer to their states than to their mean."""
        state = take(self.train.columns["state"], self.train.frames()).double()
        action = self._train_actions().double()
        if state.shape != action.shape:
            return False
        scale = torch.from_numpy(self.scale).to(action.device)
        near, far = (((action - other).abs() / scale).mean() for other in (state, action.mean(0)))
        return bool(near < far)

    def trace(self, policy: Policy, episode: int, text: str | None, every: int) -> Tensor:
        """(L, A) what is predicted for each step, anew every `every` steps."""
        device = next(policy.parameters()).device
        first, length = int(self.windows.starts[episode]), int(self.windows.lengths[episode])
        batch = self.batch(first + torch.arange(0, length, every), text).to(device)
        with torch.inference_mode():
            noise = BatchNoise(seeded(self.seed, episode, device))
            action = policy.act(batch.observation, batch.condition, noise=noise)
        return action[:, :every].flatten(0, 1)[:length].float().cpu()

    def recorded(self, episode: int) -> Tensor:
        """(L, A) what was done."""
        first, length = int(self.windows.starts[episode]), int(self.windows.lengths[episode])
        return take(self.windows.columns["action"], first + torch.arange(length)).cpu()

    def _errors(self, found: Sequence[tuple[Floats, Floats]], loss: Floats | None = None) -> Errors:
        total, count = (np.stack(each) for each in zip(*found, strict=True))
        return Errors(total, count, self.scale, loss)


def _sums(action: Tensor, batch: Batch) -> tuple[Floats, Floats]:
    """(H, A) sums of absolute errors over the rows of a batch, and (H,) how many they are of."""
    mask = batch.mask[..., None].double()
    total = ((action - batch.action).abs().double() * mask).sum(0)
    return total.detach().cpu().numpy(), mask[..., 0].sum(0).cpu().numpy()


def estimate_json(found: Estimate | None) -> dict[str, Any] | None:
    """An estimate as results.json has it."""
    if found is None:
        return None
    return {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "episodes": found.episodes,
    }


def errors_json(errors: Errors, base: Errors | None) -> dict[str, Any]:
    """The figures of one way of predicting.

    Args:
        base: the baseline of `against_hold_last_action`, on the same episodes.
    """
    return {
        "error": estimate_json(errors.mean()),
        "loss": estimate_json(errors.mean_loss()),
        "against_hold_last_action": None if base is None else estimate_json(errors.minus(base)),
        "per_dimension": [estimate_json(each) for each in errors.per_dimension()],
        "per_dimension_normalised": [
            estimate_json(each) for each in errors.per_dimension(normalised=True)
        ],
        "per_step": [estimate_json(each) for each in errors.per_step()],
        "per_episode": errors.per_episode().tolist(),
    }


def some_evenly(items: Sequence[int], count: int) -> Iterator[int]:
    """`count` of the items, evenly spaced."""
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return (items[i] for i in chosen)
