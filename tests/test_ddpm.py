"""The DDPM head: its steps against diffusers' own loop, its targets, and what it can learn."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from embodied.heads.ddpm import PREDICTIONS, DDPMHead
from embodied.networks.unet1d import UNet1d
from embodied.noise import BatchNoise
from embodied.testing import check_head
from tests.lessons import teach_two

CPU = torch.device("cpu")
UNET = functools.partial(UNet1d, widths=(1, 2))


def make_head(seed: int = 0, **kwargs: Any) -> DDPMHead:
    torch.manual_seed(seed)
    sizes = {"action_dim": 2, "pred_horizon": 3, "num_tokens": 2, "dim": 16, "num_layers": 1}
    return DDPMHead(**{**sizes, **kwargs})


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("num_steps", [5, 100])
def test_with_eta_one_the_samples_are_those_of_diffusers_ddpm(
    prediction_type: str, num_steps: int
) -> None:
    head = make_head(prediction_type=prediction_type, num_steps=num_steps, eta=1.0)
    head.requires_grad_(False)
    context = torch.randn(5, 2, 16)
    memory = head.trunk.remember(context)
    reference = DDPMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction_type,  # type: ignore[arg-type]
    )
    reference.set_timesteps(num_steps)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(5, 3, 2, generator=generator)
    for t in reference.timesteps:
        found = head.network(x, t.expand(5), memory)
        x = reference.step(found, int(t), x, generator=generator).prev_sample
    torch.testing.assert_close(head.sample(context, noise=noise(4)), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_steps", [1, 7, 10])
def test_with_eta_zero_the_samples_are_those_of_diffusers_ddim(num_steps: int) -> None:
    head = make_head(num_steps=num_steps, eta=0.0).requires_grad_(False)
    context = torch.randn(5, 2, 16)
    memory = head.trunk.remember(context)
    reference = DDIMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
    reference.set_timesteps(num_steps)
    x = noise(4).normal(5, 3, 2, device=CPU)
    for t in reference.timesteps:
        found = head.network(x, t.expand(5), memory)
        x = reference.step(found, int(t), x, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(head.sample(context, noise=noise(4)), x)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_what_is_learned_is_what_the_scheduler_expects(
    prediction_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the target for an answer the error is 0, and one step finds the clean action."""
    head = make_head(prediction_type=prediction_type)
    action, drawn = torch.rand(6, 3, 2) * 2 - 1, torch.randn(6, 3, 2)
    t = torch.full((6,), 60)
    x = head.scheduler.add_noise(action, drawn, t)
    target = {
        "epsilon": drawn,
        "sample": action,
        "v_prediction": head.scheduler.get_velocity(action, drawn, t),
    }[prediction_type]
    seen: list[Tensor] = []

    def oracle(x: Tensor, t: Tensor, memory: object) -> Tensor:
        seen.append(x)
        return target

    monkeypatch.setattr(head, "network", oracle)
    errors = head.errors(torch.zeros(6, 2, 16), action, levels=t, noise=drawn)
    torch.testing.assert_close(seen[0], x)
    torch.testing.assert_close(errors, torch.zeros(6, 3))
    clean = head.scheduler.step(target, 60, x).pred_original_sample
    torch.testing.assert_close(clean, action, atol=1e-5, rtol=0)


def test_the_error_of_a_network_that_says_nothing_is_the_noises_variance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = make_head()
    monkeypatch.setattr(head, "network", lambda x, t, memory: torch.zeros_like(x))
    loss = head.loss(torch.zeros(20_000, 2, 16), torch.zeros(20_000, 3, 2), noise=noise())
    assert loss.mean().item() == pytest.approx(1.0, abs=0.02)


def test_all_steps_are_drawn_alike() -> None:
    head = make_head(num_train_steps=4, num_steps=4)
    found = head.levels(torch.tensor([0.0, 0.24, 0.25, 0.6, 0.75, 1.0]))
    assert found.tolist() == [0, 0, 1, 2, 3, 3]


MEAN, STD = 0.3, 0.2


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize(("eta", "tolerance"), [(0.0, 0.05), (1.0, 0.1)])
def test_the_exact_answer_for_a_gaussian_samples_that_gaussian(
    prediction_type: str, eta: float, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly: DDPM's steps are as narrow as for data that are a single point."""
    head = make_head(prediction_type=prediction_type, eta=eta, clip_sample=False)

    def exact(x: Tensor, t: Tensor, memory: object) -> Tensor:
        """From E[a | x] = m + alpha s^2 / (alpha^2 s^2 + sigma^2) (x - alpha m)."""
        bar = head.alpha_bar[t][:, None, None].double()
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
        clean = MEAN + alpha * STD**2 / (bar * STD**2 + 1 - bar) * (x - alpha * MEAN)
        epsilon = (x - alpha * clean) / sigma
        answers = {
            "epsilon": epsilon,
            "sample": clean,
            "v_prediction": alpha * epsilon - sigma * clean,
        }
        return answers[prediction_type].float()

    monkeypatch.setattr(head, "network", exact)
    found = head.sample(torch.zeros(4000, 2, 16), noise=noise())
    assert found.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert found.std().item() == pytest.approx(STD, rel=tolerance)


def test_a_trained_head_keeps_both_modes() -> None:
    head = make_head(pred_horizon=2, action_dim=1, num_steps=10, eta=0.0)
    teach_two(head, 2, steps=150)
    found = head.requires_grad_(False).sample(torch.zeros(400, 2, 16), noise=noise(9))
    near = ((found.abs() - 0.6).abs().amax((1, 2)) < 0.25) & (found[:, 0] * found[:, 1] > 0)[:, 0]
    assert float(near.float().mean()) > 0.65
    assert 0.3 < float((found[:, 0] > 0).float().mean()) < 0.7


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_the_head_keeps_the_contract(eta: float, spacing: str) -> None:
    head = make_head(num_steps=4, eta=eta, timestep_spacing=spacing)
    check_head(head, torch.randn(5, 2, 16), torch.rand(5, 3, 2) * 2 - 1)


def test_a_u_net_keeps_the_contract() -> None:
    head = make_head(num_steps=4, eta=1.0, network=UNET, pred_horizon=6, patch=2, num_heads=2)
    check_head(head, torch.randn(5, 2, 16), torch.rand(5, 6, 2) * 2 - 1)


def test_the_schedule_is_no_part_of_the_state_dict() -> None:
    many = make_head(num_steps=50, num_train_steps=50)
    many.load_state_dict(make_head(seed=1, num_steps=2).state_dict())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"prediction_type": "score"}, "prediction_type must be one of epsilon, .*got 'score'"),
        ({"timestep_spacing": "linspace"}, "must be 'leading' or 'trailing', got 'linspace'"),
        ({"num_steps": 101}, r"num_steps must lie in \[1, 100\], got 101"),
        ({"num_steps": 0}, r"num_steps must lie in \[1, 100\], got 0"),
        ({"num_steps": 3, "timestep_spacing": "trailing"}, "must divide .*got 3 and 100"),
    ],
)
def test_a_wrong_setting_is_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_head(**kwargs)
