"""Learners as single-file repositories write them, to compare with: a list of critics, an optimiser
for each network, a buffer of columns, and `.item()` on every loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN, BATCH, RATE, DISCOUNT, POLYAK = 256, 256, 3e-4, 0.99, 0.005
Columns = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""States (n, S), actions (n, A), rewards (n, 1), next states (n, S) and terminations (n, 1)."""


def perceptron(in_dim: int, out_dim: int) -> nn.Sequential:
    layers = [nn.Linear(in_dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, out_dim))


def adam(module: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=RATE)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def soft_update(target: nn.Module, source: nn.Module) -> None:
    for theirs, ours in zip(target.parameters(), source.parameters(), strict=True):
        theirs.data.copy_((1 - POLYAK) * theirs.data + POLYAK * ours.data)


class Critics(nn.Module):
    """Any number of critics, one after the other."""

    def __init__(self, number: int, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(perceptron(state_dim + action_dim, 1) for _ in range(number))

    def forward(self, s: Tensor, a: Tensor) -> list[Tensor]:
        x = torch.cat([s, a], 1)
        return [member(x) for member in self.members]

    def least(self, s: Tensor, a: Tensor) -> Tensor:
        found: Tensor = torch.stack(self(s, a)).min(0).values
        return found


class PlainLearner:
    """Draws from columns and keeps critics with targets."""

    def __init__(self, columns: Columns, num_critics: int) -> None:
        self.columns = columns
        self.sizes = columns[0].shape[1], columns[1].shape[1]
        self.critics = Critics(num_critics, *self.sizes)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.critic_optimizer = adam(self.critics)

    def draw(self) -> Sequence[Tensor]:
        index = torch.randint(len(self.columns[0]), (BATCH,))
        return [column[index] for column in self.columns]

    def learn_critics(self, s: Tensor, a: Tensor, target: Tensor) -> float:
        losses = [functional.mse_loss(q, target) for q in self.critics(s, a)]
        loss = step(self.critic_optimizer, torch.stack(losses).sum())
        soft_update(self.targets, self.critics)
        return loss


class PlainIQL(PlainLearner):
    """IQL (arXiv:2110.06169) with two critics."""

    def __init__(self, columns: Columns, num_critics: int = 2) -> None:
        super().__init__(columns, num_critics)
        state_dim, action_dim = self.sizes
        self.value, self.actor = perceptron(state_dim, 1), perceptron(state_dim, action_dim)
        self.log_std = nn.Parameter(torch.zeros(action_dim))
        self.value_optimizer = adam(self.value)
        self.actor_optimizer = torch.optim.Adam([*self.actor.parameters(), self.log_std], lr=RATE)

    def update(self) -> dict[str, float]:
        s, a, r, next_s, done = self.draw()
        with torch.no_grad():
            q, next_v = self.targets.least(s, a), self.value(next_s)
        advantage = q - self.value(s)
        weight = torch.abs(0.7 - (advantage < 0).float())
        found = {"value": step(self.value_optimizer, (weight * advantage**2).mean())}
        target = r + DISCOUNT * (1 - done) * next_v
        found["critic"] = self.learn_critics(s, a, target)
        policy = torch.distributions.Normal(
            torch.tanh(self.actor(s)), self.log_std.clamp(-5, 2).exp()
        )
        wanted = torch.exp(3.0 * advantage.detach()).clamp(max=100.0)
        loss = -(wanted * policy.log_prob(a).sum(-1, keepdim=True)).mean()
        found["actor"] = step(self.actor_optimizer, loss)
        return found


class PlainSAC(PlainLearner):
    """SAC (arXiv:1812.05905) with any number of critics, a loop over them."""

    def __init__(self, columns: Columns, num_critics: int = 2) -> None:
        super().__init__(columns, num_critics)
        state_dim, action_dim = self.sizes
        self.actor = perceptron(state_dim, 2 * action_dim)
        self.actor_optimizer = adam(self.actor)
        self.log_alpha = torch.zeros((), requires_grad=True)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=RATE)

    def choose(self, s: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(s).chunk(2, -1)
        policy = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
        u = policy.rsample()
        slope = torch.log(1 - torch.tanh(u) ** 2 + 1e-6)
        return torch.tanh(u), (policy.log_prob(u) - slope).sum(-1, keepdim=True)

    def update(self) -> dict[str, float]:
        s, a, r, next_s, done = self.draw()
        action, log_prob = self.choose(s)
        surplus = (log_prob.detach() - self.sizes[1]).mean()
        found = {"alpha": step(self.alpha_optimizer, -self.log_alpha.exp() * surplus)}
        alpha = self.log_alpha.exp().detach()
        loss = (alpha * log_prob - self.critics.least(s, action)).mean()
        found["actor"] = step(self.actor_optimizer, loss)
        with torch.no_grad():
            next_action, next_log_prob = self.choose(next_s)
            next_q = self.targets.least(next_s, next_action) - alpha * next_log_prob
            target = r + DISCOUNT * (1 - done) * next_q
        found["critic"] = self.learn_critics(s, a, target)
        return found
