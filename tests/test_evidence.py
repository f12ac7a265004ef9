"""Errors as evidence: on Gaussian actions the bound and the log-ratio are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from embodied.heads.base import ErrorHead
from embodied.heads.ddpm import PREDICTIONS, DDPMHead
from embodied.heads.edm import EDMHead
from embodied.heads.flow import FlowHead
from embodied.noise import BatchNoise
from embodied.objectives.evidence import error_log_ratio

SIZES: dict[str, Any] = {
    "action_dim": 2,
    "pred_horizon": 3,
    "num_tokens": 2,
    "dim": 16,
    "num_layers": 1,
}
STD = 0.4
NAMES = ("edm", "flow", *PREDICTIONS)


def posterior_mean(x: Tensor, alpha: Tensor, sigma: Tensor, mean: float) -> Tensor:
    """E[a | alpha a + sigma n = x] for a ~ N(mean, STD^2)."""
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return mean + gain * (x - alpha * mean)


def gaussian_head(name: str, mean: float) -> ErrorHead:
    """A head that knows that actions are N(mean, STD^2), each number by itself."""
    if name == "edm":
        edm = EDMHead(**SIZES, sigma_max=5.0)

        def network(scaled: Tensor, sigma: Tensor, memories: object) -> Tensor:
            c_skip, c_out, c_in = (c[:, None, None] for c in edm.scalings(sigma))
            x = scaled / c_in
            clean = posterior_mean(x, torch.ones(()), sigma[:, None, None], mean)
            return (clean - c_skip * x) / c_out

        edm.network = network  # type: ignore[method-assign, assignment]
        return edm
    if name == "flow":
        flow = FlowHead(**SIZES)

        def velocity(x: Tensor, t: Tensor, memories: object) -> Tensor:
            t = t[:, None, None]
            return (posterior_mean(x, t, 1 - t, mean) - x) / (1 - t)

        flow.velocity = velocity  # type: ignore[method-assign, assignment]
        return flow
    ddpm = DDPMHead(**SIZES, prediction_type=name)

    def prediction(x: Tensor, t: Tensor, memory: object) -> Tensor:
        alpha, sigma = ddpm._scales(t)
        clean = posterior_mean(x, alpha, sigma, mean)
        epsilon = (x - alpha * clean) / sigma
        found = {
            "epsilon": epsilon,
            "sample": clean,
            "v_prediction": alpha * epsilon - sigma * clean,
        }
        return found[name]

    ddpm.network = prediction  # type: ignore[method-assign, assignment]
    return ddpm


def log_prob(action: Tensor, mean: float) -> Tensor:
    """log N(action; mean, STD^2), of whole chunks."""
    z = (action - mean) / STD
    return (-0.5 * z.square() - math.log(STD) - 0.5 * math.log(2 * math.pi)).sum((-2, -1))


def bound(head: ErrorHead, action: Tensor, draws: int = 40_000) -> Tensor:
    """The mean evidence of one chunk (H, A), with levels spread evenly."""
    u = (torch.arange(draws) + 0.5) / draws
    noise = torch.randn(draws, 3, 2, generator=torch.Generator().manual_seed(0))
    rows = action.expand(draws, 3, 2)
    with torch.no_grad():
        evidence = head.evidence(torch.zeros(draws, 2, 16), rows, u=u, noise=noise)
    return evidence.double().sum(-1).mean()


ACTION = torch.tensor([[0.3, -0.2], [0.7, 0.1], [0.0, 0.5]])


@pytest.mark.parametrize("name", NAMES)
def test_with_the_exact_denoiser_the_bound_is_nearly_the_likelihood(name: str) -> None:
    found, exact = bound(gaussian_head(name, 0.2), ACTION), log_prob(ACTION, 0.2)
    assert found < exact + 0.1  # the draws' own error
    # A hundred steps of DDPM are a model of their own, with coarse steps next to the data.
    slack = 0.1 if name in ("edm", "flow") else 5.0
    assert found > exact - slack


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_denoiser_has_less_evidence(name: str) -> None:
    """On actions of N(0, STD^2) the truth has more than a head that believes in another mean."""
    action = STD * torch.randn(20_000, 3, 2, generator=torch.Generator().manual_seed(1))
    u = (torch.arange(20_000) + 0.5) / 20_000
    noise = torch.randn(20_000, 3, 2, generator=torch.Generator().manual_seed(2))
    right, wrong = (
        gaussian_head(name, mean).evidence(torch.zeros(20_000, 2, 16), action, u=u, noise=noise)
        for mean in (0.0, 0.5)
    )
    # The difference is KL(N(0, s^2) || N(0.5, s^2)) = 0.5^2 / (2 s^2) for each of 2 numbers.
    gap = (right - wrong).mean(0)
    torch.testing.assert_close(gap, torch.full((3,), 0.25 / STD**2), rtol=0.2, atol=0)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_ddpms_evidence_is_made_of_the_divergences_of_its_samplers_steps(name: str) -> None:
    """KL(q(x_s | x_t, a) || p(x_s | x_t)): both means by diffusers, both variances the same."""
    head = gaussian_head(name, 0.2)
    assert isinstance(head, DDPMHead)
    scheduler = DDPMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=False
    )
    rows, nothing = ACTION.expand(50, 3, 2), torch.zeros(50, 2, 16)
    noise = torch.randn(50, 3, 2, generator=torch.Generator().manual_seed(0))
    ends = torch.zeros(50, 3)
    for t in (1, 2, 30, 80):
        alpha, sigma = head._scales(torch.full((50,), t))
        x = alpha * rows + sigma * noise
        clean = posterior_mean(x, alpha, sigma, 0.2)
        guess = (x - alpha * clean) / sigma
        seeds = [torch.Generator().manual_seed(1) for _ in range(2)]  # cancel in the difference
        true, found = (
            scheduler.step(epsilon, t, x, generator=seed).prev_sample
            for epsilon, seed in zip((noise, guess), seeds, strict=True)
        )
        divergence = ((true - found).square() / (2 * scheduler._get_variance(t))).sum(-1)
        evidence = head.evidence(nothing, rows, u=torch.full((50,), (t + 0.5) / 100), noise=noise)
        if t == 1:
            ends = evidence + 100 * divergence  # what does not depend on t
        torch.testing.assert_close(evidence, ends - 100 * divergence, rtol=0.01, atol=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_at_the_same_draws_the_ratio_has_the_sign_and_size_of_the_true_one(name: str) -> None:
    policy, reference = gaussian_head(name, 0.3), gaussian_head(name, 0.0)
    for action in (ACTION, -ACTION):
        found = bound(policy, action, 4000) - bound(reference, action, 4000)
        expected = log_prob(action, 0.3) - log_prob(action, 0.0)
        assert found.item() == pytest.approx(expected.item(), rel=0.15, abs=0.1)


@pytest.mark.parametrize("name", ["edm", "flow", "epsilon"])
def test_the_log_ratio_of_training_errors_prefers_what_the_policy_does(name: str) -> None:
    policy, reference = gaussian_head(name, 0.3), gaussian_head(name, 0.0)
    rows = 4000
    context, draws = torch.zeros(rows, 2, 16), BatchNoise(torch.Generator().manual_seed(0))
    levels = policy.levels(draws.uniform(rows, device=context.device))
    noise = draws.normal(rows, 3, 2, device=context.device)

    def ratio(action: float) -> float:
        rows_of = torch.full((rows, 3, 2), action)
        first, second = (
            head.errors(context, rows_of, levels=levels, noise=noise)
            for head in (policy, reference)
        )
        return error_log_ratio(first, second).mean().item()

    assert ratio(0.3) > 0 > ratio(0.0)
    assert ratio(0.15) == pytest.approx(0.0, abs=0.05 * ratio(0.3))
    assert ratio(0.6) > ratio(0.3)


def test_the_log_ratio_by_hand() -> None:
    errors, reference = (
        torch.tensor([[1.0, 2.0], [3.0, 1.0]]),
        torch.tensor([[2.0, 1.0], [1.0, 1.0]]),
    )
    torch.testing.assert_close(error_log_ratio(errors, reference), torch.tensor([0.0, -1.0]))
    weight, mask = torch.tensor([[1.0], [3.0]]), torch.tensor([[True, False], [True, True]])
    found = error_log_ratio(errors, reference, weight=weight, mask=mask)
    torch.testing.assert_close(found, torch.tensor([1.0, -6.0]))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_error_at_drawn_levels(name: str) -> None:
    head = gaussian_head(name, 0.3)
    context, action = torch.zeros(4, 2, 16), torch.rand(4, 3, 2)
    draws = BatchNoise(torch.Generator().manual_seed(3))
    levels = head.levels(draws.uniform(4, device=action.device))
    drawn = draws.normal(4, 3, 2, device=action.device)
    expected = head.errors(context, action, levels=levels, noise=drawn)
    found = head.loss(context, action, noise=BatchNoise(torch.Generator().manual_seed(3)))
    torch.testing.assert_close(found, expected)
