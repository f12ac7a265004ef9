"""Conservative Q-learning, and its calibrated form for what is to be improved online."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from embodied.algorithms.actor_critic import Losses, Transition
from embodied.algorithms.sac import SAC
from embodied.noise import Noise
from embodied.structs import Metrics


class CQL(SAC):
    """CQL(H) (Kumar et al. 2020, arXiv:2006.04779) upon SAC, and Cal-QL (Nakamoto et al. 2023,
    arXiv:2303.05479).

    Args:
        penalty: alpha of Eq. 4; what the critics' values of unseen actions cost.
        num_actions: drawn for each state of each kind: uniform, of the policy, and of the policy at
            the next state.
        gap: None keeps the penalty; a number lets a multiplier hold the gap at it (Eq. 30).
        max_backup: whether targets take the best of `num_actions` actions, for sparse rewards.
        calibrated: whether values of the policy's actions count at least as the return that the
            data went on to have (Cal-QL, Eq. 5.1).
        calibrated_online: whether that goes on once the policy acts; not in the published code.
        difference_range: what the gap is clipped to, where it would run off.
    """

    def __init__(
        self,
        *args: Any,
        penalty: float = 5.0,
        num_actions: int = 10,
        gap: float | None = None,
        max_backup: bool = False,
        calibrated: bool = False,
        calibrated_online: bool = False,
        difference_range: tuple[float, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.gap = gap
        super().__init__(*args, **kwargs)
        self.penalty, self.num_actions, self.max_backup = penalty, num_actions, max_backup
        self.calibrated, self.calibrated_online = calibrated, calibrated_online
        self.difference_range = difference_range

    def more_parts(self, hidden: Sequence[int], orthogonal: bool) -> dict[str, nn.Module]:
        parts = super().more_parts(hidden, orthogonal)
        if self.gap is not None:
            self.multiplier = Multiplier()
            parts["multiplier"] = self.multiplier
        return parts

    def losses(self, t: Transition, step: int, noise: Noise) -> tuple[Losses, Metrics]:
        losses, metrics = super().losses(t, step, noise)
        difference = self._difference(t, step, noise)  # (E,)
        if self.gap is None:
            losses["conservative"] = self.penalty * difference.sum()
        else:
            weight = self.multiplier.value
            held = self.penalty * (difference - self.gap)
            losses["conservative"] = (weight.detach() * held).sum()
            losses["multiplier"] = -(weight * held.detach()).sum()
        return losses, {**metrics, "gap": difference.detach().mean()}

    def td_target(self, t: Transition, step: int, noise: Noise) -> Tensor:
        if not self.max_backup:
            return super().td_target(t, step, noise)
        with torch.no_grad():
            s = t.next_s.repeat_interleave(self.num_actions, 0)
            a, _ = self._policy_actions(s, step, noise)
            best = self.target_q(s, a).reshape(-1, self.num_actions).amax(1)
            return t.r + t.discount * best

    def _policy_actions(self, s: Tensor, step: int, noise: Noise) -> tuple[Tensor, Tensor]:
        coefficient = self.trade_off.coefficient(
            self.policy, s, online=self.is_online(step), noise=noise
        )
        return self.policy.choose(s, noise=noise, coefficient=coefficient)

    def _difference(self, t: Transition, step: int, noise: Noise) -> Tensor:
        """By how much unseen actions are valued above the data's, for each critic, (E,).

        log of the integral of exp Q over all actions, estimated with importance weights from a
        third uniform, a third of the policy's and a third of its actions at the next state
        (Appendix F), less Q of the data.
        """
        num, s = self.num_actions, t.s.repeat_interleave(self.num_actions, 0)
        next_s = t.next_s.repeat_interleave(num, 0)
        with torch.no_grad():
            uniform = 2 * noise.uniform(*(len(s), t.a.shape[1]), device=s.device) - 1
            own, own_log_prob = self._policy_actions(s, step, noise)
            after, after_log_prob = self._policy_actions(next_s, step, noise)
        everywhere = torch.full_like(own_log_prob, -t.a.shape[1] * math.log(2))
        actions = torch.cat([uniform, own, after])
        q = self.q(self.critic, s.repeat(3, 1), actions)  # (E, 3 B N)
        q = self._at_least(q, t, step)
        log_weight = torch.cat([everywhere, own_log_prob, after_log_prob])
        drawn = (q - log_weight).reshape(len(q), 3, len(t.s), num)
        total = drawn.transpose(1, 2).flatten(2).logsumexp(-1) - math.log(3 * num)
        difference = total - self.q(self.critic, t.s, t.a)
        if self.difference_range is not None:
            difference = difference.clamp(*self.difference_range)
        return difference.mean(1)

    def _at_least(self, q: Tensor, t: Transition, step: int) -> Tensor:
        """Cal-QL: values of the policy's actions are not pushed below the data's returns."""
        if not self.calibrated or (self.is_online(step) and not self.calibrated_online):
            return q
        num_uniform = q.shape[1] // 3
        returns = t.return_to_go.repeat_interleave(self.num_actions, 0).repeat(2)
        policys = torch.maximum(q[:, num_uniform:], returns)
        return torch.cat([q[:, :num_uniform], policys], 1)


class Multiplier(nn.Module):
    """A Lagrange multiplier in [0, 1e6], 1 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.log_value = nn.Parameter(torch.zeros(()))

    @property
    def value(self) -> Tensor:
        return self.log_value.exp().clamp(0, 1e6)
