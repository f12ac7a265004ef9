"""Ensembles of perceptrons: each member is what a network of its own would be."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from embodied.networks.ensemble import EnsembleLayerNorm, EnsembleLinear, EnsembleMLP

ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh}
E, B, IN, OUT = 3, 5, 4, 2
HIDDEN = (7, 6)


def alone(built: EnsembleMLP, member: int, activation: str, layer_norm: bool) -> nn.Sequential:
    """The network of one member, from torch's own layers."""
    layers: list[nn.Module] = []
    widths = [IN, *HIDDEN]
    for before, width in pairwise(widths):
        layers.append(nn.Linear(before, width))
        if layer_norm:
            layers.append(nn.LayerNorm(width))
        layers.append(ACTIVATIONS[activation]())
    network = nn.Sequential(*layers, nn.Linear(widths[-1], OUT))
    with torch.no_grad():
        for ours, theirs in zip(built.layers, network, strict=True):
            if isinstance(ours, EnsembleLinear):
                theirs.weight.copy_(ours.weight[member].T)
                theirs.bias.copy_(ours.bias[member, 0])
            elif isinstance(ours, EnsembleLayerNorm):
                theirs.weight.copy_(ours.weight[member, 0])
                theirs.bias.copy_(ours.bias[member, 0])
    return network


def build(**options: Any) -> EnsembleMLP:
    built = EnsembleMLP(E, IN, HIDDEN, OUT, **options)
    with torch.no_grad():  # so that scales and shifts are seen, too
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_each_member_is_the_network_that_its_weights_make(
    activation: str, layer_norm: bool
) -> None:
    torch.manual_seed(0)
    built = build(activation=activation, layer_norm=layer_norm)
    shared, own = torch.randn(B, IN), torch.randn(E, B, IN)
    assert built(shared).shape == (E, B, OUT)
    for member in range(E):
        network = alone(built, member, activation, layer_norm)
        assert torch.allclose(built(shared)[member], network(shared), atol=1e-6)
        assert torch.allclose(built(own)[member], network(own[member]), atol=1e-6)


def test_a_step_of_a_member_is_that_of_its_network_alone() -> None:
    torch.manual_seed(0)
    built = build(activation="tanh", layer_norm=True)
    networks = [alone(built, member, "tanh", True) for member in range(E)]
    x, y = torch.randn(B, IN), torch.randn(B, OUT)

    def step(module: nn.Module, loss: Tensor) -> None:
        loss.backward()
        torch.optim.Adam(module.parameters(), 1e-2).step()

    step(built, (built(x) - y).square().mean((1, 2)).sum())
    for member, network in enumerate(networks):
        step(network, (network(x) - y).square().mean())
        assert torch.allclose(built(x)[member], network(x), atol=1e-5)


def test_members_begin_apart_and_distributed_as_torchs_linear() -> None:
    torch.manual_seed(0)
    ours = EnsembleLinear(200, 9, 8)
    theirs = [nn.Linear(9, 8) for _ in range(200)]
    for mine, others in (
        (ours.weight, torch.stack([layer.weight for layer in theirs])),
        (ours.bias, torch.stack([layer.bias for layer in theirs])),
    ):
        assert ks_2samp(mine.detach().flatten(), others.detach().flatten()).pvalue > 1e-3
        assert float(mine.detach().abs().max()) <= 1 / 3  # 1 / sqrt(9)
    # Independent: the correlation of two members' weights is that of chance.
    weights = ours.weight.detach().flatten(1)
    correlation = torch.corrcoef(weights)[~torch.eye(200, dtype=torch.bool)]
    assert abs(float(correlation.mean())) < 0.01
    assert float(correlation.std()) == pytest.approx(1 / math.sqrt(71), rel=0.05)


def test_orthogonal_weights_are_orthogonal_in_each_member_and_biases_zero() -> None:
    torch.manual_seed(0)
    built = EnsembleMLP(E, 6, [6], 6, orthogonal=True)
    for layer in built.layers:
        if isinstance(layer, EnsembleLinear):
            assert not layer.bias.any()
            for weight in layer.weight:
                assert torch.allclose(weight @ weight.T, 2 * torch.eye(6), atol=1e-5)
    first = built.layers[0]
    assert isinstance(first, EnsembleLinear)
    assert not torch.allclose(first.weight[0], first.weight[1])


def test_members_and_rows_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    built = build(layer_norm=True)
    x = torch.randn(E, B, IN, requires_grad=True)
    built(x)[1, 2].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum(-1) > 0
    assert seen.nonzero().tolist() == [[1, 2]]
    fixed = x.detach()
    assert torch.allclose(built(fixed)[:, 1:2], built(fixed[:, 1:2]), atol=1e-6)


def test_without_hidden_layers_a_member_is_an_affine_map() -> None:
    built = EnsembleMLP(E, IN, (), OUT)
    (layer,) = built.layers
    assert isinstance(layer, EnsembleLinear)
    x = torch.randn(B, IN)
    assert torch.allclose(built(x)[1], x @ layer.weight[1] + layer.bias[1], atol=1e-6)


def test_wrong_sizes_and_activations_are_named() -> None:
    with pytest.raises(ValueError, match="got 0 and"):
        EnsembleMLP(0, IN, HIDDEN, OUT)
    with pytest.raises(ValueError, match=r"leaky_relu.*got 'gelu'"):
        EnsembleMLP(E, IN, HIDDEN, OUT, activation="gelu")


@pytest.mark.parametrize("members", [2, 6])
@pytest.mark.parametrize("unlike", [False, True])
def test_the_least_member_and_its_gradient_are_found_however_many_there_are(
    members: int, unlike: bool
) -> None:
    """Where one member is least in all rows nothing is saved, and the answer is the same."""
    torch.manual_seed(0)
    built = EnsembleMLP(members, IN, HIDDEN, 1)
    if unlike:
        with torch.no_grad():
            list(built.parameters())[-1][1] -= 100  # of the last biases
    built.requires_grad_(False)
    x = torch.randn(40, IN, requires_grad=True)
    expected = built(x)[..., 0].amin(0)
    (wanted,) = torch.autograd.grad(expected.sin().sum(), x)
    found = built.least(x)
    (gradient,) = torch.autograd.grad(found.sin().sum(), x)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(gradient, wanted, atol=1e-6)
    assert bool(wanted.any())


def test_members_are_not_asked_again_for_rows_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    built = EnsembleMLP(6, IN, HIDDEN, 1).requires_grad_(False)
    for parameter in built.parameters():  # nearly alike, so that each is least somewhere
        parameter.copy_(parameter[:1] + 0.01 * torch.randn_like(parameter))
    sizes: list[tuple[bool, int]] = []
    forward = EnsembleMLP.forward

    def counted(self: EnsembleMLP, x: Tensor) -> Tensor:
        sizes.append((torch.is_grad_enabled(), x.shape[-2]))
        return forward(self, x)

    monkeypatch.setattr(EnsembleMLP, "forward", counted)
    built.least(torch.randn(200, IN, requires_grad=True))
    (first, rows), (second, fewer) = sizes
    assert (first, rows, second) == (False, 200, True)
    assert fewer <= 100


def test_autocast_rounds_nothing_that_goes_in_or_comes_out() -> None:
    x = torch.randn(B, IN, generator=torch.Generator().manual_seed(0))
    shallow, deep = EnsembleMLP(E, IN, (7,), OUT), EnsembleMLP(E, IN, (64, 64), OUT)
    expected = shallow(x), deep(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = shallow(x), deep(x)
    assert torch.equal(found[0], expected[0])  # nothing lies between its first layer and its last
    assert found[1].dtype == torch.float32
    assert not torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[1], expected[1], rtol=0.02, atol=0.01)
