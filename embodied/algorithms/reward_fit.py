"""Fitting an ensemble of rewards to compared segments, and judging it on others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from embodied.feedback import Pairs
from embodied.networks.rewards import RewardEnsemble
from embodied.objectives.bradley_terry import (
    accuracy,
    bradley_terry,
    calibration_error,
    preference_logits,
    reward_loss,
)
from embodied.objectives.hypergradient import cosine
from embodied.structs import Metrics


@dataclass(frozen=True)
class Compared:
    """N comparisons as rewards are learned from them.

    Attributes:
        state: (N, 2, T, S), environment units.
        action: (N, 2, T, A), environment units.
        label: (N,) probability that the second is better.
    """

    state: Tensor
    action: Tensor
    label: Tensor

    @classmethod
    def of(cls, pairs: Pairs) -> Compared:
        """Comparisons of segments without padding."""
        sides = (pairs.first, pairs.second)
        return cls(
            torch.stack([side.state for side in sides], 1),
            torch.stack([side.action for side in sides], 1),
            pairs.second_better,
        )

    def __len__(self) -> int:
        return len(self.label)

    def newest(self, count: int) -> Compared:
        """The last ones, at most so many."""
        return Compared(self.state[-count:], self.action[-count:], self.label[-count:])


@dataclass(frozen=True)
class Crop:
    """Parts of segments that stand for the whole: both sides of a pair keep equally many steps,
    each from a beginning of its own (SURF, Park et al. 2022, arXiv:2203.10050).

    Attributes:
        low, high: how many steps are kept, in [1, T].
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"crop must rise from 1 or more, got [{self.low}, {self.high}]")

    def mask(self, rows: Sequence[int], length: int, generator: torch.Generator) -> Tensor:
        """(*rows, 2, length) bool, drawn on the CPU; raises ValueError for shorter segments."""
        if self.high > length:
            raise ValueError(
                f"crop keeps up to {self.high} steps, and segments have {length}: raise "
                "source.segment_length, or lower reward_learning.crop"
            )
        kept = torch.randint(self.low, self.high + 1, (*rows, 1), generator=generator)
        u = torch.rand((*rows, 2), generator=generator, dtype=torch.float64)
        start = (u * (length + 1 - kept)).long()[..., None]
        step = torch.arange(length)
        return (step >= start) & (step < start + kept[..., None])


@dataclass(frozen=True)
class Seen:
    """A batch of comparisons, of which each of E members sees its own.

    Attributes:
        state: (E, B, 2, T, S).
        label: (E, B).
        mask: (E, B, 2, T) bool, the steps that count.
        reward: (E, B, 2, T), 0 where they do not.
    """

    state: Tensor
    label: Tensor
    mask: Tensor
    reward: Tensor


class Term(Protocol):
    """What rewards are to learn besides the labels."""

    @property
    def name(self) -> str:
        """What its metrics begin with."""
        ...

    @property
    def limit(self) -> float | None:
        """How many times as long as the gradient of the labels' loss its own may be; None: any."""
        ...

    def __call__(
        self, model: RewardEnsemble, seen: Seen, generator: torch.Generator
    ) -> tuple[Tensor, Metrics]:
        """A scalar, a sum over members, and metrics."""
        ...


def fit(
    model: RewardEnsemble,
    compared: Compared,
    *,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    batch_size: int,
    target_accuracy: float,
    generator: torch.Generator,
    crop: Crop | None = None,
    terms: Sequence[Term] = (),
) -> dict[str, float]:
    """Trains until the labels are known or the epochs are over; returns the last epoch's metrics.

    Each member sees the comparisons in an order of its own, which together with its own beginning
    keeps members apart (B-Pref's procedure, Lee et al. 2021, arXiv:2111.03026).

    Args:
        optimizer: of the model's parameters; kept between sessions, it keeps its moments.
        epochs: at most; B-Pref's `reward_update`.
        target_accuracy: of the training labels, ties aside, above which it stops; above 1 never.
        generator: of orders and crops, on the CPU.
        terms: each logs the cosine of its gradient and that of the labels' loss.
    """
    metrics: dict[str, float] = {}
    for epoch in range(epochs):
        keys = torch.rand(model.num_members, len(compared), generator=generator)
        order = keys.argsort(-1).to(compared.label.device)
        seen = []
        for rows in torch.split(order, batch_size, dim=1):
            found = _step(model, compared, rows, optimizer, generator, crop, terms)
            seen.append(torch.stack([torch.as_tensor(x).cpu() for x in found.values()]))
        means = torch.stack(seen).nanmean(0).tolist()
        metrics = dict(zip(found, means, strict=True)) | {"reward/epochs": epoch + 1.0}
        if metrics["reward/accuracy"] > target_accuracy:
            break
    return metrics


def _step(
    model: RewardEnsemble,
    compared: Compared,
    rows: Tensor,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    crop: Crop | None,
    terms: Iterable[Term],
) -> Metrics:
    """One step on comparisons (E, B) by number."""
    state, label = compared.state[rows], compared.label[rows]
    reward = model.each(state, compared.action[rows])
    mask = torch.ones_like(reward, dtype=torch.bool)
    if crop is not None:
        mask = crop.mask(rows.shape, reward.shape[-1], generator).to(reward.device)
        reward = reward * mask
    loss, metrics = reward_loss(reward, label)
    parameters = list(model.parameters())
    gradient = flat_gradient(loss, parameters)
    total = gradient
    for term in terms:
        more, found = term(model, Seen(state, label, mask, reward), generator)
        pull = flat_gradient(more, parameters)
        metrics |= found | {f"{term.name}/cosine": cosine(pull, gradient)}
        total = total + limited(pull, gradient, term.limit)
    follow_gradient(optimizer, parameters, total)
    return metrics


def limited(pull: Tensor, gradient: Tensor, limit: float | None) -> Tensor:
    """A gradient, shortened to at most `limit` times the length of another one."""
    if limit is None:
        return pull
    tiny = torch.finfo(pull.dtype).tiny
    share: Tensor = limit * gradient.norm() / pull.norm().clamp(min=tiny)
    return pull * share.clamp(max=1)


def flat_gradient(
    loss: Tensor, parameters: Sequence[Tensor], *, create_graph: bool = False
) -> Tensor:
    """Of all parameters in one row; the graph is kept for what comes after."""
    found = torch.autograd.grad(
        loss, parameters, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return torch.cat([x.flatten() for x in found])


def follow_gradient(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], gradient: Tensor
) -> None:
    """One step of an optimiser along a gradient that lies in a row."""
    sizes = [p.numel() for p in parameters]
    for parameter, part in zip(parameters, torch.split(gradient, sizes), strict=True):
        parameter.grad = part.view_as(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def judge(model: RewardEnsemble, compared: Compared) -> dict[str, float]:
    """How well comparisons that the model has not seen are foretold, by the mean probability.

    Returns "reward/held_out_accuracy" (ties aside), "reward/held_out_loss" and
    "reward/calibration_error".
    """
    rewards = model(compared.state, compared.action)
    probability = torch.sigmoid(preference_logits(rewards)).mean(0)
    logits = torch.logit(probability.double(), eps=1e-12)
    return {
        "reward/held_out_accuracy": float(accuracy(logits, compared.label)),
        "reward/held_out_loss": float(bradley_terry(logits, compared.label).mean()),
        "reward/calibration_error": float(calibration_error(probability, compared.label)),
    }
