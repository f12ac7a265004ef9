"""The flow head: straight paths, exact velocities, and what it can learn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.heads.flow import FlowHead
from embodied.noise import BatchNoise
from embodied.testing import check_head
from tests.lessons import teach_two

CPU = torch.device("cpu")
MEAN, STD = 0.3, 0.5  # of the Gaussian actions below


def make_head(seed: int = 0, **kwargs: Any) -> FlowHead:
    torch.manual_seed(seed)
    sizes = {"action_dim": 2, "pred_horizon": 3, "num_tokens": 2, "dim": 16, "num_layers": 1}
    return FlowHead(**{**sizes, **kwargs})


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def gaussian_velocity(x: Tensor, t: Tensor, memories: object) -> Tensor:
    """E[a - n | t a + (1 - t) n = x] for a ~ N(MEAN, STD^2), by regression."""
    t = t[:, None, None].double()
    variance = t**2 * STD**2 + (1 - t) ** 2
    gain = (t * STD**2 - (1 - t)) / variance
    return (MEAN + gain * (x - t * MEAN)).float()


def exact_end(x: Tensor) -> Tensor:
    """Where the flow carries x from 0 to 1: the linear map from N(0, 1) to N(MEAN, STD^2)."""
    return MEAN + STD * x


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2)])
def test_the_exact_velocity_samples_the_gaussian_with_the_order_of_the_method(
    method: str, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least: on this flow the midpoint method happens to be of third order."""

    def error(num_steps: int) -> float:
        head = make_head(num_steps=num_steps, method=method)
        monkeypatch.setattr(head, "velocity", gaussian_velocity)
        found = head.sample(torch.zeros(50, 2, 16), noise=noise(3))
        expected = exact_end(noise(3).normal(50, 3, 2, device=CPU))
        return float((found - expected).abs().max())

    assert error(64) < 0.05
    assert math.log2(error(16) / error(32)) > order - 0.1


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_one_step_of_a_straight_flow_is_exact(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head(num_steps=1, method=method)
    goal = torch.tensor([0.25, -0.5])

    def straight(x: Tensor, t: Tensor, memories: object) -> Tensor:
        return (goal - x) / (1 - t[:, None, None])

    monkeypatch.setattr(head, "velocity", straight)
    found = head.sample(torch.zeros(4, 2, 16), noise=noise())
    torch.testing.assert_close(found, goal.expand(4, 3, 2))


def test_the_exact_velocity_has_the_least_error(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head()
    action = MEAN + STD * torch.randn(20_000, 3, 2, generator=torch.Generator().manual_seed(1))
    context = torch.zeros(20_000, 2, 16)

    def loss(scale: float) -> float:
        def velocity(x: Tensor, t: Tensor, memories: object) -> Tensor:
            return scale * gaussian_velocity(x, t, memories)

        monkeypatch.setattr(head, "velocity", velocity)
        return head.loss(context, action, noise=noise()).mean().item()

    assert loss(1.0) < min(loss(0.9), loss(1.1))
    # Saying nothing costs E[(a - n)^2] = MEAN^2 + STD^2 + 1.
    assert loss(0.0) == pytest.approx(MEAN**2 + STD**2 + 1, abs=0.02)


def test_times_have_the_quantiles_of_their_density() -> None:
    # b ~ Beta(1.5, 1) has the distribution function b^1.5, so its median is 2^(-2/3) = 0.62996
    # and t's is 0.999 (1 - 0.62996) = 0.36967.
    u = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(make_head().levels(u), u)
    found = make_head(time_density="beta").levels(u)
    torch.testing.assert_close(found, torch.tensor([0.999, 0.36967, 0.0]), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """Weights of a head that has seen two actions, all 0.6 and all -0.6."""
    head = make_head(pred_horizon=2, action_dim=1)
    teach_two(head, 2, steps=200)
    return head.state_dict()


@pytest.mark.parametrize(("num_steps", "method"), [(4, "euler"), (10, "euler"), (4, "midpoint")])
def test_a_trained_head_keeps_both_modes(
    num_steps: int, method: str, trained: dict[str, Tensor]
) -> None:
    head = make_head(pred_horizon=2, action_dim=1, num_steps=num_steps, method=method)
    head.load_state_dict(trained)
    found = head.requires_grad_(False).sample(torch.zeros(400, 2, 16), noise=noise(9))
    near = ((found.abs() - 0.6).abs().amax((1, 2)) < 0.25) & (found[:, 0] * found[:, 1] > 0)[:, 0]
    assert float(near.float().mean()) > 0.65  # untrained: about 0.1
    assert 0.3 < float((found[:, 0] > 0).float().mean()) < 0.7


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_the_head_keeps_the_contract(method: str) -> None:
    head = make_head(num_steps=2, method=method, time_density="beta")
    check_head(head, torch.randn(5, 2, 16), torch.rand(5, 3, 2) * 2 - 1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "heun"}, "method must be one of euler, midpoint, got 'heun'"),
        ({"time_density": "normal"}, "time_density must be one of uniform, beta, got 'normal'"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_head(**kwargs)
