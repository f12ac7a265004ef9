"""Consistency distillation: a trained score diffusion head in one step.

Song et al. 2023, "Consistency Models", arXiv:2303.01469, Algorithm 2. Departure: the target's
weights are the student's own without their gradient, not an average of them (Song and Dhariwal
2023, arXiv:2310.14189, Section 3.2). And errors are weighted as EDM's are, so that what the teacher
knew of little noise is not forgotten, where the paper weights all levels alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor

from embodied.heads.base import StudentHead
from embodied.heads.edm import EDMHead
from embodied.heads.schedules import karras
from embodied.heads.trunk import TrunkOptions
from embodied.networks.transformer import Memory
from embodied.noise import Noise


class DistilledHead(StudentHead):
    """Says at once where a teacher's probability-flow ODE would carry a noisy action chunk.

    Start from a run with `head=edm` and the same sizes and noise range: `init_from=RUN`. The rest
    of the policy is then left as it is, since the teacher knows only its own contexts.

    Args:
        sigma_data, sigma_min, sigma_max: as of the teacher.
        num_levels: of noise, in training, N; neighbours are one of the teacher's steps apart.
        num_steps: of sampling; further ones add noise and take it away again.
        trunk: num_layers, num_heads, dropout and patch, as of the teacher.
    """

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
        num_levels: int = 18,
        num_steps: int = 1,
        **trunk: Unpack[TrunkOptions],
    ) -> None:
        super().__init__()
        if num_levels < 2:
            raise ValueError(f"num_levels must be at least 2, got {num_levels}")
        if not 1 <= num_steps < num_levels:
            raise ValueError(f"num_steps must lie in [1, {num_levels - 1}], got {num_steps}")

        def make() -> EDMHead:
            return EDMHead(
                action_dim=action_dim,
                pred_horizon=pred_horizon,
                num_tokens=num_tokens,
                dim=dim,
                sigma_data=sigma_data,
                sigma_min=sigma_min,
                sigma_max=sigma_max,
                **trunk,
            )

        self.shape = (pred_horizon, action_dim)
        self.num_steps = num_steps
        self.student, self.teacher = make(), make()
        self.student.load_state_dict(self.teacher.state_dict())
        self.teacher.requires_grad_(False)
        sigmas = karras(num_levels, sigma_min, sigma_max)[:-1]
        self.register_buffer("sigmas", sigmas, persistent=False)  # falling, t_N .. t_1 in the paper

    sigmas: Tensor

    def inherit(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """An `EDMHead`'s weights, for teacher and student; a `DistilledHead`'s stay as they are."""
        if tensors.keys() == self.state_dict().keys():
            return dict(tensors)
        both = ("student", "teacher")
        return {f"{part}.{name}": x for part in both for name, x in tensors.items()}

    def consistent(self, x: Tensor, sigma: Tensor, memories: Sequence[Memory]) -> Tensor:
        """f(x, sigma), the clean action at the end of the ODE through x (B, H, A), sigma (B,).

        f(x, sigma_min) = x holds by construction (Song et al. 2023, Eq. 5 and Appendix C).

        Args:
            memories: the student's trunk's, of the context.
        """
        student = self.student
        data, above = student.sigma_data, sigma - student.sigma_min
        c_skip = (data**2 / (above**2 + data**2))[:, None, None]
        c_out = (data * above * (sigma**2 + data**2).rsqrt())[:, None, None]
        c_in = student.scalings(sigma)[2][:, None, None]
        return c_skip * x + c_out * student.network(c_in * x, sigma, memories).float()

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        """||(f(x, t_{n+1}) - f(x', t_n)) / c_out||^2, the teacher stepping from x to x' (Eq. 7)."""
        pairs = len(self.sigmas) - 1
        u = noise.uniform(len(action), device=action.device)
        n = (u * pairs).long().clamp(max=pairs - 1)
        sigma, next_sigma = self.sigmas[n], self.sigmas[n + 1]
        x = action + sigma[:, None, None] * noise.normal(*action.shape, device=action.device)
        memories = self.student.trunk.remember(context)
        with torch.no_grad():
            next_x = self.teach(x, sigma, next_sigma, context)
            target = self.consistent(next_x, next_sigma, memories)
        c_out = self.student.scalings(sigma)[1][:, None, None]
        return ((self.consistent(x, sigma, memories) - target) / c_out).square().mean(-1)

    def teach(self, x: Tensor, sigma: Tensor, next_sigma: Tensor, context: Tensor) -> Tensor:
        """One step of Heun's method with the teacher, from levels (B,) to levels (B,)."""
        memories = self.teacher.trunk.remember(context)

        def slope(x: Tensor, sigma: Tensor) -> Tensor:
            return (x - self.teacher.denoise(x, sigma, memories)) / sigma[:, None, None]

        step = (next_sigma - sigma)[:, None, None]
        first = slope(x, sigma)
        return x + step * (first + slope(x + step * first, next_sigma)) / 2

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        """Algorithm 1, at levels evenly spaced among those of training."""
        rows, device = len(context), context.device
        memories = self.student.trunk.remember(context)
        floor = self.student.sigma_min
        x = torch.zeros(rows, *self.shape, device=device)
        for i in range(self.num_steps):
            sigma = self.sigmas[i * (len(self.sigmas) - 1) // self.num_steps]
            scale = (sigma**2 - floor**2).sqrt() if i else sigma
            x = x + scale * noise.normal(*x.shape, device=device)
            x = self.consistent(x, sigma.expand(rows), memories)
        return x
