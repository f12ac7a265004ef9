"""The policy that ratios refer to: pi_den of `policy_gradient`.

All ratios are of single decisions or of their geometric mean. Products over long sequences of
Gaussian actions overflow; and logs are clamped besides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from embodied.objectives.answers import LOG_RATIO_LIMIT
from embodied.objectives.policy_gradient import Denominator
from embodied.objectives.rollouts import Rollouts


class Current:
    """pi_den = pi: the plain gradient of log pi, as in REINFORCE and imitation."""

    def __call__(self, rollouts: Rollouts) -> Tensor:
        return torch.zeros_like(rollouts.log_prob)


class One:
    """pi_den = 1: the gradient of pi itself, for demonstrations whose author's odds are unknown.

    Decisions that the policy finds unlikely count for little. Of densities, which have units, this
    is doubtful: a narrow Gaussian's may be large.
    """

    def __call__(self, rollouts: Rollouts) -> Tensor:
        return rollouts.log_prob.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


class Old:
    """pi_den = the policy that acted: importance weights of each decision, as in PPO."""

    def __call__(self, rollouts: Rollouts) -> Tensor:
        old = rollouts.need("old", "denominators.Old")
        return (rollouts.log_prob - old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


class OldSequence:
    """One ratio for a whole sequence, the geometric mean of its decisions', (pi / pi_old)^(1 / n).

    GSPO (Zheng et al. 2025, arXiv:2507.18071); pi_den is pi (pi_old / pi)^(1 / n).
    """

    def __call__(self, rollouts: Rollouts) -> Tensor:
        old = rollouts.need("old", "denominators.OldSequence")
        mean = rollouts.row_mean(rollouts.log_prob - old)
        return rollouts.per_step(mean.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


class OldRegulated:
    """Ratios of sampler steps that are centred on 1 and equally wide, so that clipping works.

    The log-ratio of two Gaussians has the mean -drift under the old one, and deviates by ||mean -
    old mean|| / std: both differ from step to step. Added drift and multiplied std undo that
    (GRPO-Guard, Wang et al. 2025, arXiv:2510.22319; the form from memory).
    """

    def __call__(self, rollouts: Rollouts) -> Tensor:
        flow = rollouts.flow
        if flow is None:
            raise ValueError("denominators.OldRegulated needs rollouts with 'flow', got None")
        old = rollouts.need("old", "denominators.OldRegulated")
        ratio = flow.std * (rollouts.log_prob - old + flow.drift)
        return ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


class ByOrigin:
    """One denominator for what the policy did itself, another for demonstrations."""

    def __init__(self, *, own: Denominator, demonstrated: Denominator) -> None:
        self.own, self.demonstrated = own, demonstrated

    def __call__(self, rollouts: Rollouts) -> Tensor:
        shown = rollouts.demonstrations()[:, None]
        return torch.where(shown, self.demonstrated(rollouts), self.own(rollouts))
