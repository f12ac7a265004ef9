"""The shortcut head: what a jump is to equal, what is drawn, and that one step keeps two modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.heads.shortcut import ShortcutHead
from embodied.noise import BatchNoise
from embodied.testing import check_head
from tests.lessons import teach_two


def make_head(seed: int = 0, **kwargs: Any) -> ShortcutHead:
    torch.manual_seed(seed)
    sizes = {"action_dim": 2, "pred_horizon": 3, "num_tokens": 2, "dim": 16, "num_layers": 1}
    return ShortcutHead(**{**sizes, "max_steps": 8, **kwargs})


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def draws(rows: int = 20_000) -> Tensor:
    return torch.rand(rows, 3, generator=torch.Generator().manual_seed(0))


def test_a_jump_is_to_land_where_two_of_half_its_length_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = make_head()
    asked: list[tuple[float, int]] = []

    def velocity(x: Tensor, t: Tensor, jump: Tensor, memories: object) -> Tensor:
        asked.append((t.item(), int(jump)))
        return 2 * x + t[:, None, None]

    monkeypatch.setattr(head, "velocity", velocity)
    # A jump of 2/8 from t = 0.5 and x = 1: the first half, 1/8, goes at 2.5 and ends in 1.3125,
    # at t = 0.625; the second goes at 3.25. Their mean is 2.875.
    x, t = torch.ones(1, 3, 2), torch.tensor([0.5])
    found = head.jump_target(x, t, torch.tensor([1]), ())
    torch.testing.assert_close(found, torch.full((1, 3, 2), 2.875))
    assert asked == [(0.5, 0), (0.625, 0)]


def test_rows_without_a_jump_learn_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head(consistency=1e-9)
    monkeypatch.setattr(head, "velocity", lambda x, t, jump, memories: torch.zeros_like(x))
    action = torch.full((20_000, 3, 2), 0.5)
    loss = head.loss(torch.zeros(20_000, 2, 16), action, noise=noise()).mean()
    assert loss.item() == pytest.approx(0.5**2 + 1, abs=0.02)  # E[(a - n)^2]


def test_the_exact_jumps_of_a_gaussian_agree_with_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The flow of N(0, s^2) scales x by sqrt(t^2 s^2 + (1 - t)^2), so its jumps are known."""
    head = make_head(max_steps=64)

    def width(t: Tensor) -> Tensor:
        return (t**2 * 0.5**2 + (1 - t) ** 2).sqrt()

    def velocity(x: Tensor, t: Tensor, jump: Tensor, memories: object) -> Tensor:
        d = 2.0 ** (jump - head.doublings)
        return x * ((width(t + d) / width(t) - 1) / d)[:, None, None]

    monkeypatch.setattr(head, "velocity", velocity)
    jump, t = head._draw(draws())
    jump, t = jump[jump > 0], t[jump > 0]
    x = torch.randn(len(t), 3, 2)
    target = head.jump_target(x, t, jump, ())
    torch.testing.assert_close(target, velocity(x, t, jump, ()), atol=1e-4, rtol=1e-4)


def test_jumps_are_as_likely_and_stay_within_the_flow() -> None:
    head = make_head(consistency=0.25)
    jump, t = head._draw(draws())
    shares = torch.bincount(jump, minlength=4) / len(jump)
    torch.testing.assert_close(shares, torch.tensor([0.75, *[0.25 / 3] * 3]), atol=0.02, rtol=0)
    length = 2.0 ** (jump - 3)
    assert ((t + length)[jump > 0] <= 1).all()
    assert (t[jump > 0] % length[jump > 0] == 0).all()
    assert t[jump == 0].max() > 0.99


def test_the_target_sends_no_gradient() -> None:
    head = make_head()
    x = torch.randn(4, 3, 2, requires_grad=True)
    memories = head.trunk.remember(torch.randn(4, 2, 16))
    target = head.jump_target(x, torch.zeros(4), torch.full((4,), 2), memories)
    assert not target.requires_grad


def test_sampling_asks_for_jumps_as_long_as_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head(num_steps=2)
    asked: list[tuple[float, int]] = []

    def velocity(x: Tensor, t: Tensor, jump: Tensor, memories: object) -> Tensor:
        asked.append((t[0].item(), int(jump[0])))
        return torch.zeros_like(x)

    monkeypatch.setattr(head, "velocity", velocity)
    head.sample(torch.zeros(4, 2, 16), noise=noise())
    assert asked == [(0.0, 2), (0.5, 2)]  # of 1/8 doubled twice


@pytest.mark.slow
def test_one_step_of_a_trained_head_keeps_both_modes() -> None:
    head = make_head(pred_horizon=1, action_dim=1, max_steps=4, consistency=0.5)
    teach_two(head, 1, steps=900)
    found = head.requires_grad_(False).sample(torch.zeros(400, 2, 16), noise=noise(9)).flatten()
    # One step of the flow would end at the mean, 0.
    assert float(((found.abs() - 0.6).abs() < 0.3).float().mean()) > 0.6
    assert 0.3 < float((found > 0).float().mean()) < 0.7


@pytest.mark.parametrize("num_steps", [1, 4])
def test_the_head_keeps_the_contract(num_steps: int) -> None:
    head = make_head(num_steps=num_steps, max_steps=4, consistency=0.9)
    check_head(head, torch.randn(16, 2, 16), torch.rand(16, 3, 2) * 2 - 1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_steps": 6}, "max_steps must be a power of two, got 6"),
        ({"num_steps": 3}, "num_steps must be a power of two, got 3"),
        ({"num_steps": 16}, "max_steps must be at least 2 and num_steps, got 8 and 16"),
        ({"consistency": 1.0}, r"consistency must lie in \(0, 1\), got 1.0"),
    ],
)
def test_a_wrong_setting_is_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_head(**kwargs)
