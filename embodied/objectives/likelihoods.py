"""Whose gradient is taken, and how decisions are put together: L of `policy_gradient`."""

from __future__ import annotations

from torch import Tensor

from embodied.objectives.rollouts import Rollouts


class _LogProb:
    """log pi of each decision."""

    def steps(self, rollouts: Rollouts) -> Tensor:
        return rollouts.log_prob


class Joint(_LogProb):
    """A sequence's likelihood, the sum over its decisions; the mean over sequences.

    Long sequences count for more, as the gradient of the expected return says (REINFORCE); so in
    HPT and Dr. GRPO.
    """

    def reduce(self, terms: Tensor, mask: Tensor) -> Tensor:
        return (terms * mask).sum() / len(terms)


class RowMean(_LogProb):
    """The mean over a sequence's decisions, then over sequences, as in GRPO and GSPO."""

    def reduce(self, terms: Tensor, mask: Tensor) -> Tensor:
        return ((terms * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


class Pooled(_LogProb):
    """The mean over all decisions of the batch, as in PPO and DAPO."""

    def reduce(self, terms: Tensor, mask: Tensor) -> Tensor:
        return (terms * mask).sum() / mask.sum().clamp(min=1)


class Regulated(RowMean):
    """std (log pi + drift) / dt of sampler steps: the gradient of `denominators.OldRegulated`,
    divided by the length of the step, so that all steps move the network alike.

    GRPO-Guard (Wang et al. 2025, arXiv:2510.22319; the form from memory).
    """

    def steps(self, rollouts: Rollouts) -> Tensor:
        flow = rollouts.flow
        if flow is None:
            raise ValueError("likelihoods.Regulated needs rollouts with 'flow', got None")
        return flow.std * (rollouts.log_prob + flow.drift) / flow.dt
