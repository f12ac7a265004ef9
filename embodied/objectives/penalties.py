"""Terms beside a policy gradient that hold a policy near another, or keep it open."""

from __future__ import annotations

from torch import Tensor

from embodied.objectives.answers import limited
from embodied.objectives.rollouts import Rollouts


class KLToReference:
    """weight * mean over sequences of the mean of e^-d + d - 1, d = log pi - log pi_ref.

    It is 0 or more at each decision, and its mean over the policy's own decisions is KL(pi ||
    pi_ref) (GRPO, Shao et al. 2024, arXiv:2402.03300, Eq. 4).
    """

    def __init__(self, *, weight: float = 0.04) -> None:
        self.weight = weight

    def __call__(self, rollouts: Rollouts) -> Tensor:
        d = limited(rollouts.log_prob - rollouts.need("reference", "penalties.KLToReference"))
        return self.weight * rollouts.row_mean((-d).exp() + d - 1).mean()


class KLToOld:
    """weight * mean of ratio log ratio - ratio + 1, ratio = pi / pi_old, over all decisions.

    It is 0 or more at each, and its mean over what the acting policy did is KL(pi || pi_old). In
    place of clipping: mirror descent (MDPO, Tomar et al. 2020, arXiv:2005.09814), whose
    weight 1 / t_k grows while training. It is flat where nothing has moved, so that it needs
    several steps on the same rollouts.
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, rollouts: Rollouts) -> Tensor:
        gap = limited(rollouts.log_prob - rollouts.need("old", "penalties.KLToOld"))
        terms = gap.exp() * (gap - 1) + 1
        return self.weight * (terms * rollouts.mask).sum() / rollouts.mask.sum().clamp(min=1)


class EntropyBonus:
    """-weight * mean entropy of all decisions, so that the policy keeps trying."""

    def __init__(self, *, weight: float = 0.01) -> None:
        self.weight = weight

    def __call__(self, rollouts: Rollouts) -> Tensor:
        entropy = rollouts.need("entropy", "penalties.EntropyBonus")
        return -self.weight * (entropy * rollouts.mask).sum() / rollouts.mask.sum().clamp(min=1)


class KLBarrier:
    """weight stopgrad([KL - threshold]+) KL, with KL(pi_old || pi) as the mean of log pi_old - log
    pi over all decisions.

    In place of clipping: free within the threshold, steep beyond (DisCO, Li et al. 2025,
    arXiv:2505.12366).
    """

    def __init__(self, *, weight: float = 1e3, threshold: float = 1e-4) -> None:
        self.weight, self.threshold = weight, threshold

    def __call__(self, rollouts: Rollouts) -> Tensor:
        gap = rollouts.need("old", "penalties.KLBarrier") - rollouts.log_prob
        kl = (gap * rollouts.mask).sum() / rollouts.mask.sum().clamp(min=1)
        return self.weight * (kl - self.threshold).clamp(min=0).detach() * kl
