"""Flow matching: a velocity field carries noise to actions, nearly straight.

Liu et al. 2022 (rectified flow), arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747. Time runs
from noise at 0 to the action at 1, as in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from embodied.heads.base import Denoiser, ErrorHead, check_simulated_delay, of_rows, over_actions
from embodied.heads.evidence import decoder_cost, prior_gap
from embodied.heads.inpainting import Settled, pull, strength
from embodied.heads.trunk import ActionTransformer, TrunkOptions
from embodied.networks.timestep import TimeEmbedding
from embodied.networks.transformer import Memory
from embodied.noise import Noise

METHODS = ("euler", "midpoint")
DENSITIES = ("uniform", "beta")
_CLEANEST = 0.995
"""The time up to which, and one less it from which, the evidence counts."""


class FlowHead(ErrorHead):
    """Predicts the velocity of an action chunk with a transformer, after the context.

    It is a `GuidableHead`.

    Args:
        num_steps: of sampling, of equal length.
        method: "euler", or "midpoint", which asks the network twice for each step.
        time_density: of the times in training: "uniform", or "beta", which prefers noisy ones
            (Black et al. 2024, "pi0", arXiv:2410.24164, appendix on the time sampling).
        simulated_delay: see `ErrorHead`.
        trunk: num_layers, num_heads, dropout and patch of the `ActionTransformer`.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        pred_horizon: int,
        num_tokens: int,
        dim: int,
        num_steps: int = 4,
        method: str = "euler",
        time_density: str = "uniform",
        simulated_delay: int = 0,
        **trunk: Unpack[TrunkOptions],
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        if time_density not in DENSITIES:
            raise ValueError(
                f"time_density must be one of {', '.join(DENSITIES)}, got {time_density!r}"
            )
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        check_simulated_delay(simulated_delay, pred_horizon)
        self.shape = (pred_horizon, action_dim)
        self.simulated_delay, self.clean_level = simulated_delay, 1.0
        self.num_steps, self.method, self.time_density = num_steps, method, time_density
        self.embed_time = TimeEmbedding(dim)
        self.trunk = ActionTransformer(
            in_dim=action_dim, out_dim=action_dim, pred_horizon=pred_horizon, dim=dim, **trunk
        )

    def velocity(self, x: Tensor, t: Tensor, memories: Sequence[Memory]) -> Tensor:
        """v(x, t, context): x (B, H, A) at times t (B,) or (B, H) in [0, 1] -> (B, H, A).

        Args:
            memories: the trunk's, of the context.
        """
        out: Tensor = self.trunk(memories, x, self.embed_time(t))
        return out.float()

    def levels(self, u: Tensor) -> Tensor:
        """Times: u itself, or t = s (1 - b) with b ~ Beta(1.5, 1), whose inverse is u^(2/3)."""
        if self.time_density == "uniform":
            return u
        return 0.999 * (1 - u ** (1 / 1.5))

    def errors(self, context: Tensor, action: Tensor, *, levels: Tensor, noise: Tensor) -> Tensor:
        """||v(x_t, t) - (a - n)||^2 at x_t = t a + (1 - t) n (Liu et al. 2022, Eq. 1)."""
        t = over_actions(levels)
        x = t * action + (1 - t) * noise
        found = self.velocity(x, levels, self.trunk.remember(context))
        return (found - (action - noise)).square().mean(-1)

    def evidence(self, context: Tensor, action: Tensor, *, u: Tensor, noise: Tensor) -> Tensor:
        """Times are uniform in the log signal-to-noise ratio, 2 ln(t / (1 - t))."""
        reach = math.log(_CLEANEST / (1 - _CLEANEST))
        t = torch.sigmoid((2 * u - 1) * reach)
        errors = self.errors(context, action, levels=t, noise=noise)
        # The noise that a velocity implies is x - t v, so that its error is t times v's.
        weight = 2 * reach * action.shape[-1] * t.square()
        ends = decoder_cost(action, 2 * reach)
        ends = ends + prior_gap(action, alpha=1 - _CLEANEST, sigma=_CLEANEST)
        return -weight[:, None] * errors - ends

    def denoiser(self, context: Tensor) -> Denoiser:
        """The velocity under a context (B, L, D), of x (B, H, A) at a 0-d time."""
        memories = self.trunk.remember(context)
        return lambda x, t: self.velocity(x, of_rows(t, x), memories)

    def pulled(self, denoise: Denoiser, settled: Settled, *, clip: float) -> Denoiser:
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            found, gradient = pull(lambda x: (v := denoise(x, t), x + (1 - t) * v), x, settled)
            return found + strength((1 - t) / t, clip) * gradient

        return velocity

    def integrate(self, denoise: Denoiser, x: Tensor, *, noise: Noise) -> Tensor:
        """From noise x to an action; none is added on the way."""
        step = 1 / self.num_steps
        for i in range(self.num_steps):
            t = x.new_full((), i * step)
            slope = denoise(x, t)
            if self.method == "midpoint":
                slope = denoise(x + step / 2 * slope, t + step / 2)
            x = x + step * slope
        return x
