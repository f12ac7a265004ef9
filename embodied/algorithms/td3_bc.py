"""TD3+BC: a deterministic policy that is worth much and stays near the data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from embodied.algorithms.actor_critic import ActorCritic, Losses, Transition, follow
from embodied.algorithms.gradients import frozen
from embodied.noise import Noise
from embodied.structs import Metrics


class TD3BC(ActorCritic):
    """TD3+BC (Fujimoto and Gu 2021, arXiv:2106.06860).

    The trade-off coefficient is alpha of Eq. 5 (2.5 there): what the critics' value, divided by the
    mean of its size, counts beside the squared distance from the data's actions.

    Args:
        target_noise, noise_clip: of the actions in targets, which smooth the critics.
    """

    def __init__(
        self,
        *args: Any,
        target_noise: float = 0.2,
        noise_clip: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.policy.kind != "deterministic":
            raise ValueError(f"TD3+BC needs policy.kind=deterministic, got {self.policy.kind!r}")
        self.target_noise, self.noise_clip = target_noise, noise_clip

    def more_parts(self, hidden: Sequence[int], orthogonal: bool) -> dict[str, nn.Module]:
        self.target_policy = copy.deepcopy(self.policy).requires_grad_(False)
        return {"target_policy": self.target_policy}

    def losses(self, t: Transition, step: int, noise: Noise) -> tuple[Losses, Metrics]:
        online, policy = self.is_online(step), self.policy
        with torch.no_grad():
            next_a = self._target_action(t, online=online, noise=noise)
            target = t.r + t.discount * self.target_q(t.next_s, next_a)
        losses = {"critic": self.critic_loss(t, target)}
        metrics: Metrics = {"target": target.mean()}
        if self.acts_now(step):
            coefficient = self.trade_off.coefficient(policy, t.s, online=online, noise=noise)
            own, _ = policy.choose(t.s, noise=None, coefficient=coefficient)
            q = self._first(t.s, own)
            kept = (own - t.a).square().mean(-1)
            losses["actor"] = (kept - coefficient * q / q.detach().abs().mean()).mean()
            more, measured = self.trade_off.losses(policy, t.s, self._first, noise)
            losses |= more
            metrics |= measured | {"distance": kept.detach().mean()}
        return losses, metrics

    def _first(self, s: Tensor, a: Tensor) -> Tensor:
        """The first critic's values (B,), which gradients pass."""
        with frozen(self.critic):
            return self.q(self.critic, s, a)[0]

    def _target_action(self, t: Transition, *, online: bool, noise: Noise) -> Tensor:
        coefficient = self.trade_off.coefficient(
            self.target_policy, t.next_s, online=online, noise=noise
        )
        action, _ = self.target_policy.choose(t.next_s, noise=None, coefficient=coefficient)
        drawn = self.target_noise * noise.normal(*action.shape, device=action.device)
        return (action + drawn.clamp(-self.noise_clip, self.noise_clip)).clamp(-1, 1)

    def move_targets(self, step: int) -> None:
        if self.acts_now(step):
            super().move_targets(step)
            follow(self.target_policy, self.policy, self.polyak)
