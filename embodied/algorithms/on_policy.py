"""What learners share that learn from what the present policy has just done, and from that alone.

One training step is one iteration: fresh segments come in, advantages are estimated once, and the
learner takes as many gradient steps on them as it likes. So between two training steps there is
nothing half done, and a checkpoint needs no segments.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from embodied.algorithms.saved import Saved
from embodied.distributed import World
from embodied.networks.ensemble import EnsembleMLP
from embodied.networks.gaussians import normal_kl
from embodied.networks.moments import RunningMoments
from embodied.noise import Noise, seeded
from embodied.objectives.gae import generalised_advantages, running_returns
from embodied.objectives.rollouts import Rollouts
from embodied.policies.actor import ActorPolicy
from embodied.structs import Batch, Metrics, Struct

_EPSILON = 1e-8
KINDS = ("clipped", "squashed")
"""Policies whose actions are recorded as they were drawn, so that their likelihood is known."""


@dataclass(frozen=True)
class Examined(Struct):
    """Rows of segments, and what is known of them before the policy moves.

    Attributes:
        s: (B, F) features.
        a: (B, A) normalised to the bounds [-1, 1].
        old: (B,) log-probabilities under the policy that acted, whose Gaussian is `mean` and
            `log_std`, (B, A).
        value, target: (B, K) of each objective, in units of its normalised reward.
        advantage: (B,) of the weighted sum of objectives, normalised over the rows.
        parts: (B, K) advantages in each objective, in the reward's own units.
    """

    s: Tensor
    a: Tensor
    old: Tensor
    mean: Tensor
    log_std: Tensor
    value: Tensor
    target: Tensor
    advantage: Tensor
    parts: Tensor

    def take(self, index: Tensor) -> Examined:
        """Rows by number."""
        return self.map(lambda x: x[index])


class OnPolicy(Saved):
    """Learns an `ActorPolicy` and the values V(s) of what it does, one output for each objective.

    Args:
        steps: iterations of the whole run; the learning rate falls to 0 over them, if `anneal`.
        weights: (K,) of the objectives that batches tell of; None learns from the plain reward.
        value_hidden, activation: of the value network.
        discount: as the source's; rewards are scaled by the deviation of their discounted sums.
        decay: lambda of generalised advantages.
        minibatch_size: rows for one gradient step, where not all are taken.
        value_clip: how far values may move in an iteration before their error counts as it was
            there; None does not care.
        max_grad_norm: of policy and values together.
        normalize_states: whether the policy's normaliser follows all states seen so far; it moves
            between iterations only, so that likelihoods refer to the policy that acted.
        normalize_rewards, normalize_advantages: by running, and by each iteration's, deviations.
        seed: of minibatches and noise; those of step s depend on (seed, s) alone.
    """

    policy: ActorPolicy

    def __init__(
        self,
        policy: ActorPolicy,
        *,
        world: World,
        steps: int,
        weights: Sequence[float] | None = None,
        value_hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        learning_rate: float = 3e-4,
        anneal: bool = True,
        discount: float = 0.99,
        decay: float = 0.95,
        minibatch_size: int = 64,
        value_clip: float | None = 0.2,
        max_grad_norm: float = 0.5,
        normalize_states: bool = True,
        normalize_rewards: bool = True,
        normalize_advantages: bool = True,
        seed: int = 0,
    ) -> None:
        _check(policy, type(self).__name__)
        self.policy, self.world, self.steps, self.seed = policy, world, steps, seed
        self.learning_rate, self.anneal = learning_rate, anneal
        self.discount, self.decay = discount, decay
        self.minibatch_size = minibatch_size
        self.value_clip, self.max_grad_norm = value_clip, max_grad_norm
        self.normalize_states, self.normalize_rewards = normalize_states, normalize_rewards
        self.normalize_advantages = normalize_advantages
        self.multiple = weights is not None
        self.weights = torch.tensor([1.0] if weights is None else list(weights)).to(world.device)
        outputs = len(self.weights)
        self.value = EnsembleMLP(
            1, policy.feature_dim, value_hidden, outputs, activation=activation
        )
        self.states = RunningMoments(policy.spec.state_dim)
        self.returns = RunningMoments(outputs)
        parts = {"value": self.value, "states": self.states, "returns": self.returns}
        self.parts = nn.ModuleDict(parts).to(world.device)
        self.trained = [*policy.parameters(), *self.value.parameters()]
        self.optimizer = torch.optim.Adam(self.trained, lr=learning_rate, eps=1e-5, fused=True)

    # What a learner adds

    @abstractmethod
    def improve(self, x: Examined, step: int, generator: torch.Generator) -> Metrics:
        """The gradient steps of one iteration."""

    # One iteration

    def update(self, batch: Batch, step: int) -> Metrics:
        self.policy.train()
        if self.anneal:
            rate = self.learning_rate * (1 - step / self.steps)
            self.optimizer.param_groups[0]["lr"] = rate
        x = self.examine(batch)
        metrics = self.improve(x, step, seeded(self.seed, step, self.world.device))
        with torch.no_grad():
            metrics |= {"kl": self.divergence(x), "std": self.policy.gaussian(x.s)[1].exp().mean()}
        if self.normalize_states:
            self.states.add(batch.observation.state[:, -1])
            self.policy.normalizer.take(self.states.mean, self.states.std)
        return {**metrics, "explained": _explained(x.value, x.target)}

    @torch.no_grad()
    def examine(self, batch: Batch) -> Examined:
        """Likelihoods, values and advantages before the policy moves.

        Raises ValueError for a batch that is not of segments.
        """
        reward, next_observation = self._rewards(batch), batch.next_observation
        if reward is None or batch.continues is None or next_observation is None:
            raise ValueError("this algorithm learns from fresh segments: choose source=on_policy")
        assert batch.discount is not None
        s, a = self.policy.features(batch.observation), self.policy.decision(batch.action)
        scale = self._scale(reward, batch.continues)
        value, after = self.values(s), self.values(self.policy.features(next_observation))
        found = generalised_advantages(
            reward / scale, value, after, batch.discount, batch.continues, decay=self.decay
        )
        mean, log_std = self.policy.gaussian(s)
        parts = found * scale
        advantage = (parts * self.weights).sum(-1)
        return Examined(
            s=s,
            a=a,
            old=self.policy.log_prob(s, a),
            mean=mean,
            log_std=log_std,
            value=value,
            target=value + found,
            advantage=standardised(advantage) if self.normalize_advantages else advantage,
            parts=parts,
        )

    def _rewards(self, batch: Batch) -> Tensor | None:
        if not self.multiple:
            return None if batch.reward is None else batch.reward[:, None]
        found = batch.objectives
        if found is None or found.shape[1] != len(self.weights):
            raise ValueError(
                f"algorithm.weights has {len(self.weights)} numbers, and the batch tells of "
                f"{0 if found is None else found.shape[1]} objectives; name as many in "
                "source.objectives"
            )
        return found

    def _scale(self, reward: Tensor, continues: Tensor) -> Tensor:
        """What rewards are divided by, (K,)."""
        if not self.normalize_rewards:
            return torch.ones_like(self.weights)
        self.returns.add(running_returns(reward, self.discount, continues))
        return self.returns.std.float() + _EPSILON

    # What learners use

    def values(self, s: Tensor) -> Tensor:
        """V(s) of features, (B, K)."""
        found: Tensor = self.value(s)[0]
        return found

    def rollouts(self, x: Examined, noise: Noise | None) -> Rollouts:
        """Rows as sequences of one decision, for the objectives of `embodied.objectives`.

        The entropy is that of a fresh draw, -log pi, whose gradient's mean is the entropy's; no
        noise, no entropy.
        """
        log_prob = self.policy.log_prob(x.s, x.a)[:, None]
        drawn = None if noise is None else self.policy.choose(x.s, noise=noise)[1]
        return Rollouts(
            log_prob=log_prob,
            mask=torch.ones_like(log_prob, dtype=torch.bool),
            reward=x.advantage,
            old=x.old[:, None],
            advantage=x.advantage[:, None],
            entropy=None if drawn is None else -drawn[:, None],
        )

    def divergence(self, x: Examined) -> Tensor:
        """The mean of KL(pi || pi_old) over the states, new against old; squashing leaves it."""
        mean, log_std = self.policy.gaussian(x.s)
        return normal_kl(mean, log_std, x.mean, x.log_std).sum(-1).mean()

    def value_loss(self, x: Examined) -> Tensor:
        """Half the squared error of values, the worse of clipped and free ones."""
        value = self.values(x.s)
        error = (value - x.target).square()
        if self.value_clip is not None:
            near = x.value + (value - x.value).clamp(-self.value_clip, self.value_clip)
            error = torch.maximum(error, (near - x.target).square())
        return 0.5 * error.sum(-1).mean()

    def minibatches(self, x: Examined, generator: torch.Generator) -> Iterator[Examined]:
        """All rows once, in random order."""
        device = x.s.device
        order = torch.randperm(len(x.s), generator=generator, device=device)
        for index in torch.split(order, self.minibatch_size):
            yield x.take(index)

    def descend(self, loss: Tensor) -> None:
        """One gradient step; parameters that the loss does not reach stay."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm)
        self.optimizer.step()


def standardised(x: Tensor) -> Tensor:
    """(x - mean) / std over all rows."""
    std, mean = torch.std_mean(x, correction=0)
    return (x - mean) / (std + _EPSILON)


def _explained(value: Tensor, target: Tensor) -> Tensor:
    """The share of the targets' variance that values knew of before they learned."""
    rest = (target - value).var(correction=0)
    return 1 - rest / (target.var(correction=0) + _EPSILON)


def _check(policy: ActorPolicy, name: str) -> None:
    if not isinstance(policy, ActorPolicy):
        raise TypeError(f"{name} trains an ActorPolicy (policy=actor), got {type(policy).__name__}")
    if policy.kind not in KINDS or policy.balance is not None:
        raise ValueError(
            f"{name} needs policy.kind among {KINDS} and no policy.coefficient_range, got "
            f"{policy.kind!r}: it must know how likely each of its actions was"
        )
