"""How much a policy improves upon its data, and how much it keeps to them.

IQL, AWAC, CQL and TD3+BC have a coefficient for that: one number for all states, or, in FamO2O, one
for each state, which a balance model chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from embodied.algorithms.gradients import frozen
from embodied.noise import Noise
from embodied.policies.actor import ActorPolicy
from embodied.structs import Metrics

Q = Callable[[Tensor, Tensor], Tensor]
"""Features (B, F) and actions (B, A) -> values (B,), by frozen critics."""


class TradeOff(nn.Module, ABC):
    """Where a learner takes its coefficient from."""

    @abstractmethod
    def coefficient(
        self, policy: ActorPolicy, features: Tensor, *, online: bool, noise: Noise
    ) -> Tensor:
        """(B,), without gradient."""

    def losses(
        self, policy: ActorPolicy, features: Tensor, q: Q, noise: Noise
    ) -> tuple[dict[str, Tensor], Metrics]:
        """Further losses by name, and metrics."""
        return {}, {}


class Fixed(TradeOff):
    """One coefficient for all states."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def coefficient(
        self, policy: ActorPolicy, features: Tensor, *, online: bool, noise: Noise
    ) -> Tensor:
        return features.new_full((len(features),), self.value)


class Family(TradeOff):
    """FamO2O (Wang et al. 2023, arXiv:2310.17966): a coefficient for each state.

    Before the policy acts, coefficients are uniform in the range, so that the whole family is
    learned; then the balance model draws them. It is trained all along, to the coefficients under
    which the family's actions are worth most.

    Args:
        entropy: whether the balance model is paid for its entropy, by a temperature that holds it
            at `target_entropy`; the published code does so for IQL, and not for CQL.
    """

    def __init__(self, *, entropy: bool = True, target_entropy: float = -0.5) -> None:
        super().__init__()
        self.target_entropy = target_entropy
        self.log_alpha = nn.Parameter(torch.zeros(())) if entropy else None

    def coefficient(
        self, policy: ActorPolicy, features: Tensor, *, online: bool, noise: Noise
    ) -> Tensor:
        assert policy.balance is not None
        if online:
            with torch.no_grad():
                chosen: Tensor = policy.balance(features, noise=noise)[0]
            return chosen
        u = noise.uniform(len(features), device=features.device)
        return policy.balance.low + u * (policy.balance.high - policy.balance.low)

    def losses(
        self, policy: ActorPolicy, features: Tensor, q: Q, noise: Noise
    ) -> tuple[dict[str, Tensor], Metrics]:
        assert policy.balance is not None
        coefficient, log_prob = policy.balance(features, noise=noise)
        with frozen(policy):
            action, _ = policy.choose(features, noise=noise, coefficient=coefficient)
        balance = -q(features, action.clamp(-1, 1)).mean()
        metrics: Metrics = {"coefficient": coefficient.detach().mean()}
        if self.log_alpha is None:
            return {"balance": balance}, metrics
        alpha = self.log_alpha.exp()
        balance = balance + (alpha.detach() * log_prob).mean()
        surplus = -log_prob.detach().mean() - self.target_entropy
        return {"balance": balance, "balance_alpha": alpha * surplus}, metrics
