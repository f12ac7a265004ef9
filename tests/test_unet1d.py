"""The U-Net along action chunks: any horizon, what it sees, and what moves what."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from embodied.networks.unet1d import FiLMBlock, UNet1d


def make(seed: int = 0, **kwargs: Any) -> UNet1d:
    torch.manual_seed(seed)
    sizes = {"in_dim": 2, "out_dim": 3, "pred_horizon": 8, "dim": 16, "num_layers": 1}
    return UNet1d(**{**sizes, **kwargs}).requires_grad_(False)


@pytest.mark.parametrize("pred_horizon", [1, 3, 4, 6, 8, 11, 16])
@pytest.mark.parametrize("widths", [(1,), (1, 2), (1, 2, 4)])
def test_any_horizon_will_do(pred_horizon: int, widths: tuple[int, ...]) -> None:
    net = make(pred_horizon=pred_horizon, widths=widths)
    memory = net.remember(torch.randn(2, 5, 16))
    out = net(memory, torch.randn(2, pred_horizon, 2), torch.randn(2, 16))
    assert out.shape == (2, pred_horizon, 3)
    assert torch.isfinite(out).all()


def test_padding_repeats_the_last_step() -> None:
    net = make(pred_horizon=6)
    memory, level, x = net.remember(torch.randn(2, 5, 16)), torch.randn(2, 16), torch.randn(2, 6, 2)
    longer = torch.cat([x, x[:, -1:], x[:, -1:]], dim=1)
    torch.testing.assert_close(net(memory, x, level), net(memory, longer, level)[:, :6])


def test_the_last_step_knows_of_the_first_though_no_convolution_is_so_long() -> None:
    net = make(pred_horizon=16)
    memory, level = net.remember(torch.randn(1, 5, 16)), torch.randn(1, 16)
    x = torch.randn(1, 16, 2)
    other = x.clone()
    other[:, 0] += 1
    assert not torch.allclose(net(memory, x, level)[:, -1], net(memory, other, level)[:, -1])


def test_context_and_level_change_the_answer() -> None:
    net, x = make(), torch.randn(1, 8, 2)
    memory, level = net.remember(torch.randn(1, 5, 16)), torch.randn(1, 16)
    before = net(memory, x, level)
    assert not torch.allclose(before, net(net.remember(torch.randn(1, 5, 16)), x, level))
    assert not torch.allclose(before, net(memory, x, level + 1))


def test_it_learns_what_context_level_and_input_say_together() -> None:
    net = make(pred_horizon=4, widths=(1, 2)).requires_grad_()
    context, x, level = torch.randn(8, 2, 16), torch.randn(8, 4, 2), torch.randn(8, 16)
    target = torch.randn(8, 4, 3)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        error = (net(net.remember(context), x, level) - target).square().mean()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert error.item() < 0.1  # from about 1


def test_film_scales_and_shifts_between_the_convolutions() -> None:
    block = FiLMBlock(4, 8, 5, 3, 4).requires_grad_(False)
    x, condition = torch.randn(2, 4, 6), torch.randn(2, 5)
    block.film[1].weight.zero_()
    block.film[1].bias.copy_(torch.tensor([0.5] * 8 + [2.0] * 8))
    expected = block.second(1.5 * block.first(x) + 2.0) + block.skip(x)
    torch.testing.assert_close(block(x, condition), expected)


def test_the_order_of_context_tokens_does_not_matter() -> None:
    """Tokens carry their positions with them; pooling adds none."""
    net, context = make(), torch.randn(2, 5, 16)
    torch.testing.assert_close(net.remember(context), net.remember(context.flip(1)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"patch": 3}, "pred_horizon must be a multiple of patch, got 8 and 3"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
    ],
)
def test_a_wrong_setting_is_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**kwargs)
