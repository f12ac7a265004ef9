"""Two actions, each right half the time: score diffusion does one or the other, least squares what
lies between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.heads.edm import EDMHead
from embodied.noise import BatchNoise

MODE = 0.5
CPU = torch.device("cpu")


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def make_head(**kwargs: Any) -> EDMHead:
    torch.manual_seed(0)
    return EDMHead(action_dim=1, pred_horizon=1, num_tokens=1, dim=32, num_layers=1, **kwargs)


@pytest.fixture(scope="module")
def two_modes() -> tuple[dict[str, Tensor], float]:
    """Weights of a head that has seen MODE and -MODE equally often, and what least squares says."""
    head, draws = make_head(), noise()
    mean = torch.nn.Parameter(torch.tensor(0.3))
    optimizer = torch.optim.Adam([*head.parameters(), mean], lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        sign = torch.sign(draws.uniform(128, 1, 1, device=CPU) - 0.5)
        action = MODE * sign + 0.03 * draws.normal(128, 1, 1, device=CPU)
        optimizer.zero_grad()
        loss = head.loss(torch.ones(128, 1, 32), action, noise=draws).mean()
        (loss + (mean - action).square().mean()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return head.state_dict(), float(mean.detach())


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde"])
def test_both_modes_are_kept_at_any_number_of_steps(
    sampler: str, two_modes: tuple[dict[str, Tensor], float]
) -> None:
    weights, mean = two_modes
    near = []
    for num_steps in (1, 3, 10, 50):
        head = make_head(sampler=sampler, num_steps=num_steps)
        head.load_state_dict(weights)
        with torch.no_grad():
            found = head.sample(torch.ones(1000, 1, 32), noise=noise(9))
        assert 0.4 < (found > 0).float().mean() < 0.6
        near.append(float(((found.abs() - MODE).abs() < 0.1).float().mean()))
    assert near[0] < near[1] < near[2]  # few steps blur
    assert min(near[2:]) > 0.75
    assert abs(mean) < 0.1  # least squares sits between the modes, where no action was
