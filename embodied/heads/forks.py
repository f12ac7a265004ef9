"""Where each random step of a denoiser's sampler may lead: candidates, of which one goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from embodied.heads.base import Denoiser
from embodied.heads.samplers import ancestral_step
from embodied.networks.gaussians import normal_log_prob
from embodied.noise import Noise
from embodied.objectives.answers import Answers


@dataclass(frozen=True)
class Fork:
    """Where one step of the sampler may lead.

    Attributes:
        x: (B, H, A) under noise of `sigma`, 0-d, which the step takes to `next_sigma`.
        mean, std: of the Gaussian p(x_t-1 | x_t), (B, H, A) and 0-d; the mean has gradients.
        other_mean: (B, H, A) of the reference, whose deviation is the same.
        candidates: (B, K, H, A) drawn from it.
    """

    x: Tensor
    sigma: Tensor
    next_sigma: Tensor
    mean: Tensor
    other_mean: Tensor
    std: Tensor
    candidates: Tensor

    def answers(self, number: Tensor) -> Answers:
        """The candidates with these numbers (B,), by step of a chunk, (B, H)."""
        x, log_std = _taken(self.candidates, number), self.std.log()
        own, other = (
            normal_log_prob((x - mean) / self.std, log_std).sum(-1)
            for mean in (self.mean, self.other_mean)
        )
        return Answers(own, reference=other)


def forks(
    own: Denoiser,
    reference: Denoiser,
    sigmas: Tensor,
    start: Tensor,
    noise: Noise,
    *,
    num_candidates: int,
    skipped: int = 0,
) -> Iterator[Fork]:
    """The steps from standard normal `start` (B, H, A) that add noise, without the first ones that
    are skipped. Each begins at a random candidate of the one before.

    Args:
        own, reference: denoisers that expect a clean chunk.
        sigmas: the levels that are visited, which end in 0.
    """
    x = sigmas[0] * start
    for number, (sigma, next_sigma) in enumerate(pairwise(sigmas[:-1])):
        shown = number >= skipped
        with torch.set_grad_enabled(shown and torch.is_grad_enabled()):
            mean, std = ancestral_step(own, x, sigma, next_sigma)
        shape = (len(x), num_candidates, *x.shape[1:])
        candidates = mean.detach()[:, None] + std * noise.normal(*shape, device=x.device)
        if shown:
            other, _ = ancestral_step(reference, x, sigma, next_sigma)
            yield Fork(x, sigma, next_sigma, mean, other, std, candidates)
        u = noise.uniform(len(x), device=x.device)
        x = _taken(candidates, (u * num_candidates).long().clamp(max=num_candidates - 1))


def _taken(candidates: Tensor, number: Tensor) -> Tensor:
    """(B, H, A), of each row's candidates (B, K, H, A) the one with that number, (B,)."""
    return candidates[torch.arange(len(number), device=number.device), number]
