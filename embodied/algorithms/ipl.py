"""Inverse preference learning: values whose implied rewards explain comparisons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from embodied.algorithms.actor_critic import Losses, Transition
from embodied.algorithms.iql import IQL, expectile_loss
from embodied.algorithms.segment_answers import agreement
from embodied.feedback import Pairs, SegmentBatch
from embodied.noise import Noise
from embodied.objectives.bradley_terry import bradley_terry
from embodied.structs import Metrics, Observation


class IPL(IQL):
    """IPL (Hejna and Sadigh 2023, arXiv:2305.15363) with IQL's operators; from memory of paper and
    code.

    No reward is modelled: a critic Q implies r(s, a) = Q(s, a) - discount V(s'), the inverse
    Bellman operator. Q is trained by the Bradley-Terry loss of these, summed over segments, and by
    their squares, which keep them small where no comparison speaks. V and the policy learn from Q
    as IQL's. A segment's last step, whose successor is not in it, is left out.

    Args:
        discount: as the source's.
        regularization: lambda, of the mean square of implied rewards, compared or not.
    """

    def __init__(
        self, *args: Any, discount: float = 0.99, regularization: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if regularization < 0:
            raise ValueError(f"algorithm.regularization must be >= 0, got {regularization}")
        self.discount, self.regularization = discount, regularization
        self._held_out: Pairs | None = None

    def losses(self, t: Transition, step: int, noise: Noise) -> tuple[Losses, Metrics]:
        pairs = t.batch.pairs
        if pairs is None:
            raise ValueError(
                "ipl learns from comparisons, and the batch has none: choose source=preferences"
            )
        self._held_out = t.batch.held_out
        losses: Losses = {"critic": self._critic_loss(t, pairs)}
        v = self.value(t.s)[0, :, 0]
        with torch.no_grad():
            q = self.target_q(t.s, t.a)
        losses["value"] = expectile_loss(q - v, self.expectile).mean()
        advantage = q - v.detach()
        more, metrics = self.improve(t, advantage, step, noise)
        metrics |= {"value": v.detach().mean(), "advantage": advantage.mean()}
        return losses | more, metrics

    def _critic_loss(self, t: Transition, pairs: Pairs) -> Tensor:
        first, second = (self.implied(side) for side in (pairs.first, pairs.second))  # (E, B, L-1)
        logits = second.sum(-1) - first.sum(-1)
        compared = torch.cat([first, second], 1).square().flatten(1).mean(1)
        with torch.no_grad():
            after = t.discount * self.value(t.next_s)[0, :, 0]
        others = (self.q(self.critic, t.s, t.a) - after).square().mean(1)
        fit = bradley_terry(logits, pairs.second_better).mean(1)
        loss: Tensor = (fit + self.regularization * 0.5 * (compared + others)).sum()
        return loss

    def implied(self, segments: SegmentBatch) -> Tensor:
        """Rewards (E, B, L - 1) of all steps but the last, by each critic; 0 past the end."""
        rows, length = segments.mask.shape
        features = self.policy.features(Observation(segments.state.flatten(0, 1)[:, None]))
        action = self.policy.decision(segments.action.flatten(0, 1)[:, None])
        q = self.q(self.critic, features, action).reshape(-1, rows, length)
        with torch.no_grad():
            v = self.value(features)[0, :, 0].reshape(rows, length)
        rewards: Tensor = (q[:, :, :-1] - self.discount * v[:, 1:]) * segments.mask[:, 1:]
        return rewards

    def take_metrics(self) -> Metrics:
        """Agreement of summed implied rewards with comparisons held out."""
        if self._held_out is None:
            return {}
        return agreement(lambda side: self.implied(side).sum(-1).mean(0), self._held_out)
