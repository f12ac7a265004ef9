"""Advantage-weighted actor-critic."""

from __future__ import annotations

from typing import Any

import torch

from embodied.algorithms.actor_critic import ActorCritic, Losses, Transition
from embodied.noise import Noise
from embodied.structs import Metrics


class AWAC(ActorCritic):
    """AWAC (Nair et al. 2020, arXiv:2006.09359), as in CORL.

    The trade-off coefficient is 1 / lambda of Eq. 13: how much better actions are preferred.

    Args:
        max_weight: of an action in the cloning loss.
    """

    def __init__(self, *args: Any, max_weight: float = 100.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_weight = max_weight

    def losses(self, t: Transition, step: int, noise: Noise) -> tuple[Losses, Metrics]:
        online, policy = self.is_online(step), self.policy
        told = self.trade_off.coefficient
        coefficient = told(policy, t.s, online=online, noise=noise)
        with torch.no_grad():
            its = told(policy, t.next_s, online=online, noise=noise)
            next_a, _ = policy.choose(t.next_s, noise=noise, coefficient=its)
            target = t.r + t.discount * self.target_q(t.next_s, next_a.clamp(-1, 1))
            own, _ = policy.choose(t.s, noise=noise, coefficient=coefficient)
            advantage = self.target_q(t.s, t.a) - self.target_q(t.s, own.clamp(-1, 1))
            weight = (coefficient * advantage).exp().clamp(max=self.max_weight)
        losses = {"critic": self.critic_loss(t, target)}
        metrics: Metrics = {"advantage": advantage.mean(), "target": target.mean()}
        if self.acts_now(step):
            losses["actor"] = -(weight * policy.log_prob(t.s, t.a, coefficient)).mean()
            more, measured = self.trade_off.losses(policy, t.s, self.target_q, noise)
            losses |= more
            metrics |= measured
        return losses, metrics
