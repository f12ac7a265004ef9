"""Fitting an ensemble of rewards to comparisons, and judging it on others."""

from __future__ import annotations

import torch
from torch import Tensor

from embodied.data.preferences import Comparisons
from embodied.networks.rewards import RewardEnsemble
from embodied.objectives.bradley_terry import (
    accuracy,
    bradley_terry,
    calibration_error,
    preference_logits,
    reward_loss,
)


def fit_rewards(
    model: RewardEnsemble,
    comparisons: Comparisons,
    *,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    batch_size: int = 128,
    target_accuracy: float = 0.97,
    seed: int = 0,
) -> dict[str, float]:
    """Trains until the labels are known or the epochs are over; returns the last epoch's metrics.

    Each member sees the comparisons in an order of its own, which together with its own beginning
    keeps members apart (B-Pref's procedure, Lee et al. 2021, arXiv:2111.03026).

    Args:
        optimizer: of the model's parameters; kept between sessions, it keeps its moments.
        epochs: at most; B-Pref's `reward_update`.
        target_accuracy: of the training labels, ties aside, above which it stops; above 1 never.
        seed: of the orders.
    """
    state, action, label = _tensors(comparisons, model)
    generator = torch.Generator().manual_seed(seed)
    metrics: dict[str, float] = {}
    for epoch in range(epochs):
        keys = torch.rand(model.num_members, len(label), generator=generator)
        order = keys.argsort(-1).to(label.device)
        seen = []
        for rows in torch.split(order, batch_size, dim=1):
            rewards = model.each(state[rows], action[rows])
            loss, found = reward_loss(rewards, label[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seen.append(torch.stack([torch.as_tensor(x) for x in found.values()]))
        means = torch.stack(seen).nanmean(0).tolist()
        metrics = dict(zip(found, means, strict=True)) | {"reward/epochs": epoch + 1.0}
        if metrics["reward/accuracy"] > target_accuracy:
            break
    return metrics


@torch.no_grad()
def judge_rewards(model: RewardEnsemble, comparisons: Comparisons) -> dict[str, float]:
    """How well comparisons that the model has not seen are foretold, by the mean probability.

    Returns "reward/held_out_accuracy" (ties aside), "reward/held_out_loss" and
    "reward/calibration_error".
    """
    state, action, label = _tensors(comparisons, model)
    probability = torch.sigmoid(preference_logits(model(state, action))).mean(0)
    logits = torch.logit(probability.double(), eps=1e-12)
    return {
        "reward/held_out_accuracy": float(accuracy(logits, label)),
        "reward/held_out_loss": float(bradley_terry(logits, label).mean()),
        "reward/calibration_error": float(calibration_error(probability, label)),
    }


def _tensors(comparisons: Comparisons, model: RewardEnsemble) -> tuple[Tensor, Tensor, Tensor]:
    """States (N, 2, T, S), actions (N, 2, T, A) and labels (N,), where the model is."""
    device = model.mean.device
    arrays = (comparisons.state, comparisons.action, comparisons.second_better)
    state, action, label = (torch.tensor(x, device=device) for x in arrays)
    return state, action, label
