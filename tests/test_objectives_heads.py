"""Preferences reach the heads: those with a likelihood, and those that denoise."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embodied.heads.base import DensityHead, ErrorHead
from embodied.heads.bins import BinsHead
from embodied.heads.ddpm import DDPMHead
from embodied.heads.edm import EDMHead
from embodied.heads.flow import FlowHead
from embodied.heads.gaussian import GaussianHead
from embodied.objectives.answers import Answers, PairLoss
from embodied.objectives.diffusion import answers_of_errors
from embodied.objectives.pairwise import dpo, ipo

SIZES: dict[str, Any] = {
    "action_dim": 2,
    "pred_horizon": 3,
    "num_tokens": 2,
    "dim": 16,
    "num_layers": 1,
}
CONTEXT = torch.randn(16, 2, 16, generator=torch.Generator().manual_seed(0))
GOOD, BAD = torch.full((16, 3, 2), 0.5), torch.full((16, 3, 2), -0.5)


def frozen(head: nn.Module) -> Any:
    return copy.deepcopy(head).requires_grad_(False)


def learn(head: nn.Module, loss: Any, steps: int) -> None:
    optimizer = torch.optim.Adam(head.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().mean().backward()
        optimizer.step()


def answer(head: DensityHead, reference: DensityHead, action: Tensor) -> Answers:
    return Answers(head.log_prob(CONTEXT, action), reference=reference.log_prob(CONTEXT, action))


@pytest.mark.parametrize("kind", [GaussianHead, BinsHead])
def test_ipo_moves_a_likelihood_to_its_margin_and_no_further(kind: type[DensityHead]) -> None:
    torch.manual_seed(0)
    head = kind(**SIZES)
    reference = frozen(head)

    def answers() -> tuple[Answers, Answers]:
        return answer(head, reference, GOOD), answer(head, reference, BAD)

    learn(head, lambda: ipo(*answers(), beta=0.1), steps=200)
    good, bad = answers()
    assert float((good.delta() - bad.delta()).mean().detach()) == pytest.approx(5.0, abs=0.5)


def errors(head: ErrorHead, action: Tensor, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    levels = head.levels(torch.rand(16, generator=draw))
    noise = torch.randn(16, 3, 2, generator=draw)
    return head.errors(CONTEXT, action, levels=levels, noise=noise)


@pytest.mark.parametrize("kind", [EDMHead, FlowHead, DDPMHead])
def test_diffusion_dpo_learns_to_denoise_the_chosen_better(kind: type[ErrorHead]) -> None:
    torch.manual_seed(0)
    head = kind(**SIZES)
    reference = frozen(head)
    seeds = iter(range(10_000))

    def loss(pair_loss: PairLoss = dpo) -> Tensor:
        seed = next(seeds)  # the same draws for both answers and both policies
        good, bad = (
            answers_of_errors(errors(head, x, seed), errors(reference, x, seed), weight=1.0)
            for x in (GOOD, BAD)
        )
        return pair_loss(good, bad)

    assert float(loss().mean().detach()) == pytest.approx(0.6931, abs=1e-4)  # a copy agrees
    learn(head, lambda: loss(lambda w, r: dpo(w, r, beta=1.0)), steps=120)
    with torch.no_grad():
        margin = torch.stack([loss(lambda w, r: w.delta() - r.delta()).mean() for _ in range(20)])
    assert float(margin.mean()) > 0.5
