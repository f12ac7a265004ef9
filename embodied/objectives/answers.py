"""What losses of preferences know of the things that are compared, and how they may be combined.

An answer is an action chunk or a segment of H steps. A pairwise loss is a function

    loss(chosen: Answers, rejected: Answers) -> Tensor  # (B,)

whose further arguments are numbers, so that a config names one with `_partial_: true`. Answers
carry all that a learner knows; a loss that needs more says what it lacks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from embodied.structs import Struct

LOG_RATIO_LIMIT = 10.0
"""Ratios of long Gaussian segments overflow: exponentials see no log-ratio beyond this."""


@dataclass(frozen=True)
class Answers(Struct):
    """Answers to B questions; lists of K for each question have (B, K, H) in place of (B, H).

    Heads without a likelihood enter through `diffusion.answers_of_errors`.

    Attributes:
        log_prob: (B, H) log pi(a_h | a_<h, s), the only one with a gradient.
        reference: (B, H) the same under the reference; None for losses without one.
        mask: (B, H) bool, the steps that count; None is all.
        reward: (B,) of the whole answer, by a reward model or a simulator.
        other_rewards: (B, K') by further objectives, higher is better.
        win_rate: (B,) in [0, 1], how often it is preferred to what the policy answers.
        old: (B, H) log-probabilities under the policy that drew it.
        history: (B, J, H) log-probabilities under J policies of earlier rounds.
        guide: (B, H) log-ratios of a policy that was already aligned to its reference.
        gold: (B,) log pi(y*) of an answer that is known to be right, with a gradient.
        from_reference: (B,) bool, whether the reference drew it.
    """

    log_prob: Tensor
    reference: Tensor | None = None
    mask: Tensor | None = None
    reward: Tensor | None = None
    other_rewards: Tensor | None = None
    win_rate: Tensor | None = None
    old: Tensor | None = None
    history: Tensor | None = None
    guide: Tensor | None = None
    gold: Tensor | None = None
    from_reference: Tensor | None = None

    def need(self, field: str, purpose: str) -> Tensor:
        """A field that must be there. Raises ValueError naming it and who needs it."""
        value = getattr(self, field)
        if value is None:
            raise ValueError(f"{purpose} needs answers with {field!r}, got None; give {field}=...")
        assert isinstance(value, Tensor)
        return value

    def total(self, steps: Tensor) -> Tensor:
        """(B, H) summed over the steps that count, (B,)."""
        return (steps if self.mask is None else steps * self.mask).sum(-1)

    def lengths(self) -> Tensor:
        """(B,), how many steps count, at least 1."""
        ones = torch.ones_like(self.log_prob)
        return self.total(ones).clamp(min=1)

    def log_likelihood(self) -> Tensor:
        """(B,), log pi(y)."""
        return self.total(self.log_prob)

    def delta(self) -> Tensor:
        """(B,), log pi(y) - log pi_ref(y)."""
        return self.total(self.log_prob - self.need("reference", "a log-ratio"))

    def ratio_to_old(self) -> Tensor:
        """(B,), log pi(y) - log pi_old(y)."""
        return self.total(self.log_prob - self.need("old", "a ratio to the sampling policy"))


PairLoss = Callable[[Answers, Answers], Tensor]
"""(chosen, rejected) -> (B,)."""


def limited(log_ratio: Tensor, limit: float = LOG_RATIO_LIMIT) -> Tensor:
    """Clamped to [-limit, limit] in value; the gradient passes, so that far rows still learn."""
    return log_ratio + (log_ratio.clamp(-limit, limit) - log_ratio).detach()


def labelled(loss: PairLoss, first: Answers, second: Answers, second_better: Tensor) -> Tensor:
    """(B,), a pairwise loss under soft labels: its mean over which of the two is chosen.

    Args:
        second_better: (B,) in [0, 1], the probability that the second is preferred; 0.5 is a tie.
    """
    return (1 - second_better) * loss(first, second) + second_better * loss(second, first)


def per_step(chosen: Answers, rejected: Answers, *, loss: PairLoss) -> Tensor:
    """(B,), a pairwise loss on means over the steps in place of sums, so that length has no say.

    TRL computes IPO so (arXiv:2310.12036 itself has sums).
    """
    return loss(*(_averaged(each) for each in (chosen, rejected)))


def _averaged(answers: Answers) -> Answers:
    lengths = answers.lengths()[..., None]
    changes: dict[str, Tensor] = {
        name: x / lengths
        for name in ("log_prob", "reference", "old")
        if (x := getattr(answers, name)) is not None
    }
    if answers.history is not None:
        changes["history"] = answers.history / lengths[..., None]
    return dataclasses.replace(answers, **changes)
