"""A mixture of Gaussians over action chunks."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from einops import rearrange
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from embodied.heads.base import DensityHead
from embodied.heads.codes import check_temperature, draw
from embodied.heads.gaussian import bounded_std, check_range
from embodied.heads.trunk import ActionTransformer, TrunkOptions
from embodied.noise import Noise


class MixtureHead(DensityHead):
    """A few ways to act, each a Gaussian, fitted by maximum likelihood.

    BC-GMM of Mandlekar et al. 2021 ("What Matters in Learning from Offline Human Demonstrations",
    arXiv:2108.03298), which is what it is for a horizon of 1. For chunks the ways are by default
    those of a whole chunk, p(a_1..H) = sum_k w_k prod_h N(a_h; mean_hk, std_hk), as in MultiPath
    (Chai et al. 2019, arXiv:1910.05449), so that all steps of a sample go the same way. Means are
    not squashed by a tanh as there, since the policy clamps actions.

    Args:
        num_modes: Gaussians K.
        per_step: draw a way for each step on its own, which may mix the ways within a chunk.
        min_std, max_std: range of the standard deviations.
        temperature: factor of the variances in `sample`; 1 draws as `log_prob` says. 0 gives the
            means, still each as often as it weighs: the low-noise evaluation of BC-GMM.
        trunk: num_layers, num_heads, dropout and patch of the `ActionTransformer`.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        pred_horizon: int,
        num_tokens: int,
        dim: int,
        num_modes: int = 5,
        per_step: bool = False,
        min_std: float = 1e-4,
        max_std: float = 1.0,
        temperature: float = 1.0,
        **trunk: Unpack[TrunkOptions],
    ) -> None:
        super().__init__()
        check_range(min_std, max_std)
        check_temperature(temperature)
        if num_modes < 1:
            raise ValueError(f"num_modes must be 1 or more, got {num_modes}")
        self.num_modes = num_modes
        self.per_step = per_step
        self.std_range = (min_std, max_std)
        self.temperature = temperature
        self.trunk = ActionTransformer(
            in_dim=0,
            out_dim=num_modes * (2 * action_dim + 1),
            pred_horizon=pred_horizon,
            dim=dim,
            **trunk,
        )

    def modes(self, context: Tensor) -> tuple[Tensor, Normal]:
        """Log-weights (B, H, K) that are the same in all steps unless `per_step`, and the Gaussians
        of actions (B, H, K, A)."""
        out: Tensor = self.trunk(self.trunk.remember(context)).float()
        out = rearrange(out, "b h (k a) -> b h k a", k=self.num_modes)
        logits, mean, raw_std = out[..., 0], *out[..., 1:].chunk(2, dim=-1)
        if not self.per_step:
            logits = logits.mean(1, keepdim=True).expand_as(logits)
        normal = Normal(mean, bounded_std(raw_std, *self.std_range), validate_args=False)
        return logits.log_softmax(-1), normal

    def log_prob(self, context: Tensor, action: Tensor) -> Tensor:
        log_weights, gaussians = self.modes(context)
        log_probs: Tensor = gaussians.log_prob(action[:, :, None])  # type: ignore[no-untyped-call]
        log_probs = log_probs.sum(-1)
        if not self.per_step:  # weigh the modes by how well they explain the steps before
            before = F.pad(log_probs.cumsum(1)[:, :-1], (0, 0, 1, 0))
            log_weights = torch.log_softmax(log_weights + before, -1)
        return torch.logsumexp(log_weights + log_probs, -1)

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        return -self.log_prob(context, action)

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        log_weights, gaussians = self.modes(context)
        rows, steps, _, action_dim = gaussians.mean.shape
        u = noise.uniform(rows, steps if self.per_step else 1, device=context.device)
        mode = draw(log_weights, u.expand(rows, steps))
        index = mode[:, :, None, None].expand(rows, steps, 1, action_dim)
        mean, std = (x.gather(2, index)[:, :, 0] for x in (gaussians.mean, gaussians.stddev))
        normal = noise.normal(rows, steps, action_dim, device=context.device)
        return mean + math.sqrt(self.temperature) * std * normal
