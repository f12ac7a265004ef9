"""Preferences of the sampler's own steps: which of the next samples of a denoiser is better."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from embodied.algorithms.preference import FRESH, Preference, pairs_in
from embodied.algorithms.reward_fit import Compared, judge
from embodied.algorithms.segment_answers import chunks, named
from embodied.feedback import Pairs
from embodied.heads.base import Denoiser, ScoreHead, over_actions
from embodied.heads.forks import Fork, forks
from embodied.networks.rewards import RewardEnsemble
from embodied.noise import Noise
from embodied.objectives.bradley_terry import reward_loss
from embodied.policies.base import Policy
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Batch, Condition, Metrics, Observation

_STREAM = 0x590
"""Keeps the rewards' beginning apart from the noise, which has the same seed."""


class SPO(Preference):
    """Step-aware preference optimisation (SPO, Liang et al. 2024, arXiv:2406.04314).

    Three stages. All steps are imitated, as by `Preference`. Then a step-aware preference model
    learns rewards r(o, x_t, sigma) of noised chunks: the chunks of two segments that were compared
    are noised to one level, and the sums of their rewards explain the label. Then the policy's
    sampler runs on recorded observations. From an x_t come several x_t-1, the model's best and
    worst of which are a pair for the loss of log-ratios p(x_t-1 | x_t) / p_ref(x_t-1 | x_t); a
    random one goes on, so that no step profits from what was chosen before it.

    Departures from the published code. The model sees noised chunks, not what the denoiser expects
    of them, and both members of a pair have noise of their own: then it is as unsure as the noise
    makes it, and few pairs are kept where there is much. Log-probabilities are sums over a chunk,
    as in the paper, not means over its numbers. The last step, to no noise, has no density and is
    not learned. One gradient step uses all that was sampled.

    Args:
        policy: a `ChunkPolicy` with a `ScoreHead`.
        reward_steps: of the second stage.
        num_candidates: K.
        num_steps: of the sampler while it learns, on the head's schedule; how the policy acts stays
            as it is.
        skipped_steps: at the beginning, where nothing is compared.
        min_gap: how much likelier the model must find it that the best is preferred to the worst
            than the opposite, in [0, 1). The code has 0.3, for images; chunks differ by less.
        num_chains: rows of a batch whose observations are sampled for.
        num_members, hidden: of the `RewardEnsemble`.
        reward_learning_rate: of its Adam.
        options: of `Preference`.
    """

    policy: ChunkPolicy
    reference: ChunkPolicy

    def __init__(
        self,
        policy: Policy,
        *,
        steps: int,
        imitation_steps: int,
        reward_steps: int = 1000,
        num_candidates: int = 4,
        num_steps: int = 20,
        skipped_steps: int = 4,
        min_gap: float = 0.02,
        num_chains: int = 32,
        num_members: int = 3,
        hidden: Sequence[int] = (256, 256, 256),
        reward_learning_rate: float = 3e-4,
        seed: int = 0,
        **options: Any,
    ) -> None:
        head = _score_head(policy)
        if num_candidates < 2 or num_chains < 1:
            raise ValueError(
                "algorithm.num_candidates must be at least 2 and num_chains at least 1, got "
                f"{num_candidates} and {num_chains}"
            )
        if not 0 <= skipped_steps < num_steps - 1:
            raise ValueError(
                f"algorithm.skipped_steps must lie in [0, {num_steps - 1}), since the last of "
                f"num_steps={num_steps} adds no noise, got {skipped_steps}"
            )
        if not 0 <= min_gap < 1:
            raise ValueError(f"algorithm.min_gap must lie in [0, 1), got {min_gap}")
        if not 1 <= reward_steps <= steps - imitation_steps:
            raise ValueError(
                f"algorithm.reward_steps must lie in [1, {steps - imitation_steps}] (train.steps "
                f"less imitation_steps), got {reward_steps}"
            )
        super().__init__(policy, steps=steps, imitation_steps=imitation_steps, seed=seed, **options)
        self.begins = imitation_steps + reward_steps
        self.num_candidates, self.skipped_steps = num_candidates, skipped_steps
        self.min_gap, self.num_chains = min_gap, num_chains
        self.sigmas = head.noise_levels(num_steps).to(self.world.device)
        with torch.random.fork_rng():
            torch.manual_seed(seed ^ _STREAM)
            self.rewards = RewardEnsemble(
                policy.obs_horizon * policy.spec.state_dim + 1,  # the level of noise besides
                policy.pred_horizon * policy.spec.action_dim,
                num_members=num_members,
                hidden=hidden,
            ).to(self.world.device)
        self.parts["rewards"] = self.rewards
        # Policy and rewards never learn at one step: who has no gradient is left as it is.
        self.optimizer.add_param_group(
            {"params": list(self.rewards.parameters()), "lr": reward_learning_rate}
        )

    def _compare(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        self.policy.eval()  # dropout would change the likelihoods
        noise = self._noise(step)()
        if step >= self.begins:
            return self.step_loss(batch, noise)
        pairs = pairs_in(batch)
        if step == self.imitation_steps:
            seen = self._noised(batch, self._levels(len(batch.action), noise), noise)
            self.rewards.fit_normalizer(*(x.flatten(0, 1) for x in seen))
        found = self.compared(pairs, noise)
        loss, metrics = reward_loss(self.rewards(found.state, found.action), found.label)
        return loss, {"reward/loss": metrics["reward/loss"]}

    # The step-aware preference model

    def compared(self, pairs: Pairs, noise: Noise) -> Compared:
        """Comparisons as the model sees them, the chunks of both segments noised to one level."""
        rows = len(pairs.second_better)
        level = self._levels(rows, noise)
        sides = []
        for side in (pairs.first, pairs.second):
            cut = chunks(side, self.policy)
            seen = self._noised(cut, level.repeat_interleave(len(cut.action) // rows), noise)
            sides.append([x.reshape(rows, -1, x.shape[-1]) for x in seen])
        state, action = (torch.stack(x, 1) for x in zip(*sides, strict=True))
        return Compared(state, action, pairs.second_better)

    def _levels(self, rows: int, noise: Noise) -> Tensor:
        """(B,) of the levels at which candidates are judged, all as likely."""
        levels = self.sigmas[self.skipped_steps + 1 : -1]
        u = noise.uniform(rows, device=levels.device)
        return levels[(u * len(levels)).long().clamp(max=len(levels) - 1)]

    def _noised(self, batch: Batch, sigma: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """A batch's chunks under noise of sigma (B,), as `_inputs`, with K = 1."""
        action = self.policy.normalized(batch)
        drawn = noise.normal(*action.shape, device=action.device)
        x = action + over_actions(sigma) * drawn
        return self._inputs(batch.observation, x[:, None], sigma[:, None])

    def _inputs(self, observation: Observation, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """State and action, (B, K, ...), that the rewards are given for K chunks in each state.

        Args:
            x: (B, K, H, A), normalised, under noise of sigma, (B, 1) or 0-d.
        """
        sigma = sigma.expand(x.shape[:2])[..., None]
        state = observation.state.flatten(1)[:, None].expand(-1, x.shape[1], -1)
        scaled = x.flatten(2) * (1 + sigma.square()).rsqrt()  # of one size at all levels
        return torch.cat([state, sigma.log()], -1), scaled

    # The policy

    def step_loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Metrics]:
        """The loss of pairs, of all steps; those whose members the model does not tell apart count
        as 0, so that a round with few others moves little."""
        found = []
        for fork in self.chains(batch, noise, skipped=self.skipped_steps):
            score = self.score_candidates(batch.observation, fork)
            best, worst = (fork.answers(number) for number in (score.argmax(1), score.argmin(1)))
            gap = torch.tanh((score.amax(1) - score.amin(1)) / 2)  # p - (1 - p), p = sigmoid(gap)
            found.append((self.loss(best, worst), best.delta() - worst.delta(), gap))
        loss, margin, gap = (torch.cat(x) for x in zip(*found, strict=True))
        kept = gap > self.min_gap
        count = kept.sum().clamp(min=1)
        return (loss * kept).mean(), {
            "preference/loss": (loss * kept).sum().detach() / count,
            "preference/margin": (margin * kept).sum().detach() / count,
            "preference/gap": gap.mean(),
            "preference/kept": kept.float().mean(),
        }

    def chains(self, batch: Batch, noise: Noise, *, skipped: int) -> Iterator[Fork]:
        """The steps of the sampler on a batch's first observations."""
        rows = min(self.num_chains, len(batch.action))
        observation, condition = batch.observation.rows(0, rows), batch.condition.rows(0, rows)
        own, reference = (
            _clean(each, observation, condition) for each in (self.policy, self.reference)
        )
        start = noise.normal(rows, *batch.action.shape[1:], device=batch.action.device)
        return forks(
            own,
            reference,
            self.sigmas,
            start,
            noise,
            num_candidates=self.num_candidates,
            skipped=skipped,
        )

    @torch.no_grad()
    def score_candidates(self, observation: Observation, fork: Fork) -> Tensor:
        """(B, K), the mean of the ensemble, in the first B states of a batch."""
        here = observation.rows(0, len(fork.x))
        found: Tensor = self.rewards(*self._inputs(here, fork.candidates, fork.next_sigma))
        return found.mean(0)

    @torch.no_grad()
    def path_divergence(self, batch: Batch, noise: Noise) -> Tensor:
        """KL(policy || reference) of all that the sampler passes through, 0-d, nats for a decision:
        a sum over its steps, which bounds that of the actions from above.

        Errors, by which `Preference` estimates it, say little of a denoiser that learns to move
        samples and no longer to denoise.
        """
        self.policy.eval()
        steps = self.chains(batch, noise, skipped=0)
        found = [((x.mean - x.other_mean) / x.std).square().flatten(1).sum(1) / 2 for x in steps]
        return torch.stack(found).sum(0).mean()

    def take_metrics(self) -> Metrics:
        """As `Preference`, but the divergence is the path's; and how well the rewards foretell
        comparisons held out, under noise."""
        batch = self._last
        if batch is None or batch.held_out is None or self._step < self.imitation_steps:
            return {}
        with torch.no_grad():
            seen = self.compared(batch.held_out, self._noise(FRESH)())
        metrics = {**super().take_metrics(), **judge(self.rewards, seen)}
        if self._step >= self.begins:
            metrics["reference/kl"] = self.path_divergence(batch, self._noise(FRESH)())
        return metrics


def _score_head(policy: Policy) -> ScoreHead:
    """Raises TypeError for a policy without one, and for one that comparisons say too little to."""
    head = policy.head if isinstance(policy, ChunkPolicy) else policy
    if not isinstance(head, ScoreHead) or policy.sees_past_actions:
        raise TypeError(
            "spo compares what random steps of a sampler lead to: it needs policy=chunk with a "
            f"head that takes such (head=edm, ddpm or ddpm_unet), got {named(policy)}"
        )
    return head


def _clean(policy: ChunkPolicy, observation: Observation, condition: Condition) -> Denoiser:
    return _score_head(policy).clean(policy.denoiser(observation, condition))
