"""Hyper-gradients against the truth, on worlds so small that all trajectories can be listed."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from embodied.objectives.bradley_terry import bradley_terry
from embodied.objectives.hypergradient import (
    conjugate_gradient,
    cosine,
    implicit_hypergradient,
    one_step_term,
)

S, A, H = 3, 2, 3
SEEDS = range(10)


@dataclasses.dataclass
class World:
    """A random MDP whose policy is soft-optimal (temperature 1) for a learned reward.

    Attributes:
        transition: (S, A, S).
        start: (S,).
        true_reward, reward: (S, A) what labels follow, and what is learned.
        states, actions: (N, H) of every trajectory.
    """

    transition: Tensor
    start: Tensor
    true_reward: Tensor
    reward: Tensor
    states: Tensor
    actions: Tensor

    @classmethod
    def random(cls, seed: int) -> World:
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, dtype=torch.float64)

        paths = torch.tensor(list(itertools.product(range(S), range(A), repeat=H)))
        return cls(
            (1.5 * normal(S, A, S)).softmax(-1),
            normal(S).softmax(-1),
            2 * normal(S, A),
            2 * normal(S, A),
            paths[:, 0::2],
            paths[:, 1::2],
        )

    def soft_logits(self, reward: Tensor) -> Tensor:
        """(H, S, A), of the soft-optimal policy: its Q values, by backward induction."""
        q, value = [], torch.zeros(S, dtype=torch.float64)
        for _ in range(H):
            q.insert(0, reward + self.transition @ value)
            value = q[0].logsumexp(-1)
        return torch.stack(q)

    def soft_return(self, reward: Tensor, logits: Tensor) -> Tensor:
        """What the lower level maximises: expected reward and entropy of a policy."""
        value = torch.zeros(S, dtype=torch.float64)
        for h in reversed(range(H)):
            log_pi = logits[h].log_softmax(-1)
            q = reward + self.transition @ value
            value = (log_pi.exp() * (q - log_pi)).sum(-1)
        return self.start @ value

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N,), of each trajectory."""
        log_pi = logits.log_softmax(-1)
        p = self.start[self.states[:, 0]]
        for h in range(H):
            p = p * log_pi[h, self.states[:, h], self.actions[:, h]].exp()
            if h + 1 < H:
                p = (
                    p
                    * self.transition[self.states[:, h], self.actions[:, h], self.states[:, h + 1]]
                )
        return p

    def steps(self, reward: Tensor) -> Tensor:
        """(N, H), the rewards along each trajectory."""
        return reward[self.states, self.actions]

    def losses(self, reward: Tensor) -> Tensor:
        """(N, N) cross-entropies of all pairs, labelled by the true reward."""
        logits, truth = (
            (returns[None, :] - returns[:, None])
            for returns in (self.steps(r).sum(-1) for r in (reward, self.true_reward))
        )
        return bradley_terry(logits, torch.sigmoid(truth))

    def upper(self, reward: Tensor, logits: Tensor) -> Tensor:
        p = self.probabilities(logits)
        return p @ self.losses(reward) @ p

    def truth(self) -> Tensor:
        """d upper / d reward, through the policy that soft value iteration makes of it."""
        reward = self.reward.clone().requires_grad_()
        loss = self.upper(reward, self.soft_logits(reward))
        (grad,) = torch.autograd.grad(loss, reward)
        return grad

    def one_step(self) -> Tensor:
        """The direct part and the one-step term, as means over all pairs."""
        reward = self.reward.clone().requires_grad_()
        logits = self.soft_logits(self.reward)
        p = self.probabilities(logits)
        expected = (logits.softmax(-1) * reward).sum(-1)  # (H, S)
        ahead = torch.stack([expected[h][self.states[:, h]] for h in range(H)], -1)
        n = len(p)
        first, second = (x.flatten() for x in torch.meshgrid(*[torch.arange(n)] * 2, indexing="ij"))
        pairs = torch.stack([first, second], -1)
        losses = self.losses(reward).flatten()
        # Every pair once, as often as it would be drawn.
        weight = (p[:, None] * p[None, :]).flatten() * n**2
        term = one_step_term(
            weight * losses, self.steps(reward)[pairs], ahead[pairs], temperature=1.0
        )
        (grad,) = torch.autograd.grad((weight * losses).mean() + term, reward)
        return grad


def test_trajectories_are_all_there_and_the_soft_policy_is_the_best() -> None:
    world = World.random(0)
    logits = world.soft_logits(world.reward).requires_grad_()
    assert float(world.probabilities(logits).sum().detach()) == pytest.approx(1.0)
    (slope,) = torch.autograd.grad(world.soft_return(world.reward, logits), logits)
    assert float(slope.abs().max()) < 1e-12


def test_the_implicit_gradient_is_the_truth_and_its_short_cuts_come_near() -> None:
    found: dict[str, list[float]] = {"implicit": [], "naive": [], "one step": []}
    for seed in SEEDS:
        world = World.random(seed)
        truth = world.truth()
        direct, through = implicit_hypergradient(
            world.upper, world.soft_return, world.reward, world.soft_logits(world.reward)
        )
        guesses = {"implicit": direct + through, "naive": direct, "one step": world.one_step()}
        for name, guess in guesses.items():
            found[name].append(float(cosine(guess, truth)))
        assert float((direct + through - truth).norm() / truth.norm()) < 1e-4
    mean = {name: sum(values) / len(values) for name, values in found.items()}
    assert min(found["implicit"]) > 0.9999
    assert 0.75 < mean["naive"] < 0.9  # where the policy goes matters
    assert mean["one step"] > 0.98


def test_little_damping_changes_little_and_much_leaves_the_direct_part() -> None:
    world = World.random(0)
    truth, logits = world.truth(), world.soft_logits(world.reward)

    def at(damping: float) -> Tensor:
        direct, through = implicit_hypergradient(
            world.upper, world.soft_return, world.reward, logits, damping=damping
        )
        return direct + through

    direct, _ = implicit_hypergradient(world.upper, world.soft_return, world.reward, logits)
    assert float(cosine(at(1e-3), truth)) > 0.999
    assert torch.allclose(at(1e9), direct, atol=1e-6)


def test_an_upper_level_without_the_policy_has_no_part_through_it() -> None:
    world = World.random(1)
    direct, through = implicit_hypergradient(
        lambda reward, logits: reward.square().sum(),
        world.soft_return,
        world.reward,
        world.soft_logits(world.reward),
    )
    assert torch.allclose(direct, 2 * world.reward)
    assert not through.any()


def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_unknowns() -> None:
    draw = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    matrix, target = root @ root.T + torch.eye(6), torch.randn(6, generator=draw).double()
    found = conjugate_gradient(lambda x: matrix @ x, target, iterations=6)
    assert torch.allclose(found, torch.linalg.solve(matrix, target), atol=1e-6)
    assert not conjugate_gradient(lambda x: matrix @ x, 0 * target, iterations=6).any()


def test_the_one_step_term_moves_rewards_of_what_was_done_against_what_would_be() -> None:
    reward = torch.zeros(4, 2, 5, requires_grad=True)
    expected = torch.zeros(4, 2, 5, requires_grad=True)
    loss = torch.tensor([1.0, 2.0, 0.0, 4.0], requires_grad=True)
    one_step_term(loss, reward, expected, temperature=0.5).backward()
    assert loss.grad is None  # labels teach through the loss itself
    assert reward.grad is not None
    assert expected.grad is not None
    assert reward.grad[:, 0, 0].tolist() == [0.5, 1.0, 0.0, 2.0]
    assert torch.equal(expected.grad, -reward.grad)
