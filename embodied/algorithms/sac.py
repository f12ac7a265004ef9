"""Soft actor-critic, and RLPD, which is SAC with data, ten critics and many updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from embodied.algorithms.actor_critic import ActorCritic, Losses, Transition
from embodied.algorithms.gradients import frozen
from embodied.noise import Noise
from embodied.structs import Metrics


class SAC(ActorCritic):
    """SAC with a learned temperature (Haarnoja et al. 2018, arXiv:1812.05905).

    With ten critics of which targets take the least of two, layer normalisation, the mean of all
    for the policy, half of each batch from recorded data and many updates for each step it is RLPD
    (Ball et al. 2023, arXiv:2302.02948). The trade-off coefficient counts the value beside the
    entropy in the policy's loss; 1 is SAC's.

    Args:
        target_entropy: None is minus half the number of actions' dimensions as in RLPD; SAC's own
            is minus that number.
        initial_alpha: the temperature at first.
        learn_alpha: whether it is learned; otherwise it stays.
        subset: how many critics, drawn anew at each step, targets take the least of; None all.
        actor_uses: "min" or "mean" of the critics.
        entropy_backup: whether targets count the next action's entropy.
    """

    def __init__(
        self,
        *args: Any,
        target_entropy: float | None = None,
        initial_alpha: float = 1.0,
        learn_alpha: bool = True,
        subset: int | None = None,
        actor_uses: str = "min",
        entropy_backup: bool = True,
        **kwargs: Any,
    ) -> None:
        if actor_uses not in ("min", "mean"):
            raise ValueError(f"algorithm.actor_uses must be 'min' or 'mean', got {actor_uses!r}")
        self.initial_alpha, self.learn_alpha = initial_alpha, learn_alpha
        super().__init__(*args, **kwargs)
        if self.policy.kind == "deterministic":
            raise ValueError("SAC needs a policy that draws: set policy.kind=squashed")
        if subset is not None and not 1 <= subset <= self.critic.num_members:
            raise ValueError(
                f"algorithm.subset must lie in [1, {self.critic.num_members}] "
                f"(algorithm.num_critics), got {subset}"
            )
        self.subset, self.actor_uses, self.entropy_backup = subset, actor_uses, entropy_backup
        dims = self.policy.spec.action_dim
        self.target_entropy = -dims / 2 if target_entropy is None else target_entropy

    def more_parts(self, hidden: Sequence[int], orthogonal: bool) -> dict[str, nn.Module]:
        self.temperature = Temperature(self.initial_alpha, learned=self.learn_alpha)
        return {"temperature": self.temperature}

    def losses(self, t: Transition, step: int, noise: Noise) -> tuple[Losses, Metrics]:
        target = self.td_target(t, step, noise)
        losses = {"critic": self.critic_loss(t, target)}
        metrics: Metrics = {"target": target.mean()}
        if self.acts_now(step):
            more, measured = self.actor_losses(t, step, noise)
            losses |= more
            metrics |= measured
        return losses, metrics

    @torch.no_grad()
    def td_target(self, t: Transition, step: int, noise: Noise) -> Tensor:
        """r + discount (min Q(s', a') - alpha log pi(a' | s')), (B,)."""
        coefficient = self.trade_off.coefficient(
            self.policy, t.next_s, online=self.is_online(step), noise=noise
        )
        a, log_prob = self.policy.choose(t.next_s, noise=noise, coefficient=coefficient)
        value = self._some(self.q(self.target, t.next_s, a), noise).amin(0)
        if self.entropy_backup:
            value = value - self.temperature.alpha * log_prob
        return t.r + t.discount * value

    def _some(self, q: Tensor, noise: Noise) -> Tensor:
        """Values (E, B) of the critics that this step's targets ask."""
        if self.subset is None:
            return q
        chosen = noise.uniform(len(q), device=q.device).argsort()[: self.subset]
        return q[chosen]

    def actor_losses(self, t: Transition, step: int, noise: Noise) -> tuple[Losses, Metrics]:
        """The policy's and the temperature's."""
        online = self.is_online(step)
        coefficient = self.trade_off.coefficient(self.policy, t.s, online=online, noise=noise)
        a, log_prob = self.policy.choose(t.s, noise=noise, coefficient=coefficient)
        alpha = self.temperature.alpha
        losses = {"actor": (alpha.detach() * log_prob - coefficient * self.actor_q(t.s, a)).mean()}
        if self.learn_alpha:
            losses["alpha"] = alpha * -(log_prob.detach().mean() + self.target_entropy)
        more, measured = self.trade_off.losses(self.policy, t.s, self.actor_q, noise)
        metrics: Metrics = {"alpha": alpha.detach(), "entropy": -log_prob.detach().mean()}
        return losses | more, metrics | measured

    def actor_q(self, s: Tensor, a: Tensor) -> Tensor:
        """What the policy raises, (B,); gradients pass and leave none in the critics."""
        with frozen(self.critic):
            q = self.q(self.critic, s, a)
        return q.amin(0) if self.actor_uses == "min" else q.mean(0)


class Temperature(nn.Module):
    """What entropy is worth."""

    def __init__(self, initial: float, *, learned: bool) -> None:
        super().__init__()
        if initial <= 0:
            raise ValueError(f"algorithm.initial_alpha must be > 0, got {initial}")
        self.log_alpha = nn.Parameter(torch.tensor(math.log(initial)), requires_grad=learned)

    @property
    def alpha(self) -> Tensor:
        return self.log_alpha.exp()
