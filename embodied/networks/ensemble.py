"""Perceptrons that are alike but learn apart, all evaluated in one batched product per layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
}


class EnsembleLinear(nn.Module):
    """E affine maps, (E, B, in_dim) -> (E, B, out_dim).

    Each member begins as an `nn.Linear` of its own would.

    Args:
        gain: of orthogonal weights, with biases 0; None is `nn.Linear`'s uniform distribution.
    """

    def __init__(
        self, num_members: int, in_dim: int, out_dim: int, *, gain: float | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_members, in_dim, out_dim))
        self.bias = nn.Parameter(torch.zeros(num_members, 1, out_dim))
        if gain is None:
            bound = 1 / math.sqrt(in_dim)
            nn.init.uniform_(self.weight, -bound, bound)
            nn.init.uniform_(self.bias, -bound, bound)
        else:
            for weight in self.weight:  # a stack of orthogonal matrices, not one of them
                nn.init.orthogonal_(weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class EnsembleLayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016, arXiv:1607.06450), scales and shifts of each member."""

    def __init__(self, num_members: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_members, 1, dim))
        self.bias = nn.Parameter(torch.zeros(num_members, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


class EnsembleMLP(nn.Module):
    """E multilayer perceptrons of equal shape with parameters of their own.

    Parameters are stacked, (E, in, out), so that one optimiser step and one product per layer serve
    all members; rows do not see each other, nor do members.

    Args:
        num_members: E.
        hidden: widths of the hidden layers; without any, each member is an affine map.
        activation: "relu", "leaky_relu" or "tanh", after each hidden layer.
        layer_norm: normalises before each activation, as RLPD's critics do (Ball et al. 2023,
            arXiv:2302.02948).
        orthogonal: orthogonal weights with gain sqrt(2), also of the last layer, and biases 0, as
            in the published code of IQL (arXiv:2110.06169); otherwise as `nn.Linear` begins.
    """

    def __init__(
        self,
        num_members: int,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        *,
        activation: str = "relu",
        layer_norm: bool = False,
        orthogonal: bool = False,
    ) -> None:
        super().__init__()
        _check(num_members, [in_dim, *hidden, out_dim], activation)
        self.num_members = num_members
        gain = math.sqrt(2) if orthogonal else None
        layers: list[nn.Module] = []
        for before, width in pairwise([in_dim, *hidden]):
            layers.append(EnsembleLinear(num_members, before, width, gain=gain))
            if layer_norm:
                layers.append(EnsembleLayerNorm(num_members, width))
            layers.append(ACTIVATIONS[activation]())
        last = [in_dim, *hidden][-1]
        layers.append(EnsembleLinear(num_members, last, out_dim, gain=gain))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim), the same for all, or (E, B, in_dim), for each its own -> (E, B, out_dim)."""
        if x.ndim == 2:
            x = x.expand(self.num_members, *x.shape)
        outputs: Tensor = self.layers(x)
        return outputs


def _check(num_members: int, widths: Sequence[int], activation: str) -> None:
    if num_members < 1 or min(widths) < 1:
        raise ValueError(
            f"num_members and all widths must be at least 1, got {num_members} and {list(widths)}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")
