"""What policy gradients know of the episodes, or answers, that they learn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embodied.structs import Struct


@dataclass(frozen=True)
class FlowSteps(Struct):
    """Of policies whose decisions are the steps of a stochastic sampler, x_h+1 ~ N(mean, std^2).

    Attributes:
        drift: (B, H) ||mean - old mean||^2 / (2 std^2), with a gradient.
        std: (B, H) of the noise that a step adds, sigma_h sqrt(dt_h).
        dt: (B, H) length of the step, in the sampler's time.
    """

    drift: Tensor
    std: Tensor
    dt: Tensor


@dataclass(frozen=True)
class Rollouts(Struct):
    """B sequences of up to H decisions: actions of episodes, chunks, tokens or sampler steps.

    Attributes:
        log_prob: (B, H) log pi(a_h | s_h) of what was done, with a gradient; finite also where
            masked.
        mask: (B, H) bool, decisions that were made.
        reward: (B,) of the whole sequence, such as 1 for success.
        group: (B,) int64, a number that rows share which began alike; None is one group.
        old: (B, H) log-probabilities under the policy that acted.
        reference: (B, H) log-probabilities under a policy to stay near.
        advantage: (B, H) where a critic has said it.
        entropy: (B, H) of the policy at each decision, with a gradient.
        demonstrated: (B,) bool, rows that someone else acted; None where there are none.
        step_return: (B, H) discounted reward from each decision on.
        anchor: (B, H) int64, which state it was; equal numbers are equal states.
        code: (B, H) int64, the decision itself where it is discrete.
        segment: (B, H) int64, the part of the sequence that a decision belongs to, from 0.
        boundary_value: (B, K + 1) value of the states where segments begin, and of the last end,
            each a mean over rollouts from there.
        bundle: (B,) int64, a number that rows of different tasks share whose rewards are summed.
        first_hit: (B,) int64, at which of its candidates an answer was right first, from 1; 0 where
            none was.
        flow: of decisions that are a sampler's steps.
    """

    log_prob: Tensor
    mask: Tensor
    reward: Tensor
    group: Tensor | None = None
    old: Tensor | None = None
    reference: Tensor | None = None
    advantage: Tensor | None = None
    entropy: Tensor | None = None
    demonstrated: Tensor | None = None
    step_return: Tensor | None = None
    anchor: Tensor | None = None
    code: Tensor | None = None
    segment: Tensor | None = None
    boundary_value: Tensor | None = None
    bundle: Tensor | None = None
    first_hit: Tensor | None = None
    flow: FlowSteps | None = None

    def need(self, field: str, purpose: str) -> Tensor:
        """A field that must be there. Raises ValueError naming it and who needs it."""
        value = getattr(self, field)
        if value is None:
            raise ValueError(f"{purpose} needs rollouts with {field!r}, got None; give {field}=...")
        assert isinstance(value, Tensor)
        return value

    def groups(self) -> Tensor:
        """(B,) int64, `group` or zeros."""
        if self.group is None:
            return torch.zeros(len(self.reward), dtype=torch.int64, device=self.reward.device)
        return self.group

    def demonstrations(self) -> Tensor:
        """(B,) bool, `demonstrated` or False."""
        if self.demonstrated is None:
            return torch.zeros_like(self.reward, dtype=torch.bool)
        return self.demonstrated

    def group_sizes(self) -> Tensor:
        """(B,) int64, how many rows a row's group has."""
        group = self.groups()
        return (group[:, None] == group[None, :]).sum(1)

    def per_step(self, of_rows: Tensor) -> Tensor:
        """(B,) for each row -> (B, H)."""
        return of_rows[:, None].expand(self.log_prob.shape)

    def row_mean(self, steps: Tensor) -> Tensor:
        """(B, H) -> (B,), means over the decisions that were made."""
        return (steps * self.mask).sum(-1) / self.mask.sum(-1).clamp(min=1)


def group_mean(values: Tensor, group: Tensor, weight: Tensor | None = None) -> Tensor:
    """(N,), for each entry the mean of its group; 0 where a group has no weight.

    Args:
        group: (N,) int64, any numbers.
        weight: (N,) at least 0; None is 1.
    """
    weight = torch.ones_like(values) if weight is None else weight.to(values.dtype)
    totals = _group_sum(values * weight, group)
    return totals / _group_sum(weight, group).clamp(min=torch.finfo(values.dtype).tiny)


def group_std(values: Tensor, group: Tensor, weight: Tensor | None = None) -> Tensor:
    """(N,), for each entry the standard deviation of its group, the biased one."""
    centred = values - group_mean(values, group, weight)
    return group_mean(centred.square(), group, weight).sqrt()


def group_any(flags: Tensor, group: Tensor) -> Tensor:
    """(N,) bool, whether any of an entry's group is True."""
    return _group_sum(flags.to(torch.float32), group) > 0


def _group_sum(values: Tensor, group: Tensor) -> Tensor:
    _, index = torch.unique(group, return_inverse=True)
    totals = torch.zeros(int(index.max()) + 1, dtype=values.dtype, device=values.device)
    return totals.index_add(0, index, values)[index]
