"""Exploring without ever doing worse, in expectation, than a share of what a baseline does.

StepMix and EpsMix (Li et al. 2023, "Near-optimal Conservative Exploration in Reinforcement Learning
under Episode-wise Constraints"; from a summary of it, with bonuses of our own) in tables: finite
states and actions, H steps, M worlds at once along the first axis of every array.

A candidate h0 in [0, H] follows the baseline for its first h0 steps and an optimistic policy after
them; 0 is the optimistic policy, and H the baseline, whose value is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rule = Callable[[Floats, Floats], Floats]
"""Lower bounds (M, H + 1) of the candidates, thresholds (M,) -> probabilities (M, H + 1)."""


@dataclass(frozen=True)
class Worlds:
    """M decision processes that begin in state 0.

    Attributes:
        transition: (M, H, S, A, S).
        reward: (M, H, S, A) in [0, 1].
    """

    transition: Floats
    reward: Floats

    @property
    def horizon(self) -> int:
        """H."""
        return len(self.reward[0])

    def value(self, policies: Floats) -> Floats:
        """Of policies (M, C, H, S, A), C to each world, from the start, (M, C).

        Values stop at 0, below which only the bounds of a pessimistic model would fall."""
        found = np.zeros((*policies.shape[:2], self.reward.shape[2]))
        for h in reversed(range(self.horizon)):
            found = (policies[:, :, h] * np.maximum(self.q(h, found), 0)).sum(-1)
        return found[..., 0]

    def q(self, h: int, after: Floats) -> Floats:
        """(M, C, S, A) from values (M, C, S) of the states after step h."""
        expected = self.transition[:, None, h] @ after[:, :, None, :, None]
        found: Floats = self.reward[:, None, h] + expected[..., 0]
        return found

    def optimal(self, cap: bool = False) -> tuple[Floats, Floats]:
        """Values Q* (M, H, S, A) and a greedy policy of the same shape.

        Args:
            cap: whether values stop at what is left to earn, as optimistic ones must.
        """
        q, after = np.zeros_like(self.reward), np.zeros((len(self.reward), 1, self.reward.shape[2]))
        for h in reversed(range(self.horizon)):
            found = self.q(h, after)
            q[:, h] = (np.minimum(found, self.horizon - h) if cap else found)[:, 0]
            after = q[:, None, h].max(-1)
        return q, np.eye(q.shape[-1])[q.argmax(-1)]


def random_worlds(
    count: int, seed: int, *, states: int = 5, actions: int = 5, horizon: int = 3
) -> Worlds:
    """The published setting: transitions uniform on the simplex, rewards uniform in [0, 1]."""
    generator = np.random.default_rng(seed)
    shape = (count, horizon, states, actions)
    return Worlds(generator.dirichlet(np.ones(states), shape), generator.random(shape))


def boltzmann(worlds: Worlds, temperature: float) -> Floats:
    """A baseline (M, H, S, A) that prefers better actions: softmax of Q* / temperature."""
    q = worlds.optimal()[0] / temperature
    weight = np.exp(q - q.max(-1, keepdims=True))
    found: Floats = weight / weight.sum(-1, keepdims=True)
    return found


# Which candidate to play


def unconstrained(bounds: Floats, threshold: Floats) -> Floats:
    """The optimistic policy, whatever it may cost."""
    found = np.zeros_like(bounds)
    found[:, 0] = 1
    return found


def eps_mix(bounds: Floats, threshold: Floats) -> Floats:
    """A coin between the optimistic policy and the baseline, by which the bound is just kept."""
    return _between(bounds, threshold, np.full(len(bounds), bounds.shape[1] - 1), 0)


def step_mix(bounds: Floats, threshold: Floats) -> Floats:
    """A coin between the first candidate whose bound is enough and the one before it."""
    first = (bounds >= threshold[:, None]).argmax(-1)
    return _between(bounds, threshold, first, np.maximum(first - 1, 0))


def _between(bounds: Floats, threshold: Floats, safe: Floats, risky: Floats | int) -> Floats:
    """Mixes so that the bounds' mean is the threshold; where the first will do, it alone."""
    rows = np.arange(len(bounds))
    high, low = bounds[rows, safe], bounds[rows, risky]
    enough = bounds[:, 0] >= threshold
    share = np.where(enough, 0.0, (threshold - low) / np.where(high > low, high - low, 1.0))
    found = np.zeros_like(bounds)
    found[rows, np.where(enough, 0, safe)] += share
    found[rows, np.where(enough, 0, risky)] += 1 - share
    return found


# Learning


class Counts:
    """What has been seen of M worlds: how often, where it led, and what it earned."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.visits = np.zeros(shape)
        self.moves = np.zeros((*shape, shape[2]))
        self.earned = np.zeros(shape)

    def add(
        self,
        h: int,
        state: NDArray[np.int64],
        action: NDArray[np.int64],
        reward: Floats,
        after: NDArray[np.int64],
    ) -> None:
        """One step in every world, (M,) each."""
        rows = np.arange(len(state))
        self.visits[rows, h, state, action] += 1
        self.moves[rows, h, state, action, after] += 1
        self.earned[rows, h, state, action] += reward

    def model(self, bonus: Floats | float) -> Worlds:
        """The mean of what was seen, with a bonus on the rewards; unseen moves lead anywhere."""
        seen = np.maximum(self.visits, 1)
        moves = np.where(
            self.visits[..., None] > 0, self.moves / seen[..., None], 1 / self.moves.shape[-1]
        )
        return Worlds(moves, self.earned / seen + bonus)


@dataclass(frozen=True)
class Outcome:
    """Of each world and episode, (M, K).

    Attributes:
        value: what was played earns in expectation.
        violated: whether that is below the threshold.
        regret: how far below the best it is.
    """

    value: Floats
    violated: NDArray[np.bool_]
    regret: Floats


def explore(
    worlds: Worlds,
    baseline: Floats,
    rule: Rule,
    *,
    episodes: int,
    alpha: float = 0.1,
    bonus_scale: float = 0.3,
    bound_scale: float = 0.1,
    confidence: float = 0.05,
    seed: int = 0,
) -> Outcome:
    """Plays and learns; what is played must earn (1 - alpha) of the baseline's value.

    Args:
        baseline: (M, H, S, A) probabilities of its actions.
        bonus_scale, bound_scale: of sqrt(log(.) / visits), by which rewards are raised for the
            optimistic policy, and lowered for bounds.
    """
    generator = np.random.default_rng(seed)
    shape = worlds.reward.shape
    counts = Counts(shape)
    known = worlds.value(baseline[:, None])[:, 0]
    best = worlds.value(worlds.optimal()[1][:, None])[:, 0]
    threshold = (1 - alpha) * known
    width = np.sqrt(np.log(np.prod(shape[1:]) * episodes / confidence))
    value = np.zeros((len(known), episodes))
    for k in range(episodes):
        bonus = width / np.sqrt(np.maximum(counts.visits, 1))
        optimistic = counts.model(bonus_scale * bonus).optimal(cap=True)[1]
        candidates = hand_over(baseline, optimistic)
        bounds = counts.model(-bound_scale * bonus).value(candidates)
        bounds[:, -1] = known
        share = rule(bounds, threshold)
        value[:, k] = (share * worlds.value(candidates)).sum(-1)
        chosen = _draw(share, generator)
        play(worlds, candidates[np.arange(len(known)), chosen], counts, generator)
    violated = value < threshold[:, None] - 1e-9
    return Outcome(value, violated, best[:, None] - value)


def hand_over(baseline: Floats, learned: Floats) -> Floats:
    """All candidates, (M, H + 1, H, S, A)."""
    horizon = baseline.shape[1]
    early = np.arange(horizon) < np.arange(horizon + 1)[:, None]
    return np.where(early[None, :, :, None, None], baseline[:, None], learned[:, None])


def play(worlds: Worlds, policy: Floats, counts: Counts, generator: np.random.Generator) -> None:
    """One episode in every world with policies (M, H, S, A); rewards are as they are."""
    rows = np.arange(len(policy))
    state = np.zeros(len(policy), np.int64)
    for h in range(worlds.horizon):
        action = _draw(policy[rows, h, state], generator)
        after = _draw(worlds.transition[rows, h, state, action], generator)
        counts.add(h, state, action, worlds.reward[rows, h, state, action], after)
        state = after


def _draw(share: Floats, generator: np.random.Generator) -> NDArray[np.int64]:
    """A number for each row of probabilities (M, n), (M,)."""
    u = generator.random(len(share))[:, None]
    found = (share.cumsum(-1) < u).sum(-1)
    drawn: NDArray[np.int64] = np.minimum(found, share.shape[1] - 1)  # sums may stay below 1
    return drawn
