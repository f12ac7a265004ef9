"""The EDM head: preconditioning, noise distribution, loss and what it can learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.heads.edm import EDMHead
from embodied.heads.samplers import SAMPLERS
from embodied.noise import BatchNoise
from embodied.testing import check_head
from tests.lessons import teach

CPU = torch.device("cpu")


def make_head(seed: int = 0, **kwargs: Any) -> EDMHead:
    torch.manual_seed(seed)
    sizes = {"action_dim": 2, "pred_horizon": 3, "num_tokens": 2, "dim": 16, "num_layers": 1}
    return EDMHead(**{**sizes, **kwargs})


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def silent(x: Tensor, sigma: Tensor, memories: object) -> Tensor:
    return torch.zeros_like(x)


def test_scalings_by_hand() -> None:
    # sigma = 0.5 = sigma_data: c_skip = 1/2, c_out = 0.25 / sqrt(0.5), c_in = 1 / sqrt(0.5).
    c_skip, c_out, c_in = make_head().scalings(torch.tensor([0.5]))
    found = torch.cat([c_skip, c_out, c_in])
    torch.testing.assert_close(found, torch.tensor([0.5, 0.35355, 1.41421]), atol=1e-5, rtol=0)


def test_inputs_and_targets_of_the_network_have_unit_variance() -> None:
    head, sigma = make_head(), torch.tensor([0.01, 0.3, 4.0])
    c_skip, c_out, c_in = head.scalings(sigma)
    data = head.sigma_data**2
    # Karras et al. 2022, Eqs. 114 and 117: Var[c_in x] = 1, Var[(a - c_skip x) / c_out] = 1.
    torch.testing.assert_close(c_in**2 * (data + sigma**2), torch.ones(3))
    target = ((1 - c_skip) ** 2 * data + c_skip**2 * sigma**2) / c_out**2
    torch.testing.assert_close(target, torch.ones(3), rtol=1e-4, atol=0)


def test_without_noise_the_denoiser_returns_its_input() -> None:
    head, x = make_head(), torch.rand(4, 3, 2)
    out = head.denoise(x, torch.full((4,), 1e-6), head.trunk.remember(torch.randn(4, 2, 16)))
    torch.testing.assert_close(out, x, atol=1e-5, rtol=0)


def test_under_endless_noise_the_denoiser_ignores_its_input() -> None:
    head, x = make_head(), torch.rand(4, 3, 2)
    c_skip, c_out, c_in = head.scalings(torch.tensor(1e4))
    assert c_skip < 1e-8
    assert c_in * x.abs().max() < 1e-3
    assert c_out == pytest.approx(head.sigma_data)


def test_a_network_that_says_nothing_shrinks_towards_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head, x = make_head(), torch.rand(4, 3, 2)
    monkeypatch.setattr(head, "network", silent)
    # The posterior mean of a ~ N(0, 0.25) under sigma = 0.5 is half of what is seen.
    out = head.denoise(x, torch.full((4,), 0.5), ())
    torch.testing.assert_close(out, x / 2)


def test_the_loss_is_the_denoisers_error_over_c_out_squared() -> None:
    head = make_head().requires_grad_(False)
    context, action = torch.randn(6, 2, 16), torch.rand(6, 3, 2) * 2 - 1
    draws = noise(5)
    sigma = head.levels(draws.uniform(6, device=CPU))
    noisy = action + sigma[:, None, None] * draws.normal(6, 3, 2, device=CPU)
    _, c_out, _ = head.scalings(sigma)
    error = (head.denoise(noisy, sigma, head.trunk.remember(context)) - action).square().mean(-1)
    loss = head.loss(context, action, noise=noise(5))
    torch.testing.assert_close(loss, error / c_out[:, None] ** 2, rtol=1e-3, atol=1e-4)


def test_the_loss_of_a_silent_network_is_the_variance_of_its_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = make_head()
    monkeypatch.setattr(head, "network", silent)
    action = head.sigma_data * torch.randn(50_000, 3, 2)
    loss = head.loss(torch.zeros(50_000, 2, 16), action, noise=noise())
    assert loss.mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("std", "expected"), [(0.25, 0.70), (0.5, 1.0), (1.0, 2.2)])
def test_the_first_loss_is_one_if_actions_vary_as_sigma_data_says(
    std: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In BESO's range of noise; so actions are to be scaled to a deviation of about 0.5."""
    head = make_head(sigma_min=0.005, sigma_max=1.0)
    monkeypatch.setattr(head, "network", silent)
    action = std * torch.randn(50_000, 3, 2)
    loss = head.loss(torch.zeros(50_000, 2, 16), action, noise=noise())
    assert loss.mean().item() == pytest.approx(expected, rel=0.02)


def test_the_network_sees_unit_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    head, seen = make_head(sigma_max=5.0), list[Tensor]()

    def note(x: Tensor, sigma: Tensor, memories: object) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    monkeypatch.setattr(head, "network", note)
    action = head.sigma_data * torch.randn(50_000, 3, 2)
    head.loss(torch.zeros(50_000, 2, 16), action, noise=noise())
    assert seen[0].var().item() == pytest.approx(1.0, abs=0.02)


def test_the_chosen_density_is_trained() -> None:
    # Sigma uniform in [1, 3] is 2 in the middle; the levels of three linear steps are 3, 2, 1.
    uniform = make_head(sigma_min=1.0, sigma_max=3.0, noise_density="uniform")
    assert uniform.levels(torch.tensor([0.5])).tolist() == [2.0]
    levels = make_head(
        sigma_min=1.0, sigma_max=3.0, schedule="linear", num_steps=3, noise_density="discrete"
    )
    assert levels.levels(torch.tensor([0.1, 0.5, 0.9, 1.0])).tolist() == [3, 2, 1, 1]


def test_sampling_begins_at_the_schedules_first_level(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head(schedule="iddpm", sigma_max=80.0, num_steps=1)  # whose levels are its own
    monkeypatch.setattr(head, "network", silent)
    x = head.sigmas[0] * noise(4).normal(5, 3, 2, device=CPU)
    c_skip = head.scalings(head.sigmas[:1])[0]
    assert 60 < head.sigmas[0] < 80
    torch.testing.assert_close(head.sample(torch.zeros(5, 2, 16), noise=noise(4)), c_skip * x)


ACTION = torch.tensor([[0.5, -0.5], [0.0, 1.0], [-1.0, 0.25]])


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """Weights of a head that has seen ACTION only."""
    head = make_head()
    teach(head, torch.zeros(32, 2, 16), ACTION.expand(32, 3, 2), steps=400, learning_rate=3e-3)
    return head.state_dict()


# Heun divides the denoiser's error by the next noise level, so it needs levels close together.
@pytest.mark.parametrize(
    ("sampler", "num_steps"), [("ddim", 1), ("ddim", 3), ("euler_ancestral", 3), ("heun", 10)]
)
def test_a_head_trained_on_one_action_returns_it(
    sampler: str, num_steps: int, trained: dict[str, Tensor]
) -> None:
    head = make_head(sampler=sampler, num_steps=num_steps)
    head.load_state_dict(trained)
    found = head.sample(torch.zeros(16, 2, 16), noise=noise(9)).detach()
    assert float((found - ACTION).abs().mean()) < 0.1  # untrained: about 0.5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_head_keeps_the_contract(sampler: str) -> None:
    head = make_head(sampler=sampler, num_steps=3)
    check_head(head, torch.randn(5, 2, 16), torch.rand(5, 3, 2) * 2 - 1)


def test_patches_of_actions_keep_the_contract() -> None:
    head = make_head(pred_horizon=6, patch=3)
    check_head(head, torch.randn(5, 2, 16), torch.rand(5, 6, 2) * 2 - 1)
    with pytest.raises(ValueError, match="pred_horizon must be a multiple of patch, got 3 and 2"):
        make_head(patch=2)


def test_the_schedule_is_no_part_of_the_state_dict() -> None:
    few, many = make_head(num_steps=2), make_head(seed=1, num_steps=9)
    many.load_state_dict(few.state_dict())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sampler": "dpm"}, "sampler must be one of .*'heun'.*, got 'dpm'"),
        ({"schedule": "sine"}, "schedule must be one of .*'cosine'.*, got 'sine'"),
        ({"noise_density": "v"}, "noise_density must be one of .*'uniform'.*, got 'v'"),
        ({"sigma_min": 0.0}, "need 0 < sigma_min < sigma_max, got 0.0 and 1.0"),
        ({"sigma_min": 2.0}, "need 0 < sigma_min < sigma_max, got 2.0 and 1.0"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_heads": 3}, "dim must be a multiple of num_heads, got 16 and 3"),
    ],
)
def test_a_wrong_setting_is_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_head(**kwargs)
