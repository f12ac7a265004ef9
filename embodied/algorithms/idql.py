"""IDQL: a policy of any kind clones, implicit Q-learning judges what it draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from embodied.algorithms.actor_critic import Losses, Transition, ValueLearner
from embodied.algorithms.iql import check_expectile, implicit_values
from embodied.networks.ensemble import EnsembleMLP
from embodied.noise import Noise
from embodied.policies.best_of import BestOfPolicy
from embodied.structs import Metrics


class IDQL(ValueLearner):
    """IDQL (Hansen-Estruch et al. 2023, arXiv:2304.10573, Alg. 1) with a `BestOfPolicy`.

    Args:
        expectile: tau of IQL's value.
        keep: what the policy clones: "all", as in the paper, or "better", the actions whose
            advantage is at least 0 (binary CRR, Wang et al. 2020, arXiv:2006.15134, Eq. 3).
        value_hidden: widths of the value's hidden layers.
        options: of `ValueLearner`.
    """

    policy: BestOfPolicy

    def __init__(
        self,
        policy: BestOfPolicy,
        *,
        expectile: float = 0.7,
        keep: str = "all",
        value_hidden: Sequence[int] = (256, 256),
        **options: Any,
    ) -> None:
        if not isinstance(policy, BestOfPolicy):
            raise TypeError(
                f"IDQL trains a BestOfPolicy (policy=best_of), got {type(policy).__name__}"
            )
        if keep not in ("all", "better"):
            raise ValueError(f"algorithm.keep must be 'all' or 'better', got {keep!r}")
        check_expectile(expectile)
        self.expectile, self.keep = expectile, keep
        self.value = EnsembleMLP(1, policy.feature_dim, value_hidden, 1, layer_norm=True)
        super().__init__(policy, policy.critic, {"value": self.value}, **options)

    def losses(self, t: Transition, step: int, noise: Noise) -> tuple[Losses, Metrics]:
        losses, metrics, advantage = implicit_values(self, self.value, t, self.expectile)
        if self.acts_now(step):
            batch = t.batch
            if self.keep == "better":
                better = advantage >= 0
                batch = replace(batch, mask=batch.mask & better[:, None])
                metrics["kept"] = better.float().mean()
            self.policy.begin_step(step)
            losses["actor"], _ = self.policy.loss(batch, noise=noise)
        return losses, metrics
