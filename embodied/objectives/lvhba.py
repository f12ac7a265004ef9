"""Constrained bilevel optimisation without Hessians (LV-HBA).

    min_x,y F(x, y)  where y minimises f(x, .) under g(x, .) <= 0

Yao et al. 2024, "Constrained Bi-Level Optimization: Proximal Lagrangian Value Function Approach and
Hessian-free Algorithm", arXiv:2401.16164. One loop of first-order steps. For small outer problems,
such as the weights of a reward under a limit of cost, rather than whole policies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor, Tensor], Tensor]
"""(x, y) -> a scalar, or (m,) for constraints."""
Projection = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x, y) -> the nearest pair that satisfies the constraints."""


@dataclass(frozen=True)
class Iterate:
    """Where the method is.

    Attributes:
        x, y: of the two levels.
        theta: the lower level's own solution.
        multiplier, anchor: (m,) of the constraints, and what holds it near.
        count: steps done.
    """

    x: Tensor
    y: Tensor
    theta: Tensor
    multiplier: Tensor
    anchor: Tensor
    count: int = 0


class LVHBA:
    """The iteration; `start`, then `step` as often as wanted.

    The error follows 1 / c_k, c_k = penalty (k + 1)^power. Constraints should be scaled to slopes
    of about 1 (`normalised`): which rates converge depends on these, and the published example
    has slopes that grow with its size.

    Args:
        upper, lower: F and f, differentiable.
        constraint: g, (m,).
        project: onto {g <= 0}, or {g = 0}.
        equality: whether g = 0 is asked for.
        rate: alpha, of x and y.
        inner_rate: eta, of theta and the multiplier.
        anchor_rate: beta.
        proximity: gamma_1 and gamma_2, the squared radii within which theta is sought near y and
            the multiplier near its anchor.
        penalty, power: c > 0 and p in [0, 1/2), of how the lower level gains weight.
        bound: u, of the multiplier.
    """

    def __init__(
        self,
        upper: Function,
        lower: Function,
        constraint: Function,
        project: Projection,
        *,
        equality: bool = False,
        rate: float = 0.05,
        inner_rate: float = 0.1,
        anchor_rate: float = 0.1,
        proximity: tuple[float, float] = (10.0, 10.0),
        penalty: float = 1.0,
        power: float = 0.3,
        bound: float = 100.0,
    ) -> None:
        if not (penalty > 0 and 0 <= power < 0.5):
            raise ValueError(
                f"penalty must be above 0 and power in [0, 0.5), got {penalty} and {power}"
            )
        self.upper, self.lower, self.constraint = upper, lower, constraint
        self.project, self.low = project, -bound if equality else 0.0
        self.rate, self.inner_rate, self.anchor_rate = rate, inner_rate, anchor_rate
        self.proximity, self.penalty, self.power = proximity, penalty, power
        self.bound = bound

    def start(self, x: Tensor, y: Tensor) -> Iterate:
        """From any point; without a multiplier."""
        zeros = torch.zeros_like(self.constraint(x, y))
        return Iterate(*self.project(x, y), y, zeros, zeros)

    def step(self, at: Iterate) -> Iterate:
        theta = at.theta - self.inner_rate * self._lagrangian_slope(at)
        near, held = self.proximity
        residual = self.constraint(at.x, theta)
        climb = residual - (at.multiplier - at.anchor) / held
        multiplier = (at.multiplier + self.inner_rate * climb).clamp(self.low, self.bound)
        weight = self.penalty * (at.count + 1) ** self.power
        wanted = _slopes(lambda x, y: self.upper(x, y) / weight + self.lower(x, y), at.x, at.y)
        (reached,) = _slopes(
            lambda x: self.lower(x, theta) + multiplier @ self.constraint(x, theta), at.x
        )
        x = at.x - self.rate * (wanted[0] - reached)
        y = at.y - self.rate * (wanted[1] - (at.y - theta) / near)
        x, y = self.project(x, y)
        anchor = (at.anchor + self.anchor_rate * (multiplier - at.anchor) / held).clamp(
            self.low, self.bound
        )
        return Iterate(x, y, theta, multiplier, anchor, at.count + 1)

    def _lagrangian_slope(self, at: Iterate) -> Tensor:
        """Of f + multiplier g + ||theta - y||^2 / (2 gamma_1) by theta."""
        (slope,) = _slopes(
            lambda theta: self.lower(at.x, theta) + at.multiplier @ self.constraint(at.x, theta),
            at.theta,
        )
        return slope + (at.theta - at.y) / self.proximity[0]


def _slopes(function: Callable[..., Tensor], *at: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in at]
    return torch.autograd.grad(function(*leaves), leaves, materialize_grads=True)


def normalised(constraint: Function, x: Tensor, y: Tensor) -> Function:
    """The constraints, each over the norm of its gradient at (x, y); the same set.

    Raises ValueError for one that has no slope there.
    """
    rows = torch.eye(len(constraint(x, y)), dtype=x.dtype, device=x.device)
    norms = []
    for i, row in enumerate(rows):
        slopes = _slopes(lambda a, b, row=row: row @ constraint(a, b), x, y)
        norms.append(torch.stack([slope.square().sum() for slope in slopes]).sum().sqrt())
        if not norms[i] > 0:
            raise ValueError(f"constraint {i} has no slope at the given point; give another point")
    scale = torch.stack(norms)
    return lambda a, b: constraint(a, b) / scale


def affine_projection(a_x: Tensor, a_y: Tensor, b: float, *, equality: bool) -> Projection:
    """Onto {a_x . x + a_y . y <= b}, or = b."""
    squared = a_x.square().sum() + a_y.square().sum()

    def project(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        over = (a_x * x).sum() + (a_y * y).sum() - b
        shift = (over if equality else over.clamp(min=0)) / squared
        return x - shift * a_x, y - shift * a_y

    return project
