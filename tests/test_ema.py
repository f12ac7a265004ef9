"""The average of the weights, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from embodied.ema import EMA


def make_module(value: float) -> nn.Linear:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(value)
    return module


def test_the_average_by_hand_with_its_warm_up() -> None:
    module = make_module(0.0)
    ema = EMA(module, decay=0.999)
    module.weight.data.fill_(1.0)
    # d = 1/10: 0.1 * 0 + 0.9 * 1. Then d = 2/11: 2/11 * 0.9 + 9/11 * 1.
    ema.update()
    assert ema.shadow["weight"].item() == pytest.approx(0.9)
    ema.update()
    assert ema.shadow["weight"].item() == pytest.approx(2 / 11 * 0.9 + 9 / 11)
    assert ema.num_updates == 2


def test_the_decay_ends_its_warm_up_at_its_value() -> None:
    module = make_module(0.0)
    ema = EMA(module, decay=0.5)
    ema.num_updates = 100  # (1 + 100) / (10 + 100) = 0.918 > 0.5
    module.weight.data.fill_(1.0)
    ema.update()
    assert ema.shadow["weight"].item() == pytest.approx(0.5)


def test_constant_weights_are_their_own_average() -> None:
    module = make_module(0.7)
    ema = EMA(module, decay=0.9)
    for _ in range(20):
        ema.update()
    assert ema.shadow["weight"].item() == pytest.approx(0.7, rel=1e-6)


def test_the_module_computes_with_the_average_inside_and_the_weights_outside() -> None:
    module = make_module(2.0)
    ema = EMA(module)
    module.weight.data.fill_(4.0)
    x = torch.ones(1, 1)
    with ema.applied():
        assert module(x).item() == 2.0
        assert module.state_dict()["weight"].item() == 2.0
    assert module(x).item() == 4.0
    assert ema.shadow["weight"].item() == 2.0


def test_the_weights_come_back_after_an_error() -> None:
    module = make_module(2.0)
    ema = EMA(module)
    module.weight.data.fill_(4.0)
    with pytest.raises(ZeroDivisionError), ema.applied():
        raise ZeroDivisionError
    assert module.weight.item() == 4.0


def test_buffers_are_not_averaged() -> None:
    module = nn.BatchNorm1d(1)
    assert set(EMA(module).shadow) == {"weight", "bias"}


def test_the_average_takes_no_part_in_gradients() -> None:
    module = make_module(1.0)
    ema = EMA(module)
    ema.update()
    assert not ema.shadow["weight"].requires_grad
