"""The ACT head: the divergence, what the loss adds up to, and what the latent is for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from embodied.heads.act import ACTHead, divergence
from embodied.noise import BatchNoise
from embodied.testing import check_head
from tests.lessons import teach

CPU = torch.device("cpu")


def make_head(seed: int = 0, **kwargs: Any) -> ACTHead:
    torch.manual_seed(seed)
    sizes = {"action_dim": 2, "pred_horizon": 4, "num_tokens": 2, "dim": 16, "num_layers": 1}
    return ACTHead(**{**sizes, "num_heads": 2, **kwargs})


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def test_the_divergence_by_hand() -> None:
    # One z of N(1, 4): (1 + 4 - 1 - ln 4) / 2 = 2 - ln 2; another as the prior's: 0.
    found = divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 1.0]]).log())
    assert found.item() == pytest.approx(2 - 0.693147)


def test_the_divergence_is_that_of_gaussians_summed_over_the_latent() -> None:
    mean, log_var = torch.randn(7, 5), torch.randn(7, 5)
    expected = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(divergence(mean, log_var), expected)


@pytest.mark.parametrize("patch", [1, 2])
def test_the_mean_loss_is_the_mean_error_plus_the_weighted_mean_divergence(patch: int) -> None:
    head = make_head(kl_weight=3.0, patch=patch).requires_grad_(False)
    context, action = torch.randn(6, 2, 16), torch.rand(6, 4, 2) * 2 - 1
    mean, log_var = head.style(context, action)
    z = mean + (log_var / 2).exp() * noise(5).normal(6, 32, device=CPU)
    error = (head.decode(context, z) - action).abs().mean()
    loss = head.loss(context, action, noise=noise(5))
    torch.testing.assert_close(loss.mean(), error + 3 * divergence(mean, log_var).mean())


def test_without_weight_the_divergence_does_not_count() -> None:
    context, action = torch.randn(6, 2, 16), torch.rand(6, 4, 2)
    costs = [
        make_head(kl_weight=w).loss(context, action, noise=noise()).detach() for w in (0.0, 1.0)
    ]
    difference = costs[1] - costs[0]
    assert float(difference.min()) > 0
    torch.testing.assert_close(difference, difference[:, :1].expand(-1, 4))  # a row's, everywhere


def test_sampling_takes_the_middle_of_the_prior_or_draws_from_it() -> None:
    context = torch.randn(5, 2, 16)
    middle, drawn = make_head(), make_head(sample_prior=True)
    found = [middle.sample(context, noise=noise(seed)) for seed in (0, 1)]
    assert torch.equal(*found)
    assert torch.equal(found[0], middle.decode(context, torch.zeros(5, 32)))
    z = noise(3).normal(5, 32, device=CPU)
    assert torch.equal(drawn.sample(context, noise=noise(3)), drawn.decode(context, z))
    assert not torch.equal(found[0], drawn.sample(context, noise=noise(3)))


def two_modes(rows: int) -> Tensor:
    sign = torch.randint(0, 2, (rows, 1, 1), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    return 0.6 * sign.expand(-1, 4, 2)


def test_a_latent_that_costs_little_tells_two_modes_apart() -> None:
    head, action = make_head(latent_dim=1, kl_weight=0.01), two_modes(64)
    context = torch.zeros(64, 2, 16)
    teach(head, context, action, steps=120, learning_rate=1e-2)
    ends = head.decode(torch.zeros(2, 2, 16), torch.tensor([[-1.5], [1.5]])).mean((1, 2))
    assert sorted(ends.tolist()) == pytest.approx([-0.6, 0.6], abs=0.15)
    mean, _ = head.style(context, action)
    side = mean[:, 0] > 0
    assert bool((side == (action[:, 0, 0] > 0)).all()) or bool(
        (side == (action[:, 0, 0] < 0)).all()
    )


@pytest.mark.parametrize("sample_prior", [False, True])
def test_the_head_keeps_the_contract(sample_prior: bool) -> None:
    head = make_head(sample_prior=sample_prior, patch=2)
    check_head(head, torch.randn(5, 2, 16), torch.rand(5, 4, 2) * 2 - 1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"latent_dim": 0}, "need latent_dim >= 1 and kl_weight >= 0, got 0 and 10.0"),
        ({"kl_weight": -1.0}, "need latent_dim >= 1 and kl_weight >= 0, got 32 and -1.0"),
        ({"patch": 3}, "pred_horizon must be a multiple of patch, got 4 and 3"),
    ],
)
def test_a_wrong_setting_is_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_head(**kwargs)
