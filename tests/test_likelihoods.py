"""Regression, Gaussian, mixture and bins, against values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.heads.base import ActionHead
from embodied.heads.bins import BinsHead
from embodied.heads.deterministic import DeterministicHead
from embodied.heads.gaussian import GaussianHead, bounded_std
from embodied.heads.mixture import MixtureHead
from embodied.noise import BatchNoise
from embodied.testing import check_head

CONTEXT = torch.zeros(1, 2, 16)
LOG_NORMAL = 0.5 * math.log(2 * math.pi)


def make(kind: Callable[..., ActionHead], **kwargs: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"action_dim": 2, "pred_horizon": 3, "num_tokens": 2, "dim": 16, "num_layers": 1}
    return kind(**{**sizes, **kwargs}).requires_grad_(False)


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def say(head: Any, *numbers: float) -> None:
    """Makes the trunk put out these numbers at each step, whatever the context."""
    torch.nn.init.zeros_(head.trunk.out.weight)
    head.trunk.out.bias.copy_(torch.tensor(numbers))


def raw(std: float, low: float, high: float) -> float:
    """What `bounded_std` turns into this deviation."""
    middle, half = math.log(low * high) / 2, math.log(high / low) / 2
    return math.atanh((math.log(std) - middle) / half)


def normal(x: float, mean: float, std: float) -> float:
    return math.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


@pytest.mark.parametrize(("error", "expected"), [("l1", 0.5), ("l2", 0.34)])
def test_regression_errors_by_hand(error: str, expected: float) -> None:
    head = make(DeterministicHead, error=error)
    say(head, 0.5, -0.5)
    action = torch.tensor([0.3, 0.3]).expand(1, 3, 2)  # off by 0.2 and 0.8
    loss = head.loss(CONTEXT, action, noise=noise())
    torch.testing.assert_close(loss, torch.full((1, 3), expected))
    assert torch.equal(head.sample(CONTEXT, noise=noise())[0, 1], torch.tensor([0.5, -0.5]))


def test_deviations_stay_in_their_range() -> None:
    found = bounded_std(torch.tensor([-50.0, 0.0, 50.0]), 0.01, 1.0)
    torch.testing.assert_close(found, torch.tensor([0.01, 0.1, 1.0]))


@pytest.mark.parametrize("state_dependent_std", [False, True])
def test_a_gaussians_log_probability_by_hand(state_dependent_std: bool) -> None:
    head = make(GaussianHead, state_dependent_std=state_dependent_std)
    say(head, 0.5, -0.5, *[0.0, 0.0][: 2 * state_dependent_std])  # deviations of 0.1
    found = head.log_prob(CONTEXT, torch.tensor([0.6, -0.3]).expand(1, 3, 2))
    # One and two deviations away: -1/2 - 2 - 2 ln 0.1 - ln 2 pi.
    expected = -2.5 - 2 * math.log(0.1) - 2 * LOG_NORMAL
    torch.testing.assert_close(found, torch.full((1, 3), expected))


def test_a_shared_deviation_belongs_to_its_step_and_number() -> None:
    head = make(GaussianHead, state_dependent_std=False)
    head.shared_std.copy_(torch.linspace(-2, 2, 6).view(3, 2))
    found = head.distribution(torch.randn(4, 2, 16)).stddev
    torch.testing.assert_close(found, bounded_std(head.shared_std, 0.01, 1.0).expand(4, 3, 2))


def test_a_squashed_gaussian_integrates_to_one_and_stays_inside() -> None:
    sizes = {"action_dim": 1, "pred_horizon": 1}
    head = make(GaussianHead, tanh_squash=True, **sizes)
    say(head, 0.4, raw(0.8, 0.01, 1.0))
    grid = torch.linspace(-1, 1, 20_002)[1:-1, None, None]
    density = head.log_prob(CONTEXT.expand(len(grid), -1, -1), grid).double().exp()
    assert float(density.sum()) * 1e-4 == pytest.approx(1, abs=1e-3)
    # At a = 0: N(0; 0.4, 0.8), since tanh has slope 1 there.
    middle = head.log_prob(CONTEXT, torch.zeros(1, 1, 1)).exp()
    assert float(middle) == pytest.approx(normal(0, 0.4, 0.8), rel=1e-5)
    found = head.sample(CONTEXT.expand(10_000, -1, -1), noise=noise())
    assert float(found.abs().max()) <= 1
    mean = (density * grid[:, 0].double()).sum() * 1e-4
    assert float(found.mean()) == pytest.approx(float(mean), abs=0.02)


def test_a_squashed_gaussian_takes_actions_at_the_edge() -> None:
    head = make(GaussianHead, tanh_squash=True)
    found = head.log_prob(CONTEXT, torch.tensor([1.0, -1.0]).expand(1, 3, 2))
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("tanh_squash", [False, True])
def test_without_temperature_a_gaussian_gives_its_mean(tanh_squash: bool) -> None:
    head = make(GaussianHead, temperature=0.0, tanh_squash=tanh_squash)
    say(head, 0.5, -0.5, 0.0, 0.0)
    found = head.sample(CONTEXT, noise=noise())[0, 0]
    mean = torch.tensor([0.5, -0.5])
    torch.testing.assert_close(found, mean.tanh() if tanh_squash else mean)


def test_temperature_is_a_factor_of_the_variance() -> None:
    head = make(GaussianHead, temperature=0.25)
    say(head, 0.0, 0.0, 0.0, 0.0)
    found = head.sample(CONTEXT.expand(10_000, -1, -1), noise=noise())
    assert float(found.std()) == pytest.approx(0.05, rel=0.03)


WEIGHTS, MEANS, STD = (0.25, 0.75), (-0.5, 0.5), 0.2


def two_ways(**kwargs: Any) -> MixtureHead:
    """0.25 N(-0.5, 0.2^2) + 0.75 N(0.5, 0.2^2) of each step's only number."""
    head: MixtureHead = make(MixtureHead, action_dim=1, num_modes=2, **kwargs)
    width = raw(STD, *head.std_range)
    say(head, *(x for w, m in zip(WEIGHTS, MEANS, strict=True) for x in (math.log(w), m, width)))
    return head


def test_a_mixture_of_steps_by_hand() -> None:
    action = [0.4, -0.6, 0.1]
    found = two_ways(per_step=True).log_prob(CONTEXT, torch.tensor(action)[None, :, None])
    likely = [
        sum(w * normal(a, m, STD) for w, m in zip(WEIGHTS, MEANS, strict=True)) for a in action
    ]
    torch.testing.assert_close(found[0], torch.tensor(likely).log())


def test_a_mixture_of_chunks_by_hand() -> None:
    # p(a_1..h) = sum_k w_k prod_j N(a_j; m_k, s), and a step's share is what it adds to the log.
    action, together = [0.4, 0.3, -0.2], []
    for h in (1, 2, 3):
        likely = [
            w * math.prod(normal(a, m, STD) for a in action[:h])
            for w, m in zip(WEIGHTS, MEANS, strict=True)
        ]
        together.append(math.log(sum(likely)))
    found = two_ways().log_prob(CONTEXT, torch.tensor(action)[None, :, None])
    torch.testing.assert_close(found[0].cumsum(0), torch.tensor(together))


def signs(head: MixtureHead) -> Tensor:
    found = head.sample(CONTEXT.expand(4000, -1, -1), noise=noise())
    return found[..., 0] > 0


def test_modes_are_drawn_as_often_as_they_weigh() -> None:
    for head in (two_ways(), two_ways(per_step=True), two_ways(temperature=0.0)):
        assert float(signs(head).float().mean()) == pytest.approx(0.75, abs=0.03)


def test_a_mixture_of_chunks_goes_one_way_and_one_of_steps_goes_both() -> None:
    chunks = signs(two_ways(temperature=0.0))
    assert bool((chunks == chunks[:, :1]).all())
    steps = signs(two_ways(temperature=0.0, per_step=True))
    # All three alike in 0.75^3 + 0.25^3 = 0.44 of the rows.
    assert float((steps == steps[:, :1]).all(1).float().mean()) == pytest.approx(0.44, abs=0.04)


def test_low_noise_evaluation_gives_the_means() -> None:
    found = two_ways(temperature=0.0).sample(CONTEXT.expand(100, -1, -1), noise=noise())
    torch.testing.assert_close(found.abs(), torch.full((100, 3, 1), 0.5))


def test_a_far_off_first_step_leaves_later_ones_finite() -> None:
    head = two_ways(min_std=1e-4)
    action = torch.tensor([900.0, 0.5, 0.5])[None, :, None]
    found = head.log_prob(CONTEXT, action)
    assert bool(found.isfinite().all())
    assert float(found[0, 1]) == pytest.approx(math.log(normal(0.5, 0.5, STD)), abs=1e-4)


def test_bins_by_hand() -> None:
    head = make(BinsHead, num_bins=4)  # [-1, -1/2), [-1/2, 0), [0, 1/2), [1/2, 1]
    action = torch.tensor([-1.0, -0.51, -0.5, -0.01, 0.0, 0.49, 0.5, 1.0, -3.0, 3.0])
    assert head.encode(action).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 3]
    assert head.decode(torch.arange(4)).tolist() == [-0.75, -0.25, 0.25, 0.75]


@pytest.mark.parametrize("num_bins", [2, 7, 256])
def test_centres_lie_in_their_bins(num_bins: int) -> None:
    head = make(BinsHead, num_bins=num_bins)
    codes = torch.arange(num_bins)
    assert torch.equal(head.encode(head.decode(codes)), codes)


def test_the_log_probability_of_a_code_by_hand() -> None:
    head = make(BinsHead, num_bins=2)
    say(head, math.log(0.2), math.log(0.8), math.log(0.6), math.log(0.4))
    found = head.log_prob(CONTEXT, torch.tensor([0.3, -0.3]).expand(1, 3, 2))
    torch.testing.assert_close(found, torch.full((1, 3), math.log(0.8 * 0.6)))


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.8), (0.5, 0.64 / 0.68), (0.0, 1.0)])
def test_bins_are_drawn_by_their_probability(temperature: float, share: float) -> None:
    head = make(BinsHead, num_bins=2, temperature=temperature)
    say(head, math.log(0.2), math.log(0.8), math.log(0.2), math.log(0.8))
    found = head.sample(CONTEXT.expand(2000, -1, -1), noise=noise())
    assert set(found.unique().tolist()) <= {-0.5, 0.5}
    assert float((found > 0).float().mean()) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        (DeterministicHead, {"error": "l1"}),
        (GaussianHead, {"tanh_squash": True, "state_dependent_std": False}),
        (MixtureHead, {"per_step": True}),
        (BinsHead, {"num_bins": 3}),
    ],
)
def test_other_settings_keep_the_contract(
    kind: Callable[..., ActionHead], kwargs: dict[str, Any]
) -> None:
    head = make(kind, **kwargs).requires_grad_()
    check_head(head, torch.randn(5, 2, 16), torch.rand(5, 3, 2) * 2 - 1)


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        (DeterministicHead, {"error": "l3"}, r"error must be one of \['l1', 'l2'\], got 'l3'"),
        (GaussianHead, {"min_std": 0.0}, "need 0 < min_std < max_std, got 0.0 and 1.0"),
        (GaussianHead, {"temperature": -1.0}, "temperature must be 0 or more, got -1.0"),
        (MixtureHead, {"num_modes": 0}, "num_modes must be 1 or more, got 0"),
        (MixtureHead, {"max_std": 1e-5}, "need 0 < min_std < max_std, got 0.0001 and 1e-05"),
        (BinsHead, {"num_bins": 1}, "num_bins must be 2 or more, got 1"),
    ],
)
def test_a_wrong_setting_is_named(
    kind: Callable[..., ActionHead], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(kind, **kwargs)
