"""Objectives by name: one key chooses them, the page lists them, and they learn."""

from __future__ import annotations

import re
from pathlib import Path

import hydra
import pytest
import torch
from torch import Tensor

from embodied.build import instantiate
from embodied.objectives.policy_gradient import Objective
from embodied.objectives.rollouts import Rollouts

ROOT = Path(__file__).parents[1]
GROUPS = ("objective", "preference", "teacher")


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def chosen(group: str, name: str) -> object:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = hydra.compose("config", [f"+{group}={name}"])
    return instantiate(config[group])


@pytest.mark.parametrize("group", GROUPS)
def test_one_key_chooses_each(group: str) -> None:
    kinds = {name: chosen(group, name) for name in names(group)[:3]}
    assert len(kinds) == 3
    assert all(map(callable, kinds.values())) or group == "teacher"


@pytest.mark.parametrize("group", GROUPS)
def test_the_page_lists_all_that_can_be_chosen_and_nothing_else(group: str) -> None:
    page = (ROOT / "docs" / "objectives.md").read_text()
    table = page[page.index(f"| `{group}=`") :].partition("\n\n")[0]
    first = [row.split("|")[1] for row in table.splitlines()[2:]]
    listed = [name for cell in first for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(listed) == names(group)


class Bandit:
    """Two codes, of which the first is right; 8 tasks of 8 attempts, from the policy as it is."""

    def __init__(self) -> None:
        self.logits = torch.tensor([-0.8, 0.0], requires_grad=True)
        self.start = self.logits.detach().log_softmax(-1)
        self.generator = torch.Generator().manual_seed(0)

    def rollouts(self) -> Rollouts:
        log_pi = self.logits.log_softmax(-1)
        p = log_pi.detach().exp().expand(64, 2)
        code = torch.multinomial(p, 1, generator=self.generator)
        log_prob = log_pi[code]
        reward = (code[:, 0] == 0).float()
        return Rollouts(
            log_prob,
            torch.ones(64, 1, dtype=torch.bool),
            reward,
            group=torch.arange(64) // 8,
            old=log_prob.detach(),
            reference=self.start[code],
            advantage=(reward - reward.mean())[:, None],
            entropy=-(log_pi.exp() * log_pi).sum().expand(64, 1),
            code=code,
            bundle=torch.arange(64) % 16,
        )

    def success(self) -> float:
        return float(self.logits.detach().softmax(-1)[0])


NEED_MORE = {  # than a bandit has: demonstrations, segments, states, samplers, candidates
    *("sft", "luffy", "srft", "critique_grpo"),
    *("segment_po", "gigpo", "grpo_guard", "aepo"),
}


@pytest.mark.parametrize("name", sorted(set(names("objective")) - NEED_MORE))
def test_rewarded_codes_become_likely(name: str) -> None:
    objective, bandit = chosen("objective", name), Bandit()
    assert callable(objective)
    before = bandit.success()
    for _ in range(60):
        loss = _loss(objective, bandit.rollouts())
        (grad,) = torch.autograd.grad(loss, bandit.logits)
        with torch.no_grad():
            bandit.logits -= 1.0 * grad
    assert before < 0.35
    assert bandit.success() > 0.8


def _loss(objective: Objective, rollouts: Rollouts) -> Tensor:
    loss, metrics = objective(rollouts)
    assert all(bool(torch.as_tensor(x).isfinite()) for x in metrics.values())
    return loss
