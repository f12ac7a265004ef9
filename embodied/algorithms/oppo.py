"""Offline preference-guided policy optimisation: a point that is near what people preferred."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from embodied.algorithms.saved import Saved
from embodied.algorithms.segment_answers import agreement
from embodied.distributed import World
from embodied.feedback import Pairs, SegmentBatch
from embodied.policies.base import Policy
from embodied.policies.hindsight import HindsightPolicy
from embodied.structs import Batch, Metrics


class OPPO(Saved):
    """OPPO (Kang et al. 2023, arXiv:2305.16217) with a `HindsightPolicy`.

    Three losses: hindsight matching, the squared error of a segment's actions given its own point;
    a triplet of the optimal point, the preferred and the other segment's, which moves the points
    while the optimal one is held, and the other way round; and a unit norm of all points. Segments
    are compared as they were labelled, where the published code labels each pair of each batch by
    the sum of true rewards. Pooling leaves out padding, which there is summed.

    Args:
        margin: of the triplet; ties have none.
        preference_weight, norm_weight: beside hindsight matching.
        learning_rate: of all but the optimal point, which has `optimal_learning_rate`.
    """

    policy: HindsightPolicy

    def __init__(
        self,
        policy: Policy,
        *,
        world: World,
        steps: int,
        margin: float = 1.0,
        preference_weight: float = 0.1,
        norm_weight: float = 0.1,
        learning_rate: float = 3e-4,
        optimal_learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        max_grad_norm: float = 0.25,
        seed: int = 0,
    ) -> None:
        if not isinstance(policy, HindsightPolicy):
            raise TypeError(
                f"OPPO trains a HindsightPolicy (policy=hindsight), got {type(policy).__name__}"
            )
        self.policy, self.world, self.margin = policy, world, margin
        self.preference_weight, self.norm_weight = preference_weight, norm_weight
        self.max_grad_norm = max_grad_norm
        self.parts = nn.ModuleDict()
        others = [p for p in policy.parameters() if p is not policy.optimal]
        groups = [
            {"params": others, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": [policy.optimal], "lr": optimal_learning_rate, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self._held_out: Pairs | None = None

    def update(self, batch: Batch, step: int) -> Metrics:
        if batch.pairs is None or batch.segments is None:
            raise ValueError(
                "oppo learns from comparisons, and the batch has none: choose source=preferences"
            )
        self._held_out = batch.held_out
        self.policy.train()
        losses = self.losses(batch.pairs, batch.segments)
        (
            losses["matching"]
            + self.preference_weight * losses["preference"]
            + self.norm_weight * losses["norm"]
        ).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {f"{name}_loss": x.detach() for name, x in losses.items()}

    def losses(self, pairs: Pairs, segments: SegmentBatch) -> dict[str, Tensor]:
        """Means over segments: "matching", "preference" and "norm"."""
        first, second, z = (self.policy.encode(x) for x in (pairs.first, pairs.second, segments))
        optimal, label = self.policy.optimal, pairs.second_better
        moves_points = self._triplet(optimal.detach(), first, second, label)
        moves_optimal = self._triplet(optimal, first.detach(), second.detach(), label)
        points = torch.cat([first, second, optimal[None]])
        return {
            "matching": self._matching(segments, z),
            "preference": (moves_points + moves_optimal).mean(),
            "norm": (points.norm(dim=-1) - 1).square().mean(),
        }

    def _matching(self, segments: SegmentBatch, z: Tensor) -> Tensor:
        rows, length = segments.mask.shape
        found = self.policy.decode(segments.state.flatten(0, 1), z.repeat_interleave(length, 0))
        action = self.policy.normalized(segments.action).flatten(0, 1)
        wrong = (found - action).square().mean(-1).reshape(rows, length)
        return (wrong * segments.mask).sum() / segments.mask.sum().clamp(min=1)

    def _triplet(self, optimal: Tensor, first: Tensor, second: Tensor, label: Tensor) -> Tensor:
        """(B,) max(0, |z* - preferred| - |z* - other| + margin), a mean over both for ties."""
        margin = self.margin * (2 * label - 1).abs()
        gap = (optimal - second).norm(dim=-1) - (optimal - first).norm(dim=-1)
        return label * functional.relu(gap + margin) + (1 - label) * functional.relu(margin - gap)

    def score(self, segments: SegmentBatch) -> Tensor:
        """(B,) how near segments are to the optimal point, at most 0."""
        distance: Tensor = (self.policy.optimal - self.policy.encode(segments)).norm(dim=-1)
        return -distance

    def take_metrics(self) -> Metrics:
        """Agreement of nearness with comparisons held out, and where the optimal point is."""
        if self._held_out is None:
            return {}
        norm = self.policy.optimal.detach().norm()
        return {**agreement(self.score, self._held_out), "optimal/norm": norm}
