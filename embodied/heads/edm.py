"""Score-diffusion action head with EDM preconditioning, as in BESO.

Reuss et al. 2023, "Goal-Conditioned Imitation Learning using Score-based Diffusion Policies",
arXiv:2304.02532; Karras et al. 2022, arXiv:2206.00364. Departures, for action chunks: the actions
see each other and the whole context, which does not see them (BESO's decoder is causal over a
window of steps), one token may hold several successive actions, and the noise level is added to the
action tokens instead of being one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from embodied.heads.base import ActionHead
from embodied.heads.samplers import SAMPLERS, SCHEDULES
from embodied.heads.trunk import ActionTransformer, TrunkOptions
from embodied.networks.transformer import Memory
from embodied.noise import Noise


def _choice(name: str, value: str, choices: dict[str, object]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {sorted(choices)}, got {value!r}")


class EDMHead(ActionHead):
    """Denoises an action chunk with a transformer over noisy actions, after the context.

    It is a `WarmHead`.

    Args:
        sigma_data: standard deviation of normalised actions.
        sigma_min, sigma_max: noise range of training and sampling.
        sampler, schedule, num_steps: how `sample` integrates; see `heads.samplers`.
        trunk: num_layers, num_heads, dropout and patch of the `ActionTransformer`.
    """

    samplers = tuple(SAMPLERS)

    def __init__(
        self,
        *,
        action_dim: int,
        pred_horizon: int,
        num_tokens: int,
        dim: int,
        sigma_data: float = 0.5,
        sigma_min: float = 0.005,
        sigma_max: float = 1.0,
        sampler: str = "ddim",
        schedule: str = "exponential",
        num_steps: int = 3,
        **trunk: Unpack[TrunkOptions],
    ) -> None:
        super().__init__()
        _choice("sampler", sampler, dict(SAMPLERS))
        _choice("schedule", schedule, dict(SCHEDULES))
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        self.shape = (pred_horizon, action_dim)
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, sigma_min, sigma_max
        self.sampler = SAMPLERS[sampler]
        self.schedule = SCHEDULES[schedule]
        self.sigmas = self.schedule(num_steps, sigma_min, sigma_max)
        self.embed_sigma = nn.Linear(1, dim)
        self.trunk = ActionTransformer(
            in_dim=action_dim, out_dim=action_dim, pred_horizon=pred_horizon, dim=dim, **trunk
        )

    def network(self, x: Tensor, sigma: Tensor, memories: Sequence[Memory]) -> Tensor:
        """F(x; sigma, context): x (B, H, A), sigma (B,) -> (B, H, A).

        Args:
            memories: the trunk's, of the context.
        """
        out: Tensor = self.trunk(memories, x, self.embed_sigma(sigma.log()[:, None] / 4))
        return out

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in (Karras et al. 2022, Table 1; BESO, Eq. 6)."""
        total = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        c_out = sigma * self.sigma_data / total.sqrt()
        return c_skip, c_out, total.rsqrt()

    def denoise(self, x: Tensor, sigma: Tensor, memories: Sequence[Memory]) -> Tensor:
        """D(x; sigma) = c_skip x + c_out F(c_in x; sigma): the expected clean action."""
        c_skip, c_out, c_in = (c[:, None, None] for c in self.scalings(sigma))
        return c_skip * x + c_out * self.network(c_in * x, sigma, memories).float()

    def training_sigma(self, u: Tensor) -> Tensor:
        """Uniform u in [0, 1] -> log-logistic noise truncated to [sigma_min, sigma_max].

        Location ln(sigma_data), scale 0.5, by the inverse of the distribution function.
        """
        location, scale = math.log(self.sigma_data), 0.5
        low, high = (
            1 / (1 + math.exp(-(math.log(s) - location) / scale))
            for s in (self.sigma_min, self.sigma_max)
        )
        return torch.exp(location + scale * torch.logit(low + (high - low) * u))

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        """||F - (a - c_skip x) / c_out||^2, unweighted, which is EDM's weighting of D's error."""
        sigma = self.training_sigma(noise.uniform(len(action), device=action.device))
        c_skip, c_out, c_in = (c[:, None, None] for c in self.scalings(sigma))
        x = action + sigma[:, None, None] * noise.normal(*action.shape, device=action.device)
        target = (action - c_skip * x) / c_out
        error = self.network(c_in * x, sigma, self.trunk.remember(context)).float() - target
        return error.square().mean(-1)

    @property
    def noise_range(self) -> tuple[float, float]:
        return self.sigma_min, self.sigma_max

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        x = self.sigma_max * noise.normal(len(context), *self.shape, device=context.device)
        return self._integrate(context, x, self.sigmas, noise)

    def resample(
        self, context: Tensor, previous: Tensor, *, sigma: float, num_steps: int, noise: Noise
    ) -> Tensor:
        x = previous + sigma * noise.normal(*previous.shape, device=context.device)
        sigmas = self.schedule(num_steps, self.sigma_min, sigma)
        return self._integrate(context, x, sigmas, noise)

    def _integrate(self, context: Tensor, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
        rows, memories = len(context), self.trunk.remember(context)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return self.denoise(x, sigma.expand(rows), memories)

        return self.sampler(denoise, x, sigmas.to(context.device), noise)
