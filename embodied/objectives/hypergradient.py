"""How a reward should change when the policy, and thus the data, follow it (PARL).

The upper level minimises G(nu, theta*(nu)) over rewards nu; the lower level's policy theta*
maximises V(nu, theta). Since pairs to compare are drawn by the policy, the gradient has two parts:
that of the labels' loss, and that of where the policy goes (Chakraborty et al. 2023, "PARL: A
Unified Framework for Policy Alignment in Reinforcement Learning", arXiv:2308.02585; equations from
memory, and checked numerically in tests/test_hypergradient.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Level = Callable[[Tensor, Tensor], Tensor]
"""(outer, inner) -> a scalar, differentiable in both."""


def implicit_hypergradient(
    upper: Level,
    lower: Level,
    outer: Tensor,
    inner: Tensor,
    *,
    damping: float = 1e-6,
    iterations: int = 100,
) -> tuple[Tensor, Tensor]:
    """d upper / d outer, as (its direct part, its part through `inner`), each of outer's shape.

    By the implicit function theorem the second part is -d2V/(d outer d inner) [d2V/d inner2]^-1
    dG/d inner. The inverse is applied by conjugate gradients, so that only products with the
    Hessian are formed. Directions that change nothing, of which softmax policies have some, are
    left out, as by the pseudo-inverse.

    Args:
        upper: what the outer level minimises.
        lower: what `inner` maximises; its Hessian must not be indefinite there.
        outer, inner: leaves or not; the gradient is taken at their values.
        damping: added to the negative Hessian's eigenvalues; more is steadier and more biased.
        iterations: at most, of conjugate gradients.
    """
    outer, inner = (x.detach().requires_grad_() for x in (outer, inner))
    direct, pull = torch.autograd.grad(upper(outer, inner), (outer, inner), materialize_grads=True)
    (slope,) = torch.autograd.grad(lower(outer, inner), inner, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        (curved,) = torch.autograd.grad(slope, inner, vector, retain_graph=True)
        return damping * vector - curved

    response = conjugate_gradient(product, pull, iterations=iterations)
    (through,) = torch.autograd.grad(slope, outer, response, materialize_grads=True)
    return direct, through


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    target: Tensor,
    *,
    iterations: int,
    tolerance: float = 1e-10,
) -> Tensor:
    """x with product(x) = target, for a symmetric positive product (Hestenes & Stiefel 1952).

    Args:
        tolerance: of the residual, over the target's norm.
    """
    x = torch.zeros_like(target)
    residual = target.clone()
    direction, energy = residual, residual.square().sum()
    goal = tolerance**2 * energy
    for _ in range(iterations):
        if energy <= goal:
            break
        image = product(direction)
        step = energy / (direction * image).sum()
        x = x + step * direction
        residual = residual - step * image
        before, energy = energy, residual.square().sum()
        direction = residual + (energy / before) * direction
    return x


def one_step_term(
    loss: Tensor, reward: Tensor, expected_reward: Tensor, *, temperature: float | Tensor
) -> Tensor:
    """A scalar whose gradient stands in for the part through the policy.

    mean_b stopgrad(loss_b) sum over both segments of (r(s, a) - E_a'~pi r(s, a')) / temperature:
    a soft-optimal policy follows its advantage, of which this is the immediate reward's share. The
    default of PARL here, as cheap as the loss (from the published code of SoBiRL). Loss should be
    the *excess* over the label's entropy; the raw one lures the policy to pairs that are easy to
    label.

    Args:
        loss: (B,) of the labels.
        reward: (B, 2, T) of what was done.
        expected_reward: (B, 2, T), the mean over actions that the policy would take there.
        temperature: of the policy's entropy.
    """
    gain = (reward - expected_reward).sum((-2, -1)) / temperature
    return (loss.detach() * gain).mean()


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """0-d, of the angle between two gradients of one shape; 0 where one of them vanishes."""
    scale = (first.norm() * second.norm()).clamp(min=torch.finfo(first.dtype).tiny)
    product: Tensor = (first * second).sum() / scale
    return product
