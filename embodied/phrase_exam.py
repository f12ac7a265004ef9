"""How well a policy with two levels predicts episodes that were held out: phrases, then actions.

The error with the recorded phrases must lie below a flat policy's: they are made of the very
motions that are predicted, so this checks the wiring and is no evidence for the method. What the
method is worth shows with the phrases that it chooses itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embodied.data.asked import told_by
from embodied.data.windows import Windows
from embodied.loading import load_policy
from embodied.noise import BatchNoise, seeded
from embodied.open_loop import estimate, estimate_json
from embodied.policies.base import Policy
from embodied.policies.hierarchical import HierarchicalPolicy
from embodied.structs import Batch, Condition, Episodes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PhraseErrors:
    """Of E held-out episodes.

    Attributes:
        told, own: (E,) mean squared error of the actions, environment units, where the recorded
            phrases are given and where the policy chooses them; alike for a flat policy.
        accuracy: (E,) share of frames whose phrase is chosen; None for a flat policy.
    """

    told: Floats
    own: Floats
    accuracy: Floats | None

    def figures(self) -> dict[str, Any]:
        """Means with their intervals over episodes, JSON-able."""
        accuracy = None if self.accuracy is None else estimate(self.accuracy)
        return {
            "motion_accuracy": estimate_json(accuracy),
            "mse_recorded_phrases": estimate_json(estimate(self.told)),
            "mse_own_phrases": estimate_json(estimate(self.own)),
        }

    def against(self, flat: PhraseErrors) -> dict[str, Any]:
        """Differences to another policy's errors on the same episodes; below 0 is better."""
        return {
            "mse_recorded_phrases": estimate_json(estimate(self.told - flat.own)),
            "mse_own_phrases": estimate_json(estimate(self.own - flat.own)),
        }


def examine_runs(
    runs: Mapping[str, Path],
    episodes: Episodes,
    *,
    label: str,
    flat: str | None = None,
    frames: int = 50,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """The figures of several trained policies on the same episodes, JSON-able.

    Args:
        runs: name -> run directory or checkpoint; each is asked by the phrases that it was trained
            with (`source.told`).
        label: which recorded action is predicted.
        flat: the name of the one that the others are compared with.
    """
    if flat is not None and flat not in runs:
        raise ValueError(f"flat must be one of {sorted(runs)}, got {flat!r}")
    windows = Windows.load(episodes, label=label)
    found = {}
    for name, path in runs.items():
        policy, checkpoint = load_policy(path, device)
        told = told_by(checkpoint.documents["config"]["source"]["told"], seed)
        found[name] = examine(policy, windows.asking(told), frames=frames, seed=seed)
    figures = {name: each.figures() for name, each in found.items()}
    if flat is None:
        return figures
    differences = {name: each.against(found[flat]) for name, each in found.items() if name != flat}
    return {**figures, f"against {flat}": differences}


def examine(policy: Policy, windows: Windows, *, frames: int = 50, seed: int = 0) -> PhraseErrors:
    """The errors of a policy on the episodes that windows are drawn from.

    Where phrases are predicted some steps ahead (`Told.ahead`), those that a frame's actions obey
    are the ones that were chosen so many steps before it.

    Args:
        windows: asked by phrases (`Windows.asking`), not of the training episodes.
        frames: at most this many of each episode, evenly spaced.
        seed: of the noise in sampled actions, which is the same for every policy.
    """
    if windows.phrases is None or windows.asked is None:
        raise ValueError("the held-out windows have no phrases; ask them so: told.phrases=motion")
    ahead = windows.asked.told.ahead
    rows = [
        _errors(policy, windows, index, ahead, seed + number)
        for number, index in enumerate(_frames(windows, frames, ahead))
    ]
    told, own, accuracy = (np.array(column) for column in zip(*rows, strict=True))
    return PhraseErrors(told, own, None if np.isnan(accuracy).any() else accuracy)


def _frames(windows: Windows, most: int, ahead: int) -> Iterator[Tensor]:
    """Of each episode that is longer than `ahead`."""
    for first, length in zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True):
        if length > ahead:
            count = min(most, length - ahead)
            steps = torch.linspace(ahead, length - 1, count, dtype=torch.float64)
            yield first + steps.round().long()


@torch.inference_mode()
def _errors(
    policy: Policy, windows: Windows, index: Tensor, ahead: int, seed: int
) -> tuple[float, float, float]:
    device = next(policy.parameters()).device
    batch = _batch(policy, windows, index).to(device)

    def error(condition: Condition) -> float:
        noise = BatchNoise(seeded(seed, 0, device))
        action = policy.act(batch.observation, condition, noise=noise)
        mask = batch.mask[..., None].expand_as(action)
        return float((action - batch.action)[mask].square().mean())

    if not isinstance(policy, HierarchicalPolicy) or policy.phrase_level is None:
        flat = error(replace(batch.condition, motion=None))
        return flat, flat, float("nan")
    batch = policy.labelled(batch)
    before = _batch(policy, windows, index - ahead).to(device)
    chosen = policy.phrases(before.observation, before.condition)
    right = np.mean([a == b for a, b in zip(chosen, batch.condition.motion or (), strict=True)])
    own = error(replace(batch.condition, motion=chosen))
    return error(batch.condition), own, float(right)


def _batch(policy: Policy, windows: Windows, index: Tensor) -> Batch:
    return windows.gather(index, obs_horizon=policy.obs_horizon, pred_horizon=policy.pred_horizon)
