"""Completing a chunk of which the first steps are settled: real-time chunking.

While a policy thinks, the robot executes the chunk before. What it will have executed by then is
frozen, what is left beyond is wished for, and the new chunk has to go on from both. Two ways lead
there, and both are denoisers around a denoiser, so that any sampler follows them:

`pulled` guides a trained head at inference time (Black et al. 2025, "Real-Time Execution of Action
Chunking Flow Policies", arXiv:2506.07339), by the pseudoinverse guidance of Song et al. 2023.
`held` shows a head that was trained for it the frozen steps without noise (Black et al. 2025,
"Training-Time Action Conditioning for Efficient Real-Time Chunking", arXiv:2512.05964).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embodied.heads.base import ActionHead, Denoiser, DenoisingHead, ErrorHead
from embodied.noise import Noise


@dataclass(frozen=True)
class Settled:
    """What is known of chunks before they are sampled.

    Attributes:
        action: (B, H, A) of the chunk before, normalised where a head gets it; what lies beyond its
            end does not matter.
        weight: (B, H) in [0, 1]: how much each step of it counts; at 1 it is frozen.
    """

    action: Tensor
    weight: Tensor

    @property
    def frozen(self) -> Tensor:
        """(B, H), which steps are executed whatever is sampled."""
        return self.weight >= 1

    def keep(self, sampled: Tensor) -> Tensor:
        """What was sampled, (B, H, A), with the frozen steps as they are."""
        return torch.where(self.frozen[..., None], self.action, sampled)


def soft_mask(frozen: int, overlap: int, horizon: int) -> NDArray[np.float32]:
    """(horizon,) weights: 1 for the steps that are executed while the policy thinks, falling
    exponentially over those that the last chunk also speaks of, 0 beyond its end
    (arXiv:2506.07339, Eq. 5, with `overlap` for H - s and `frozen` for d)."""
    steps = np.arange(horizon)
    c = np.clip((overlap - steps) / (overlap - min(frozen, overlap) + 1), 0, 1)
    weight = c * np.expm1(c) / math.expm1(1)
    weight[: min(frozen, overlap)] = 1
    return weight.astype(np.float32)


def held(denoise: Denoiser, settled: Settled, clean: float) -> Denoiser:
    """A denoiser that is shown the frozen steps as they are, at the level `clean`."""
    frozen = settled.frozen

    def hold(x: Tensor, level: Tensor) -> Tensor:
        return denoise(settled.keep(x), torch.where(frozen, clean, level))

    return hold


def pull(
    look: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, settled: Settled
) -> tuple[Tensor, Tensor]:
    """What a head says at x (B, H, A), and where x is to go for its clean action to be the settled
    one: (Y - clean)^T diag(W) d clean / dx, both (B, H, A) (arXiv:2506.07339, Eq. 2).

    Args:
        look: x to (what the head says, its clean action).
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        said, clean = look(x)
    error = settled.weight[..., None] * (settled.action - clean.detach())
    (gradient,) = torch.autograd.grad(clean, x, error)
    return said.detach(), gradient


def strength(sigma: Tensor, clip: float, prior_std: float = 1.0) -> Tensor:
    """min(clip, sigma / r^2), what the gradient of `pull` is multiplied by; r^2 is the variance of
    a clean action of spread `prior_std` that is known up to noise of sigma.

    With sigma = (1 - t) / t and a spread of 1 it is that of arXiv:2506.07339, Eq. 2 and 4:
    sigma / r^2 = (1 - t) / (t r^2), where r^2 = (1 - t)^2 / (t^2 + (1 - t)^2).
    """
    return (sigma / prior_std**2 + 1 / sigma).clamp(max=clip)


@runtime_checkable
class GuidableHead(Protocol):
    """A `DenoisingHead` whose denoiser can be pulled to what is settled."""

    def pulled(self, denoise: Denoiser, settled: Settled, *, clip: float) -> Denoiser:
        """The denoiser, guided so that the clean action comes near the settled one (Eq. 2)."""
        ...


def complete(
    head: DenoisingHead, denoise: Denoiser, settled: Settled, *, clip: float | None, noise: Noise
) -> Tensor:
    """(B, H, A) sampled to go on from what is settled; frozen steps come back as they are.

    Args:
        denoise: the head's, under the present context.
        clip: beta, the most that `pull` is multiplied by; 0 is sampling that takes no notice. None
            shows the frozen steps to a head that was trained so.
    """
    if clip is None:
        assert isinstance(head, ErrorHead), "`trained_delay` says for how many steps it was"
        followed = held(denoise, settled, head.clean_level)
    else:
        assert isinstance(head, GuidableHead)
        followed = head.pulled(denoise, settled, clip=clip)
    x = noise.normal(*settled.action.shape, device=settled.action.device)
    return settled.keep(head.integrate(followed, x, noise=noise))


def trained_delay(head: ActionHead) -> int:
    """How many frozen steps a head was trained to be shown."""
    return head.simulated_delay if isinstance(head, ErrorHead) else 0
